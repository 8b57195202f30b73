"""Scheme to backend: finds the plugins, loads the enabled ones when they are first needed.

Entry points are read with `importlib.metadata` rather than stevedore's cache, which misses an
edit for two minutes and cannot say which distribution a plugin comes from; stevedore's managers
then load the one that is asked for, so that nothing else is imported.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import os
import re
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from imagebroker.backend import API_VERSION, BackendHost, ImageBackend
from imagebroker.boundary import Boundary
from imagebroker.config import (
    CORE_OPTIONS,
    GROUP,
    PREFIX,
    Section,
    Settings,
    backend_options,
    reloadable,
)
from imagebroker.exceptions import BackendLoadError, ConfigError, ImageBrokerError, SchemeNotEnabled
from imagebroker.reference import RefForm

LOG = logging.getLogger(__name__)

ENTRY_POINTS = "imagebroker.backends"
#: Seconds after which an import that is still running is worth a line in the log.
SLOW_IMPORT = 5.0


@dataclass(frozen=True)
class BackendInfo:
    """What is known about an installed or enabled scheme; `imagebroker backends` shows it."""

    scheme: str
    distribution: str | None
    version: str | None
    enabled: bool
    #: The verbs it has; None if it is not enabled (its class is then not even imported).
    capabilities: tuple[str, ...] | None
    #: Why it cannot be used, and what to do; None if it can.
    problem: str | None = None
    remedy: str | None = None


class Registry:
    """The backends of one broker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found = find_entry_points()
        enabled = settings.core.enabled_schemes
        if settings.personal and not enabled:
            enabled = sorted(self._found)
        self.enabled: tuple[str, ...] = tuple(dict.fromkeys(enabled))
        self._classes: dict[str, type[ImageBackend]] = {}
        self._backends: dict[str, Boundary] = {}
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.RLock()
        _registries.add(self)
        #: Calls and readers that use it.
        self._users = 0
        self._retired = False

    def check_schemes(self) -> None:
        """Refuse a configuration that no plugin, or more than one, could serve.

        :raises ConfigError: names the scheme, and the distributions where there are two.
        """
        for scheme in self.enabled:
            problem = self._scheme_problem(scheme)
            if problem is not None and not self._settings.personal:
                raise problem

    def _scheme_problem(self, scheme: str) -> ConfigError | None:
        points = self._found.get(scheme, ())
        if not points:
            return ConfigError(
                f"enabled_schemes names {scheme!r}, and no installed distribution provides it",
                hint=f"{_unprovided(scheme, self._found)}; installed are: {_list(self._found)}",
                option="enabled_schemes",
                scheme=scheme,
            )
        if len(points) > 1:
            return ConfigError(
                f"the scheme {scheme!r} is provided by {' and '.join(map(_origin, points))}",
                hint=f"keep one: pip uninstall {_distribution(points[-1])} (or "
                f"{_distribution(points[0])})",
                option="enabled_schemes",
                scheme=scheme,
            )
        return None

    def check_enabled(self, scheme: str) -> None:
        """:raises SchemeNotEnabled: with the schemes that are."""
        if scheme in self.enabled:
            return
        enabled = f"enabled are: {_list(self.enabled)}"
        near = _near(scheme, self.enabled)
        if scheme in self._found:
            line = ", ".join((*self.enabled, scheme))
            hint = f"add it in [{GROUP}]: enabled_schemes = {line}"
        elif near:
            hint = f"did you mean {near}? {enabled}"
        else:
            hint = f"{_unprovided(scheme, self._found)}; {enabled}"
        raise SchemeNotEnabled(
            f"the scheme {scheme!r} is not enabled" if scheme in self._found else
            f"the scheme {scheme!r} is unknown: no installed distribution provides it",
            hint=hint, option="enabled_schemes", scheme=scheme,
        )  # fmt: skip

    def sections(self) -> list[Section]:
        """The sections whose backend is enabled, also through another scheme of its class."""
        return [s for s in self._settings.sections() if self._scheme_of(s.name) is not None]

    def _scheme_of(self, name: str) -> str | None:
        """An enabled scheme that the backend called `name` serves, found without an import."""
        if name in self.enabled:
            return name
        values = {point.value for point in self._found.get(name, ())}
        for scheme in self.enabled:
            if any(point.value in values for point in self._found.get(scheme, ())):
                return scheme
        return None

    def backend_class(self, scheme: str) -> type[ImageBackend]:
        """The class behind an enabled scheme, imported at the first call.

        :raises SchemeNotEnabled, BackendLoadError, ConfigError: as named.
        """
        self.check_enabled(scheme)
        with self._lock:
            lock = self._locks[scheme]
        with lock:  # per scheme: an import that takes a minute holds up nobody else
            if scheme not in self._classes:
                problem = self._scheme_problem(scheme)
                if problem is not None:
                    raise problem
                self._classes[scheme] = _load(self._found[scheme][0], self._found)
            return self._classes[scheme]

    def backend(self, section: Section) -> Boundary:
        """The backend of an instance, made at the first call.

        :raises SchemeNotEnabled: not enabled, or the instance is not configured.
        :raises BackendLoadError, ConfigError: it is, and cannot be used.
        """
        scheme = self._scheme_of(section.name)
        if scheme is None:
            self.check_enabled(section.name)
            raise AssertionError("unreachable")
        cls = self.backend_class(scheme)
        section = Section(cls.name, section.instance)
        if section.instance is not None and section not in self._settings.sections():
            raise SchemeNotEnabled(
                f"no instance {section.title!r} is configured",
                hint=self._instances_hint(section),
                scheme=scheme,
            )
        with self._lock:
            lock = self._locks[section.group]
        with lock:
            if section.title not in self._backends:
                self._backends[section.title] = self._make(cls, section, scheme)
            return self._backends[section.title]

    def _instances_hint(self, section: Section) -> str:
        there = [s.title for s in self._settings.sections() if s.name == section.name]
        near = _near(section.title, there)
        return (
            (f"did you mean {near}? " if near else "")
            + f"add a section [{section.group}]"
            + (f"; configured are: {_list(there)}" if there else "")
        )

    def _make(self, cls: type[ImageBackend], section: Section, scheme: str) -> Boundary:
        options = self._settings.backend(section, cls.options, cls.require_checksum)
        host = BackendHost(
            name=section.name,
            options=options,
            instance=section.instance,
            limits=self._settings.limits,
            personal=self._settings.personal,
            policy=self._settings.policy(section, options),
        )
        names = tuple(options)

        def locate(error: ImageBrokerError) -> None:
            self._settings.locate(error, section, names)

        return Boundary(cls, host, _origin(self._found[scheme][0]), locate)

    def distributions(self) -> list[str]:
        """The names of the distributions whose plugins are enabled."""
        points = (point for scheme in self.enabled for point in self._found.get(scheme, ()))
        return sorted({point.dist.name for point in points if point.dist})

    def describe(self) -> list[BackendInfo]:
        """Every scheme that is installed or enabled. Enabled plugins are loaded to find out."""
        return [self._describe(scheme) for scheme in sorted({*self._found, *self.enabled})]

    def _describe(self, scheme: str) -> BackendInfo:
        points = self._found.get(scheme, ())
        names = " and ".join(point.dist.name for point in points if point.dist) or None
        versions = " and ".join(point.dist.version for point in points if point.dist) or None
        enabled = scheme in self.enabled
        problem = self._scheme_problem(scheme)
        capabilities: tuple[str, ...] | None = None
        error: ImageBrokerError | None = problem if enabled or len(points) > 1 else None
        if enabled and error is None:
            try:
                cls = self.backend_class(scheme)
                capabilities = capabilities_of(cls)
                self.backend(Section(cls.name, None))
            except ImageBrokerError as found:
                error = found
        return BackendInfo(
            scheme, names, versions, enabled, capabilities,
            str(error) if error else None, (error.hint or None) if error else None,
        )  # fmt: skip

    def hold(self) -> bool:
        """Somebody uses it from now on, until `let_go`; False if it is about to be closed."""
        with self._lock:
            if self._retired and not self._users:
                return False
            self._users += 1
            return True

    def let_go(self) -> None:
        with self._lock:
            self._users = max(self._users - 1, 0)  # in a child process it began at 0
            unused = self._retired and not self._users
        if unused:
            # Not here: the garbage collector may be who calls.
            threading.Thread(target=self.close, name="imagebroker-close", daemon=True).start()

    def retire(self) -> None:
        """Nobody new will use it: close it when its last user has let go."""
        with self._lock:
            self._retired = True
            unused = not self._users
        if unused:
            self.close()

    def close(self) -> None:
        """Close every backend that was made."""
        with self._lock:
            backends, self._backends = list(self._backends.values()), {}
        for backend in backends:
            backend.close()

    def begin_anew(self) -> None:
        """In the child of a fork: backends are made again, with connections of their own."""
        _inherited.extend(self._backends.values())
        self._backends = {}
        self._users = 0
        self._locks, self._lock = defaultdict(threading.Lock), threading.RLock()


