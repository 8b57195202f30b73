"""What a contract test gives to the kit, and what the clauses of the kit are written with."""

from __future__ import annotations

import functools
import random
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from imagebroker.backends.backend import Context, ImageBackend, ImageSource
from imagebroker.broker import Broker
from imagebroker.config.settings import Section
from imagebroker.exceptions import RangeIgnored
from imagebroker.model.reference import ImageRef, in_form, parse
from imagebroker.testing.fakes.fixed_registry import Classes, FixedBroker, make_config
from imagebroker.testing.harness.background import BackgroundCall, ReadResult
from imagebroker.testing.harness.resources import ResourceSnapshot, leaked_since
from imagebroker.testing.harness.tap import LOOPBACK, Tap, TappedHost, TappedSettings

if TYPE_CHECKING:
    from testtools import TestCase
else:
    TestCase = object  # a mixin: the subclass brings the test case

T = TypeVar("T")
Hook = TypeVar("Hook", bound=Callable[..., Any])

KIB, MIB = 1024, 1024 * 1024


def optional(hook: Hook) -> Hook:
    """A hook that a contract test may leave out; what needs it is then skipped with its name."""

    @functools.wraps(hook)
    def left_out(self: Hooks, *arguments: Any) -> NoReturn:
        self.skipTest(f"needs the hook {hook.__name__}")
        raise AssertionError("unreachable")

    left_out.left_out = True  # type: ignore[attr-defined]
    return left_out  # type: ignore[return-value]


