"""The only module that calls plugin code, except for reads (`opened_source.py`).

It checks the arguments before every call and the results after it, translates foreign exceptions
and names the plugin in them, and limits the time: a call or a `read` runs in a thread of its own,
so that a plugin that never returns blocks a thread, not the caller.
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from imagebroker.backends.backend import BackendHost, ImageBackend, ImageSource
from imagebroker.backends.declaration import Declaration
from imagebroker.backends.listing import Budget
from imagebroker.backends.opened_source import GRACE, OpenedSource, close_quietly
from imagebroker.backends.running_call import RunningCall, ThreadContext
from imagebroker.backends.steps import Late, Steps
from imagebroker.backends.unwrapping import unwrapped
from imagebroker.exceptions import (
    BackendError,
    BackendLoadError,
    ImageBrokerError,
    TransferError,
    TransferTimeout,
)
from imagebroker.model.finding import FAILURE, LEVELS, Finding
from imagebroker.model.image import Image, ImageQuery
from imagebroker.model.peer import MAX_INT
from imagebroker.model.reference import ImageRef
from imagebroker.model.service import Member, Store
from imagebroker.model.upload_data import ImageData
from imagebroker.redaction import printable, redact, redact_causes, shown_error
from imagebroker.system.exhaustion import as_ours
from imagebroker.system.forks import (
    Process,
)
from imagebroker.system.handover import Handover

if TYPE_CHECKING:
    from imagebroker.backends.backend import Context

LOG = logging.getLogger(__name__)
T = TypeVar("T")

#: Maximum number of findings of one `check`.
_MAX_FINDINGS = 100


class Boundary:
    """One instance of a backend, guarded."""

    def __init__(
        self,
        declared: Declaration,
        host: BackendHost,
        origin: str,
        locate: Callable[[ImageBrokerError], None] = lambda error: None,
        grace: float = GRACE,
    ) -> None:
        """`origin`: the distribution and its version, for messages; `locate` sets `error.where`.

        `grace`: seconds that a thread has to end after its source was closed.

        :raises BackendLoadError: the constructor of the plugin failed.
        :raises ConfigError: the plugin refuses an option.
        """
        self._process = Process()
        self.declared = declared
        self.host = host
        self.origin = origin
        self.locate = locate
        self._grace = grace
        self.title = host.title
        #: Whether the deployer lets any server pass for the real one.
        self.insecure = bool(host.options.get("insecure"))
        limits = host.limits
        #: Seconds for a call that returns no image data.
        self.answer_timeout = 4 * (limits.connect_timeout + limits.stall_timeout)
        _conceal_options(declared, host)
        try:
            with host.secrets.hidden():
                self._plugin = declared.cls(host)
        except ImageBrokerError as refused:
            redact_causes(refused)
            locate(refused)
            raise
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # even SystemExit: a plugin must not end a service
            raise BackendLoadError(
                f"the {self.title} backend of {origin} cannot be created: {shown_error(error)}",
                hint="this is a bug in the plugin: report it to its authors",
                scheme=host.name,
            ) from error
        # `type`, not `isinstance`, which a plugin can fool.
        if not issubclass(type(self._plugin), declared.cls):
            made = type(self._plugin).__name__
            raise BackendLoadError(
                f"the class of the {self.title} backend of {origin} creates a {made}"
            )

    def open(
        self,
        context: Context,
        ref: ImageRef,
        start: int = 0,
        timeout: float | None = None,
        waiting: Callable[[], Any] | None = None,
    ) -> OpenedSource:
        """Open an image that will probably be read from `start` on.

        `waiting` is called repeatedly until it is open; an exception of it ends the call.

        :raises TransferTimeout: it took longer than `timeout` seconds.
        """
        self._begin(context, ref)
        source = self._call(
            "open",
            context,
            lambda: (
                self._plugin.open_at(context, ref, start)
                if start
                else self._plugin.open(context, ref)
            ),
            timeout,
            close_quietly,
            waiting,
        )
        if not issubclass(type(source), ImageSource):
            raise self._bug(f"open returned {type(source).__name__}, not an ImageSource")
        try:
            with self.translated("open"):  # attributes of the source may run the plugin's code
                return self._opened(source, context)
        except BaseException:
            close_quietly(source)
            raise

    def _opened(self, source: ImageSource, context: Context) -> OpenedSource:
        if not isinstance(getattr(source, "image", None), Image):
            raise self._bug("open returned a source without an Image")
        self._check_image(source.image)
        if not isinstance(source.parallel_reads, int):
            raise self._bug(f"parallel_reads is {source.parallel_reads!r:.80}, not a number")
        path = source.local_path
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise self._bug(f"local_path is {path!r:.80}, not a path")
        return OpenedSource(source, self.translated, context, self.host.secrets, self._grace)

    def probe(
        self,
        context: Context,
        ref: ImageRef,
        *,
        version: str | None = None,
        timeout: float | None = None,
        waiting: Callable[[], Any] | None = None,
    ) -> Image:
        """The image, if this caller is allowed to read it.

        :param version: the one of bytes that are here. Where the image still has it, not much more
            than that may be known of the image.
        """
        self._begin(context, ref)
        if version is None:
            verb, call = "probe", partial(self._plugin.probe, context, ref)
        else:
            verb, call = "revalidate", partial(self._plugin.revalidate, context, ref, version)
        answer = self._call(verb, context, call, timeout, waiting=waiting)
        return self._checked(verb, answer)

    def get(self, context: Context, ref: ImageRef, **flags: bool) -> Image:
        self._begin(context, ref)
        answer = self._call("get", context, lambda: self._plugin.get(context, ref, **flags))
        return self._checked("get", answer)

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        return self._listed(
            "get_all", context, lambda: self._plugin.get_all(context, query), query.limit
        )

    def _listed(
        self,
        verb: str,
        context: Context,
        call: Callable[[], Iterator[Any]],
        limit: int | None = None,
    ) -> Iterator[Image]:
        """The images that `call()` yields, within the limits of a list.

        It is called now, so that invalid arguments are reported at once. Images are read only as
        they are needed.
        """
        self._begin(context)
        steps = self._steps(verb, context, call)
        return self._images(verb, steps, limit)

    def _images(self, verb: str, steps: Steps[Any], limit: int | None) -> Iterator[Image]:
        budget = Budget(self.title, self.host.limits.lists, self.answer_timeout)
        left = limit
        with closing(steps):
            while left is None or left > 0:
                image = self._next_image(verb, steps, budget)
                if image is None:
                    return
                if self._is_sound(image):
                    left = None if left is None else left - 1
                    yield image

    def _next_image(self, verb: str, steps: Steps[Any], budget: Budget) -> Image | None:
        """None at the end of the list.

        :raises TransferTimeout, TooLarge: the list exceeds its limits.
        """
        with self.translated(verb):
            while True:
                began = monotonic()
                try:
                    steps.wait(budget.seconds)
                    image = steps.take()
                except StopIteration:
                    return None
                except Late:
                    raise budget.late() from None
                budget.waited(monotonic() - began)
                if not isinstance(image, Image):
                    raise self._bug(f"{verb} yielded {type(image).__name__}, not an Image")
                if budget.takes(image):
                    return image

    def _is_sound(self, image: Image) -> bool:
        """Whether a record is valid; an invalid one is skipped, and does not end the list."""
        try:
            self._check_image(image)
        except BackendError as error:
            LOG.warning("skipping %s in the list: %s", redact(image.ref, 200), error)
            return False
        return True

    def _steps(
        self,
        verb: str,
        context: Context,
        call: Callable[[], Iterator[Any]],
        timeout: float | None = None,
    ) -> Steps[Any]:
        seconds = self.answer_timeout if timeout is None else timeout
        thread_context = ThreadContext(context, self.host.secrets)
        steps: Steps[Any] = Steps(
            lambda: iter(call()), thread_context.run, self.host.cut_off, self.host.release
        )
        with self.translated(verb):
            steps.start()
        try:
            steps.wait(seconds)
        except Late:
            raise self._silent(verb, seconds) from None
        with self.translated(verb):
            steps.take()
        return steps

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        self._begin(context)

        def call() -> Image:
            return self._plugin.create(context, image, data)

        return self._checked("create", self._send("create", context, data, call))

    def clones(self, other: Boundary) -> bool:
        """Whether this backend may be able to clone what another one has opened."""
        cls = self.declared.cls
        return cls is other.declared.cls and cls.clone is not ImageBackend.clone

    def clone(self, context: Context, image: Image, source: OpenedSource) -> Image | None:
        """As `create`, with the bytes of a source that are not transferred; None: it cannot."""
        self._begin(context)

        def call() -> Image | None:
            return self._plugin.clone(context, image, source.lent)

        answer = self._send("clone", context, None, call)
        return None if answer is None else self._checked("clone", answer)

    def update(
        self,
        context: Context,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        self._begin(context, ref)

        def call() -> Image:
            return self._plugin.update(context, ref, changes, data, purge_props)

        return self._checked("update", self._send("update", context, data, call))

    def import_image(
        self,
        context: Context,
        ref: ImageRef,
        url: str | None,
        stores: Sequence[str],
        waiting: Callable[[], Any] | None = None,
    ) -> Iterator[int]:
        """The number of bytes that the service has, until it has all; `waiting` as in `open`."""
        self._begin(context, ref)
        steps = self._steps(
            "import_image",
            context,
            lambda: self._plugin.import_image(context, ref, url=url, stores=stores),
        )
        return self._counts(steps, waiting)

    def _counts(self, steps: Steps[Any], waiting: Callable[[], Any] | None) -> Iterator[int]:
        begun = False  # before that, an interrupt would leave unknown whether the import began
        with closing(steps):
            while True:
                try:
                    steps.wait(self.answer_timeout, waiting if begun else None)
                except Late:
                    raise self._silent("import_image", self.answer_timeout) from None
                with self.translated("import_image"):
                    try:
                        count = steps.take()
                    except StopIteration:
                        return
                if not isinstance(count, int) or count < 0:
                    raise self._bug(f"import_image yielded {count!r}, not a number of bytes")
                begun = True
                yield count

    def purge(self, context: Context, older_than: float, dry_run: bool) -> Iterator[Image]:
        return self._listed(
            "purge", context, lambda: self._plugin.purge(context, older_than, dry_run)
        )

    def stores(self, context: Context) -> tuple[Store, ...]:
        self._begin(context)
        found = self._call("stores", context, lambda: tuple(self._plugin.stores(context)))
        return self._all(Store, "stores", found)

    def members(self, context: Context, ref: ImageRef) -> tuple[Member, ...]:
        self._begin(context, ref)
        found = self._call("members", context, lambda: tuple(self._plugin.members(context, ref)))
        return self._all(Member, "members", found)

    def _all(self, kind: type[T], verb: str, found: Iterable[object]) -> tuple[T, ...]:
        for each in found:
            if not isinstance(each, kind):
                raise self._bug(f"{verb} returned {type(each).__name__} among {kind.__name__}s")
        return tuple(each for each in found if isinstance(each, kind))

    def delete(self, context: Context, ref: ImageRef) -> None:
        self._begin(context, ref)
        self._call("delete", context, lambda: self._plugin.delete(context, ref))

    def check(self, context: Context, *, timeout: float | None = None) -> Iterator[Finding]:
        """The findings of the backend's own check, as they come. An error is the last finding.

        :param timeout: seconds for the whole check, by default as for a call.
        """
        ends = monotonic() + (self.answer_timeout if timeout is None else timeout)
        try:
            self._begin(context)
            steps = self._steps(
                "check", context, lambda: self._plugin.check(context), ends - monotonic()
            )
            with closing(steps):
                for _ in range(_MAX_FINDINGS):
                    finding = self._next_finding(steps, ends)
                    if finding is None:
                        return
                    yield finding
        except ImageBrokerError as error:
            yield Finding(str(error), FAILURE, error.hint, error.option)

    def _next_finding(self, steps: Steps[Any], ends: float) -> Finding | None:
        """None at the end of the check."""
        seconds = max(ends - monotonic(), 0.0)
        try:
            steps.wait(seconds)
        except Late:
            raise self._silent("check", seconds) from None
        with self.translated("check"):
            try:
                found = steps.take()
            except StopIteration:
                return None
            if not isinstance(found, Finding) or found.level not in LEVELS:
                raise self._bug(f"check yielded {found!r:.80}, not a Finding")
            what, level, remedy, option = found
            return Finding(redact(what), level, redact(remedy), printable(str(option), 64))

    def close(self) -> None:
        if not self._process.is_current:
            return
        try:
            self._plugin.close()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            LOG.error("closing the %s backend failed: %s", self.title, shown_error(error))

    def _begin(self, context: Context, ref: ImageRef | None = None) -> None:
        """Before every call: check the process, and hide the secrets of the call in messages.

        :raises Cancelled: this process was forked from the one that owns the backend.
        """
        self._process.check(f"this {self.title} backend")
        if (token := getattr(context, "auth_token", None)) is not None:
            self.host.conceal(token)
        if ref is not None and ref.query:
            # Names of parameters are no secrets, and messages need them.
            parts = (each.partition("=") for each in ref.query.split("&"))
            self.host.conceal(ref.query, *(value if sign else name for name, sign, value in parts))

    def _checked(self, verb: str, answer: Any) -> Image:
        with self.translated(verb):
            if not isinstance(answer, Image):
                raise self._bug(f"{verb} returned {type(answer).__name__}, not an Image")
            self._check_image(answer)
        return answer

    def _check_image(self, image: Image) -> None:
        size = image.size
        if size is not None and (not isinstance(size, int) or not 0 <= size <= MAX_INT):
            shown = "too large" if isinstance(size, int) else f"{size!r:.80}"
            shown = "negative" if isinstance(size, int) and size < 0 else shown
            raise self._bug(f"the size of {image.ref} is {shown}, not a number of bytes")
        if not isinstance(image.ref, str) or not isinstance(image.checksums, Mapping):
            raise self._bug("its record has no ref, or checksums that are not a mapping")

    def _silent(self, verb: str, seconds: float) -> TransferTimeout:
        # Less than a server may take: it is what was left of the transfer.
        limit = "deadline" if verb != "check" and seconds < self.answer_timeout else "stall_timeout"
        return TransferTimeout(
            f"the {self.title} backend did not answer {verb} within {seconds:.3g} s",
            hint=f"check the server and the network, or raise {limit}",
        )

    def _bug(self, what: str) -> BackendError:
        return BackendError(
            f"the {self.title} backend of {self.origin}: {what}",
            hint="this is a bug in the plugin: report it to its authors",
            retryable=False,
        )

    @contextmanager
    def translated(self, verb: str) -> Iterator[None]:
        """Translate foreign exceptions; KeyboardInterrupt and MemoryError are passed on."""
        with self.host.secrets.hidden():
            try:
                yield
            except Exception as error:
                ours = error if isinstance(error, MemoryError) else self._translation(verb, error)
                if isinstance(ours, ImageBrokerError):
                    redact_causes(ours)
                    self.locate(ours)
                if ours is error:
                    raise
                raise ours from ours.__cause__

    def _translation(self, verb: str, error: Exception) -> ImageBrokerError:
        """The error to raise instead, with its cause; `error` itself if it is one of ours."""
        if isinstance(error, ImageBrokerError):
            ours = error
        elif isinstance(error, (ConnectionError, TimeoutError, EOFError)):
            ours = TransferError(
                f"the {self.title} backend lost its connection in {verb}: {shown_error(error)}"
            )
        else:  # a library may have wrapped one of ours
            ours = unwrapped(error) or self._bug(f"{verb} failed with {shown_error(error)}")
        if ours is not error:
            ours.__cause__ = error
        exhausted = as_ours(ours) or ours
        if exhausted is not ours:
            exhausted.__cause__ = ours
        return exhausted

    def _call(
        self,
        verb: str,
        context: Context,
        call: Callable[[], T],
        timeout: float | None = None,
        late: Callable[[T], None] = lambda answer: None,
        waiting: Callable[[], Any] | None = None,
    ) -> T:
        """Run `call()` in a thread, for at most `timeout` seconds; `late` gets a late result."""
        seconds = self.answer_timeout if timeout is None else min(timeout, self.answer_timeout)
        thread_context = ThreadContext(context, self.host.secrets)
        running = RunningCall(lambda: thread_context.run(call), self.host.release, late)
        finished = False
        try:
            with self.translated(verb):
                running.start()
            finished = running.wait(max(seconds, 0.0), waiting)
        except BaseException:  # the caller was interrupted: a later result is discarded
            if not self._process.is_current:
                raise
            if not running.abandon(self.host) and running.succeeded:
                late(running.answer())
            raise
        if not finished and running.abandon(self.host):
            raise self._silent(verb, seconds)
        answer: T = self._answer_of(verb, running)
        return answer

    def _send(
        self, verb: str, context: Context, data: ImageData | None, call: Callable[[], T]
    ) -> T:
        """Run `call()` in a thread, for as long as it takes, while this one reads `data` for it."""
        thread_context = ThreadContext(context, self.host.secrets)
        handover = Handover() if data is None else data.handed_over()
        running = RunningCall(
            lambda: thread_context.run(call), self.host.release, ended=handover.wake
        )
        with self.translated(verb):
            running.start()
        try:
            handover.serve(running.has_finished)
        except BaseException as error:
            if self._process.is_current:
                self._interrupt(running, handover, error)
            raise
        answer: T = self._answer_of(verb, running)
        return answer

    def _interrupt(self, running: RunningCall, handover: Handover, error: BaseException) -> None:
        """Let the plugin clean up: it gets `error` instead of the next chunk."""
        handover.fail(error)
        if running.has_begun and not running.wait(GRACE):
            self.host.abort(running.thread)  # it waits for its server
            running.wait(self.answer_timeout)

    def _answer_of(self, verb: str, running: RunningCall) -> Any:
        try:
            return running.answer()
        except BaseException:
            with self.translated(verb):
                raise


def _conceal_options(declared: Declaration, host: BackendHost) -> None:
    for option in declared.options:
        value = host.options.get(option.dest) if option.secret else None
        if isinstance(value, str):
            user = host.options.get("username") or ""
            # The password as in Basic authentication (RFC 7617).
            host.conceal(value, base64.b64encode(f"{user}:{value}".encode()).decode())