_registries: weakref.WeakSet[Registry] = weakref.WeakSet()
#: The parent process's backends. They are not even closed here: on a connection that both
#: processes have, that would say goodbye in the parent's name.
_inherited: list[Boundary] = []


def _after_fork_in_child() -> None:
    for registry in list(_registries):
        registry.begin_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)


def find_entry_points() -> dict[str, tuple[importlib.metadata.EntryPoint, ...]]:
    """The installed plugins by scheme; more than one where distributions disagree."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = defaultdict(list)
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        found[point.name].append(point)
    return {scheme: tuple(points) for scheme, points in found.items()}


def _origin(point: importlib.metadata.EntryPoint) -> str:
    try:
        return f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    except OSError:
        return point.value  # its metadata cannot be read now: a name is all that is lost


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _near(name: str, names: Iterable[str]) -> str:
    """The name that was probably meant; empty if none is near."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)), "")


def _unprovided(scheme: str, found: Iterable[str]) -> str:
    """What to do about a scheme that no installed distribution provides."""
    if near := _near(scheme, found):
        return f"did you mean {near}?"
    return (
        f"install the distribution that brings {scheme!r}, or write one: "
        f"`imagebroker backend new {scheme}` makes a complete one to begin with"
    )


def _load(
    point: importlib.metadata.EntryPoint,
    found: dict[str, tuple[importlib.metadata.EntryPoint, ...]],
) -> type[ImageBackend]:
    """Import one plugin and look at what came.

    :raises BackendLoadError: the import fails, or it is no backend of this API.
    """
    # Only now: stevedore's cache module costs start-up that a mere `--version` should not pay.
    from stevedore.named import NamedExtensionManager

    class OnePlugin(NamedExtensionManager):  # type: ignore[type-arg]
        def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
            return [point]

    failures: list[BaseException] = []
    slow = threading.Timer(
        SLOW_IMPORT,
        LOG.warning,
        ("importing the plugin %s (%s) takes long", point.name, point.value),
    )
    slow.daemon = True
    slow.start()
    try:
        manager = OnePlugin(
            ENTRY_POINTS,
            [point.name],
            on_load_failure_callback=lambda _, __, error: failures.append(error),
            on_missing_entrypoints_callback=None,
        )
    except (AssertionError, SystemExit) as error:  # which stevedore lets through
        failures.append(error)
    finally:
        slow.cancel()
        slow.join()
    if failures:
        raise _unloadable(
            point,
            f"cannot be imported: {type(failures[0]).__name__}: {failures[0]}",
            _missing_extra(point, failures[0]),
        ) from failures[0]
    return _checked_class(point, manager[point.name].plugin, found)