class Hooks(TestCase):
    """The part of `BackendContract` that tests nothing yet."""

    #: Schemes that the class is registered for; by default its name, and what refs begin with.
    schemes: ClassVar[tuple[str, ...]] = ()
    #: Who asks.
    context: Context = None
    #: Seconds of `connect_timeout` and `stall_timeout` while the kit runs.
    connect_timeout: float = 5.0
    stall_timeout: float = 1.0
    #: Seconds in which whatever should come back must come back.
    patience: float = 20.0
    #: Seconds that `close` may take, and a pending `read` after it: as long as the core waits.
    grace: float = 2.0
    #: Seconds after which what is still there is left behind.
    settle: float = 2.0
    #: What `host.limits.chunk_size` is.
    chunk_size: int = 64 * KIB
    #: Sizes of the images that are read whole.
    sizes: ClassVar[tuple[int, ...]] = (
        0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1,
    )  # fmt: skip
    #: The last bytes of an image that `publish_sparse` makes; all before are zeros.
    SPARSE_END: ClassVar[bytes] = b"the end of it"

    # -- what a contract test must give ----------------------------------------------------------

    def make_backend(self) -> ImageBackend | type[ImageBackend]:
        """The backend: its class, or an instance made with `self.make_host(Class, option=...)`."""
        raise NotImplementedError("a contract test has a make_backend()")

    def publish(self, data: bytes) -> str:
        """Make `data` an image that the backend can read; its ref. Each call another image."""
        raise NotImplementedError("a contract test has a publish(data)")

    # -- what it may give ------------------------------------------------------------------------

    @optional
    def replace(self, ref: str, data: bytes) -> None:
        """Give a published image other bytes, as somebody else would."""

    @optional
    def forbid(self, ref: str) -> None:
        """Let the backend's own identity no longer see or read a published image."""

    @optional
    def take_away(self, ref: str) -> None:
        """Remove a published image, as somebody else would."""

    @optional
    def cut_after(self, ref: str, size: int) -> None:
        """Let the next read of an image break after about so many bytes, as a cut connection does.

        Once; later reads are whole again. Needless for backends that use `host.connect`.
        """

    @optional
    def stall_after(self, ref: str, size: int) -> None:
        """The same, but nothing comes any more and nothing ends."""

    @optional
    def publish_sparse(self, size: int) -> str:
        """An image of `size` bytes that takes no room: zeros, and at its end `SPARSE_END`."""
        raise NotImplementedError

    def missing_ref(self) -> str:
        """The ref of an image that is not there. By default made from that of one that is."""
        ref = parse(self.publish(b"present"))
        if ref.id is not None:
            return ref.text.replace(ref.id, str(uuid.uuid4()))
        return re.sub(r"(?=\?|\Z)", "-is-not-there", ref.text, count=1)

    def image_fields(self) -> dict[str, Any]:
        """What `create` is called with, beside the data."""
        return {
            "name": f"imagebroker-kit-{uuid.uuid4().hex}",
            "disk_format": "raw",
            "container_format": "bare",
        }

    # -- what a contract test calls --------------------------------------------------------------

    def make_host(self, cls: type[ImageBackend], /, **options: Any) -> TappedHost:
        """What the core would give to an instance with these options; this host may be reached."""
        self._options = {"allowed_networks": list(LOOPBACK), **options}
        return self._host(cls)

    def _host(self, cls: type[ImageBackend], instance: str | None = None) -> TappedHost:
        section = Section(cls.name, instance or self._instance)
        settings = self._settings({cls.name: cls}, section.title)
        host = settings.host(section, cls)
        self.hosts.append(host)
        return host

    def _settings(self, classes: Classes, title: str) -> TappedSettings:
        core = {
            "default_backend": next(iter(classes.values())).name,
            "connect_timeout": self.connect_timeout,
            "stall_timeout": self.stall_timeout,
            "retry_backoff": 0,
            "fsync": False,
            "allow_unknown_size": True,
            "allow_empty": True,
        }
        conf = make_config(classes, core, {title: self._options})
        return TappedSettings(conf, self.tap, self.chunk_size, [title])

    # -- what the clauses are written with -------------------------------------------------------

    _options: dict[str, Any] = {"allowed_networks": list(LOOPBACK)}
    _instance: str | None = None
    _slow_to_close: ClassVar[bool] = False

    def setUp(self) -> None:
        super().setUp()
        #: What the test has raised so far; testtools tells a plain result only its text.
        self.raised: list[Any] = []
        note = getattr(self, "addOnException", None)
        if note is not None:
            note(self.raised.append)
        self.tap = Tap()
        self.addCleanup(self.tap.close)
        #: Every host that was made.
        self.hosts: list[TappedHost] = []
        self._made: ImageBackend | None = None
        self._brokers: dict[tuple[str, ...], Broker] = {}

    @property
    def backend(self) -> ImageBackend:
        """The backend of this test."""
        if self._made is None:
            self._made = self.new_backend()
        return self._made

    @property
    def cls(self) -> type[ImageBackend]:
        return type(self.backend)

    def new_backend(self) -> ImageBackend:
        """One more backend, closed at the end of the test."""
        made = self.make_backend()
        backend = made(self._host(made)) if isinstance(made, type) else made
        self.addCleanup(self._close_quietly, backend)
        return backend

    def _close_quietly(self, closable: ImageBackend | ImageSource) -> None:
        """Close it; whether that works is for the clauses about closing to find out."""
        closing = BackgroundCall(closable.close)
        if not closing.ended(0.05 if self._slow_to_close else self.grace):
            type(self)._slow_to_close = True

    def ref(self, text: str) -> ImageRef:
        """A ref as a backend gets it."""
        return in_form(parse(text), self.cls.ref_form)

    def in_time(self, what: str, call: Callable[[], T], seconds: float | None = None) -> T:
        """The answer of a call that must not take long. :raises: what it raises."""
        running = BackgroundCall(call)
        if not running.ended(self.patience if seconds is None else seconds):
            self.fail(f"{what} has not come back after {seconds or self.patience:g} s")
        return running.answer()

    def open(self, text: str, backend: ImageBackend | None = None) -> ImageSource:
        """A source of a published image, closed at the end of the test."""
        who, ref = backend or self.backend, self.ref(text)
        source = self.in_time("open", lambda: who.open(self.context, ref))
        if isinstance(source, ImageSource):
            self.addCleanup(self._close_quietly, source)
        return source

    @contextmanager
    def opened(self, text: str, backend: ImageBackend | None = None) -> Iterator[ImageSource]:
        """A source of a published image, closed at the end of the block."""
        source = self.open(text, backend)
        try:
            yield source
        finally:
            self._close_quietly(source)

    def take(
        self,
        source: ImageSource,
        start: int = 0,
        stop: int | None = None,
        most: int | None = None,
    ) -> ReadResult:
        """What a read yields until it ends, raises, or has yielded `most` bytes."""
        taken = ReadResult()
        return self.in_time(f"read({start}, {stop})", lambda: taken.take(source, start, stop, most))

    def bytes_of(self, source: ImageSource, start: int = 0, stop: int | None = None) -> bytes:
        """All bytes of a read that must end well."""
        taken = self.take(source, start, stop)
        if taken.error is not None:
            raise taken.error
        return bytes(taken.data)

    def read_from(self, source: ImageSource, start: int, stop: int | None = None) -> bytes:
        """The same, of a source that may find out only now that its peer knows no ranges."""
        try:
            return self.bytes_of(source, start, stop)
        except RangeIgnored as error:
            if source.seekable:
                self.fail(f"the source is still seekable after {error!r}")
            self.skipTest("the peer knows no ranges")
            raise AssertionError("unreachable") from error

    def error_of(
        self, what: str, call: Callable[[], Any], seconds: float | None = None
    ) -> Exception:
        """What a call raises that must fail."""
        try:
            answer = self.in_time(what, call, seconds)
        except self.failureException:
            raise
        except Exception as error:
            return error
        self.fail(f"{what} returned {answer!r:.80}")
        raise AssertionError("unreachable")

    def broker(self, *refs: str) -> Broker:
        """A broker with this backend, for these refs."""
        cls, schemes = self.cls, self._schemes_of(refs)
        if schemes not in self._brokers:
            classes = dict.fromkeys(schemes, cls)
            broker = FixedBroker(self._settings(classes, cls.name), classes)
            self.addCleanup(broker.close)
            self._brokers[schemes] = broker
        return self._brokers[schemes]

    def _schemes_of(self, refs: Iterable[str]) -> tuple[str, ...]:
        name = self.cls.name
        return self.schemes or tuple(
            dict.fromkeys([name, *(parse(ref).scheme or name for ref in refs)])
        )

    def instance_broker(self, title: str, *refs: str) -> Broker:
        """A broker whose only section is `[backend:<title>]`, for these refs."""
        classes = dict.fromkeys(self._schemes_of(refs), self.cls)
        broker = FixedBroker(self._settings(classes, title), classes)
        self.addCleanup(broker.close)
        return broker

    def assert_same(self, found: bytes | bytearray, data: bytes, what: str) -> None:
        """Compare bytes, and say where they differ rather than show them."""
        if found == data:
            return
        if len(found) != len(data):
            self.fail(f"{what}: {len(found)} bytes instead of {len(data)}")
        at = next(i for i, pair in enumerate(zip(found, data, strict=True)) if pair[0] != pair[1])
        self.fail(f"{what}: other bytes from byte {at} of {len(data)} on")

    def leaked_since(self, before: ResourceSnapshot, allowed: int = 0) -> str:
        """Leaked resources as text; empty if they are within the limit."""
        return ", ".join(leaked_since(before, allowed, self.settle))

    def has_hook(self, name: str) -> bool:
        return not getattr(getattr(type(self), name), "left_out", False)

    def needs(self, *hooks: str) -> None:
        """Skip the test unless the contract test has these hooks."""
        missing = [name for name in hooks if not self.has_hook(name)]
        if missing:
            self.skipTest(f"needs the hook {' and '.join(missing)}")


@functools.lru_cache(maxsize=32)
def random_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes that depend on their number and the seed alone, and do not repeat."""
    return random.Random(seed * 1_000_003 + size).randbytes(size)  # noqa: S311 - not a secret
