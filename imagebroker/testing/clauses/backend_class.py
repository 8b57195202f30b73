"""Clauses C1 to C8: what can be said of a backend's class before it has opened anything."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import time
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any

from oslo_config import cfg, types

from imagebroker.backends.backend import API_VERSION, ImageBackend, ImageSource
from imagebroker.backends.entry_points import entry_points
from imagebroker.config.options import backend_options
from imagebroker.exceptions import ConfigError, UnsupportedOperation
from imagebroker.model.reference import RefForm, in_form, parse
from imagebroker.registry import ENTRY_POINTS
from imagebroker.testing.harness.audit import CHILDREN, FILES, NETWORK, Event, record_events
from imagebroker.testing.harness.background import BackgroundCall
from imagebroker.testing.harness.resources import ResourceSnapshot
from imagebroker.testing.hooks import Hooks, random_bytes

#: The arguments of each verb that a class may override: as the core passes them.
_CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "open": ((None, None), {}),
    "get": ((None, None), {"include_locations": False, "show_deleted": False}),
    "get_all": ((None, None), {}),
    "create": ((None, None, None), {}),
    "update": ((None, None, {}, None, False), {}),
    "delete": ((None, None), {}),
    "close": ((), {}),
}
_SECRET_NAMES = re.compile(r"(password|passphrase|secret|token|api_key|private_key)\Z")


class ClassClauses(Hooks):
    """C1 to C8."""

    def test_c1_its_entry_points_lead_to_this_class(self) -> None:
        """The broker would serve the scheme with another class, or not at all."""
        points = _points(self.cls)
        if not points:
            self.skipTest("the class is not installed: no entry point names it")
        for point in points:
            self.assertIs(self.cls, point.load(), f"{point.name} = {point.value}")
        if self.cls.name not in {point.name for point in points}:
            self.fail(f"no entry point is called {self.cls.name!r}, as the class is")

    def test_c2_it_is_a_complete_backend(self) -> None:
        """The broker would refuse to load it."""
        self.assertTrue(issubclass(self.cls, ImageBackend), f"{self.cls} is no ImageBackend")
        self.assertEqual([], sorted(self.cls.__abstractmethods__))

    def test_c3_api_version_is_a_number_of_its_own(self) -> None:
        """It would claim to speak whatever the installed core speaks, and break with the next."""
        own = vars(self.cls).get("api_version")
        if own is None:
            self.fail(f"{self.cls.__name__} has no api_version of its own; write api_version = 1")
        if isinstance(own, bool) or not isinstance(own, int) or not 1 <= own <= API_VERSION:
            self.fail(f"api_version is {own!r}; this core speaks 1 to {API_VERSION}")
        written = _written(self.cls, "api_version")
        if written is not None and not isinstance(written, ast.Constant):
            self.fail(f"api_version is written as {ast.unparse(written)}; write the number")

    def test_c4_name_is_a_scheme_that_its_refs_begin_with(self) -> None:
        """Otherwise deployers do not find the section of its options."""
        name = self.cls.name
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9+.-]{0,31}", name):
            self.fail(f"name is {name!r}, which no ref can begin with")
        ref = self.publish(b"named")
        scheme = parse(ref).scheme
        allowed = {name, *self.schemes, *_registered(self.cls)}
        if scheme not in allowed:
            self.fail(f"{ref} begins with {scheme}, and the backend serves {sorted(allowed)}")

    def test_c5_its_own_refs_fit_its_ref_form(self) -> None:
        """Users would be told that their correct refs are malformed."""
        if not isinstance(self.cls.ref_form, RefForm):
            self.fail(f"ref_form is {self.cls.ref_form!r}, not a RefForm")
        ref = self.publish(b"formed")
        in_form(parse(ref), self.cls.ref_form)
        self.assertEqual(ref, self.broker(ref).resolve(ref).ref.text)

    def test_c6_its_options_are_documented_and_its_own(self) -> None:
        """The sample configuration would be wrong, or a password would be printed."""
        common = {option.dest for option in backend_options()}
        seen: set[str] = set()
        for option in self.cls.options:
            if not isinstance(option, cfg.Opt):
                self.fail(f"options holds {option!r}, not an oslo.config option")
            if option.dest in common:
                self.fail(f"the option {option.name} is the core's: do not declare it again")
            if option.dest in seen:
                self.fail(f"the option {option.name} is declared twice")
            if not (option.help or "").strip():
                self.fail(f"the option {option.name} has no help")
            text = isinstance(option.type, types.String)
            if text and _SECRET_NAMES.search(option.dest) and not option.secret:
                self.fail(f"the option {option.name} needs the argument secret, of True")
            seen.add(option.dest)

    def test_c6_defaults_can_be_used(self) -> None:
        """Nobody could use it without setting options that should have a default."""
        self._options = {}
        try:
            self.cls(self._host(self.cls))
        except ConfigError as error:
            if not error.hint:
                self.fail(f"a required option is missing, and no hint says which: {error}")

    def test_c7_the_constructor_does_no_io(self) -> None:
        """A broker would hang at start because one server is down."""
        host = self._host(self.cls)
        values = [str(value) for value in host.options.values()]
        before, began = ResourceSnapshot.now(), time.monotonic()
        with record_events() as recorded:
            backend = self.in_time("__init__", lambda: self.cls(host))
        self.addCleanup(self._close_quietly, backend)
        done = recorded.of(NETWORK | CHILDREN)
        done += [event for event in recorded.of(FILES) if not _is_configured(event, values)]
        if done:
            self.fail(f"the constructor did {'; '.join(map(str, done))}")
        if left := self.leaked_since(before):
            self.fail(f"the constructor started or opened {left}")
        if time.monotonic() - began > 5:
            self.fail(f"the constructor took {time.monotonic() - began:.1f} s")

    def test_c7_one_instance_serves_all_threads(self) -> None:
        """Two downloads at once would get each other's bytes."""
        images = [random_bytes(200_000 + each, seed=each) for each in range(4)]
        refs = [self.publish(data) for data in images]

        def read(text: str) -> bytes:
            source = self.backend.open(self.context, self.ref(text))
            try:
                return b"".join(bytes(chunk) for chunk in source.read())
            finally:
                source.close()

        _ = self.backend  # made here, not in two threads at once
        under_way = [
            (BackgroundCall(partial(read, text)), data)
            for text, data in zip(refs * 2, images * 2, strict=True)
        ]
        for running, data in under_way:
            if not running.ended(self.patience):
                self.fail("downloads in several threads do not end")
            self.assert_same(running.answer(), data, "one of several downloads at once")

    def test_c8_its_methods_take_the_arguments_of_the_contract(self) -> None:
        """The verb would fail for every caller."""
        for verb, (arguments, named) in _CALLS.items():
            method = getattr(self.cls, verb)
            try:
                inspect.signature(method).bind(None, *arguments, **named)
            except TypeError as error:
                self.fail(f"{verb}{inspect.signature(method)} cannot be called: {error}")

    def test_c8_its_sources_read_takes_start_and_stop(self) -> None:
        """Nothing could be resumed."""
        source = self.open(self.publish(b"bound"))
        for call in ({}, {"start": 0}, {"start": 0, "stop": None}):
            inspect.signature(source.read).bind(**call)
        inspect.signature(source.read).bind(0, None)
        self.assertTrue(isinstance(source, ImageSource))

    def test_c8_what_is_left_out_is_unsupported(self) -> None:
        """A caller would get an odd error instead of being told that there is no such verb."""
        ref = self.publish(b"left out")
        broker, cls = self.broker(ref), self.cls
        calls = {
            "get_all": lambda: list(broker.get_all(self.context, backend=cls.name)),
            "create": lambda: broker.create(self.context, {}, b"data", backend=cls.name),
            "update": lambda: broker.update(self.context, ref, {"name": "other"}),
            "delete": lambda: broker.delete(self.context, ref),
        }
        for verb, call in calls.items():
            if getattr(cls, verb) is getattr(ImageBackend, verb):
                error = self.error_of(verb, call)
                if not isinstance(error, UnsupportedOperation):
                    self.fail(f"{verb} is not overridden and raises {type(error).__name__}")


def _points(cls: type[ImageBackend]) -> list[EntryPoint]:
    """The entry points that name the class, in its module or where its package re-exports it."""
    package = cls.__module__.partition(".")[0]
    named = []
    for point in entry_points(ENTRY_POINTS):
        module, _, name = point.value.partition(":")
        if name == cls.__qualname__ and module.partition(".")[0] == package:
            named.append(point)
    return named


def _registered(cls: type[ImageBackend]) -> set[str]:
    """The schemes that entry points register the class for."""
    return {point.name for point in _points(cls)}


def _written(cls: type, name: str) -> ast.expr | None:
    """What a class attribute is assigned in the source, where there is any to look at."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return None
    body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value: ast.expr | None = getattr(node, "value", None)
            return value
    return None


def _is_configured(event: Event, values: list[str]) -> bool:
    """Whether it is about a file that an option names: to look at that is to check the option."""
    return event.path is not None and any(event.path in value for value in values)