def _unloadable(
    point: importlib.metadata.EntryPoint, why: str, remedy: str = ""
) -> BackendLoadError:
    return BackendLoadError(
        f"the plugin {point.value} for {point.name!r} from {_origin(point)} {why}",
        hint=remedy
        or f"reinstall or update it (pip install --upgrade {_distribution(point)}), or remove "
        f"{point.name!r} from enabled_schemes",
        option="enabled_schemes",
        scheme=point.name,
    )


def _missing_extra(point: importlib.metadata.EntryPoint, error: BaseException) -> str:
    """The command that installs what the import of a plugin misses, if its metadata says so."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or point.dist is None:
        return ""
    missing = error.name.partition(".")[0].lower().replace("-", "_")
    for requirement in point.dist.requires or ():
        wanted = re.match(r"[A-Za-z0-9._-]+", requirement)
        if wanted is None or wanted[0].lower().replace("-", "_") != missing:
            continue
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if extra:
            return f"pip install '{point.dist.name}[{extra[1]}]'"
        return f"pip install '{wanted[0]}'"
    return f"install the distribution that has the module {error.name!r}"


def _checked_class(
    point: importlib.metadata.EntryPoint,
    plugin: Any,
    found: dict[str, tuple[importlib.metadata.EntryPoint, ...]],
) -> type[ImageBackend]:
    if not isinstance(plugin, type) or not issubclass(plugin, ImageBackend):
        raise _unloadable(point, f"is {plugin!r:.80}, not a subclass of ImageBackend")
    missing = sorted(getattr(plugin, "__abstractmethods__", ()))
    if missing:
        raise _unloadable(point, f"does not implement {', '.join(missing)}")
    version = getattr(plugin, "api_version", None)
    if isinstance(version, bool) or not isinstance(version, int):
        raise _unloadable(point, f"has the api_version {version!r}; this core speaks {API_VERSION}")
    if not 1 <= version <= API_VERSION:
        raise _unloadable(
            point, f"was written for version {version} of the plugin API; this core speaks "
            f"1 to {API_VERSION}"
        )  # fmt: skip
    if not isinstance(getattr(plugin, "ref_form", None), RefForm):
        raise _unloadable(point, "has no ref_form")
    name = getattr(plugin, "name", None)
    if name != point.name and not any(p.value == point.value for p in found.get(str(name), ())):
        raise _unloadable(point, f"calls itself {name!r}, a name that is not its own")
    return plugin


#: The optional verbs, in the order in which they are shown.
_VERBS = ("get", "get_all", "create", "update", "delete", "import_image", "purge")


def capabilities_of(cls: type[ImageBackend]) -> tuple[str, ...]:
    """The verbs that a backend has: a method that its class overrides. All can download."""
    own = [verb for verb in _VERBS if getattr(cls, verb) is not getattr(ImageBackend, verb)]
    return ("download", *own)


def installed_backends() -> Iterator[type[ImageBackend]]:
    """The class of every installed plugin that can be imported, each once."""
    found, seen = find_entry_points(), set()
    for scheme in sorted(found):
        try:
            cls = _load(found[scheme][0], found)
        except BackendLoadError as error:
            LOG.warning("%s", error)
            continue
        if cls not in seen:
            seen.add(cls)
            yield cls


def list_opts() -> Iterator[tuple[Any, Sequence[Any]]]:
    """Every option of the core and of all installed plugins, for oslo.config's generator."""
    yield GROUP, CORE_OPTIONS
    for backend in installed_backends():
        yield (
            PREFIX + backend.name,
            [*backend_options(backend.require_checksum), *reloadable(backend.options)],
        )
