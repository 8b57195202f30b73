"""An opened image of a plugin: its reads run ahead in threads, and each answer is checked."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from imagebroker.backends.backend import Buffer, ImageSource
from imagebroker.backends.running_call import ThreadContext
from imagebroker.exceptions import (
    TooLarge,
    TransferError,
)
from imagebroker.redaction import Secrets, printable, redact, shown_error
from imagebroker.system import request_ids
from imagebroker.system.exhaustion import start
from imagebroker.system.forks import (
    Condition,
    Process,
    Thread,
    never_finalize,
    tell_in_child,
)

if TYPE_CHECKING:
    from imagebroker.backends.backend import Context

LOG = logging.getLogger(__name__)

#: Bytes that a `read` can be ahead of its consumer; a single chunk may be larger.
READ_AHEAD = 4 * 1024 * 1024
#: The same for each of several parallel reads.
SHARED_READ_AHEAD = 512 * 1024
#: Seconds that a thread has to end after its source was closed.
GRACE = 2.0


def close_quietly(source: Any) -> None:
    try:
        source.close()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        LOG.warning("closing a source failed: %s", shown_error(error))


class OpenedSource:
    """An `ImageSource` of a plugin, with its calls checked.

    It belongs to the process that opened it: a forked child neither reads nor closes it, and does
    not finalize it either.
    """

    def __init__(
        self,
        source: ImageSource,
        translated: Callable[[str], Any],
        context: Context = None,
        secrets: Secrets | None = None,
        grace: float = GRACE,
    ) -> None:
        self._secrets = secrets
        self._grace = grace
        self._source = source
        self._translated = translated
        self._context = context
        self._ids = request_ids.of_call()
        self._flows: list[Flow] = []
        self.image = source.image
        self.local_path = None if source.local_path is None else Path(source.local_path)
        self.parallel_reads = max(1, source.parallel_reads)
        self.coding = printable(str(source.coding), 60)
        self._closed = False
        self._process = Process()
        tell_in_child(self)

    def in_child(self) -> None:
        never_finalize(self._source)

    @property
    def lent(self) -> ImageSource:
        """The plugin's own source, for another instance of the same class."""
        return self._source

    @property
    def seekable(self) -> bool:
        with self._translated("seekable"):
            return bool(self._source.seekable)

    @property
    def may_refuse_ranges(self) -> bool:
        return bool(self._source.may_refuse_ranges)

    @property
    def ignores_version(self) -> bool:
        """Whether its version is specific to one server, and it can read without checking it."""
        return type(self._source).ignore_version is not ImageSource.ignore_version

    def ignore_version(self) -> None:
        """Accept responses of any version from now on."""
        with self._translated("ignore_version"):
            self._source.ignore_version()

    def read(
        self, start: int = 0, stop: int | None = None, changed: Condition | None = None
    ) -> Flow:
        """Read the bytes from `start` to `stop` ahead, in a thread.

        `changed` is notified when data arrives, so that a caller can wait for several flows.
        """
        self._process.check(f"the source of {redact(self.image.ref)}")
        self._flows = [flow for flow in self._flows if flow.is_alive()]
        ahead = READ_AHEAD if stop is None else SHARED_READ_AHEAD
        ids = request_ids.of_call()  # of a reader, there is no call when it is read from
        context = ThreadContext(self._context, self._secrets, self._ids if ids is None else ids)
        flow = Flow(self._chunks(start, stop), ahead, changed, context)
        self._flows.append(flow)
        return flow

    def _chunks(self, start: int, stop: int | None) -> Generator[Buffer, None, None]:
        """The chunks of `read`, checked: exactly the requested number of bytes, or an error."""
        end = self.image.size if stop is None else stop
        position = start
        with self._translated("read"):
            for chunk in self._source.read(start, stop):
                if not isinstance(chunk, (bytes, bytearray, memoryview)):
                    raise TypeError(f"read yielded {type(chunk).__name__}, not bytes")
                if isinstance(chunk, memoryview):
                    chunk = chunk.cast("B")  # so that len() is the number of bytes
                position += len(chunk)
                if end is not None and position > end:
                    raise TooLarge(
                        f"{self.image.ref}: more data arrived than the expected {end} bytes",
                        hint="check the size in the image's record; nothing was stored",
                    )
                yield chunk
        if end is not None and position != end:
            raise TransferError(
                f"{self.image.ref}: the data ended after {position} of {end} bytes",
                hint="try again; if it ends there again, the stored image is damaged",
            )

    def close(self) -> None:
        """Close the source and all reads; never raises. Threads that hang are logged and left."""
        if self._closed or not self._process.is_current:
            return
        self._closed = True
        for flow in self._flows:
            flow.stop()
        closing = Thread(target=close_quietly, args=(self._source,))
        try:
            start(closing)
            closing.join(self._grace)
        except TransferError:  # no more threads can be started
            close_quietly(self._source)
        for flow in self._flows:
            flow.join(self._grace)
        stuck = [t.name for t in (closing, *self._flows) if t.is_alive()]
        if stuck:
            LOG.warning(
                "%s: still running after the source was closed: %s", redact(self.image.ref), stuck
            )


class Flow(Thread):
    """One running `read`: a thread reads ahead, and `take` returns what has arrived.

    It pulls from the plugin's iterator, and closes it; a `Worker` is handed its items. Several can
    share one condition, so that a consumer waits for all of them.
    """

    def __init__(
        self,
        chunks: Generator[Buffer, None, None],
        ahead: int,
        changed: Condition | None = None,
        thread_context: ThreadContext | None = None,
    ) -> None:
        super().__init__(name="imagebroker-read")
        self._thread_context = thread_context if thread_context is not None else ThreadContext()
        self._chunks = chunks
        self._ready: deque[Buffer] = deque()
        self._ahead = ahead
        #: Bytes that have arrived and were not taken yet.
        self.held = 0
        self._changed = changed if changed is not None else Condition()
        self._stopped = self._ended = False
        self._error: BaseException | None = None
        try:
            start(self)
        except TransferError as error:  # raised by `take`, like errors of the read itself
            self._error, self._ended, self._stopped = error, True, True

    def run(self) -> None:
        self._thread_context.run(self._read_ahead)

    def _read_ahead(self) -> None:
        try:
            for chunk in self._chunks:
                size = len(chunk)
                if not size:
                    continue
                with self._changed:
                    if self._stopped:
                        return
                    self._ready.append(chunk)
                    self.held += size
                    self._changed.notify_all()
                    # Wait before the next chunk is read: it needs memory, too.
                    while self.held >= self._ahead and not self._stopped:
                        self._changed.wait()
                del chunk
        except BaseException as error:
            request_ids.name(error)
            self._error = error
        finally:
            self._chunks.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    @property
    def has_ended(self) -> bool:
        """Whether only the end, or an error, is left to take."""
        return self._ended and not self._ready

    @property
    def has_news(self) -> bool:
        """Whether `take` would return or raise at once."""
        return bool(self._ready) or self._ended

    def take(self, timeout: float) -> list[Buffer] | None:
        """The chunks that have arrived, maybe none within `timeout` seconds; None at the end.

        :raises: what the source raised, after the data before it.
        """
        ends = monotonic() + timeout
        with self._changed:
            while not self.has_news:
                left = ends - monotonic()
                if left <= 0:
                    return []
                self._changed.wait(left)
            if self._ready:
                taken, self.held = list(self._ready), 0
                self._ready.clear()
                self._changed.notify_all()
                return taken
            error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # whose traceback has this frame
        return None

    def stop(self) -> None:
        """Make the thread end at its next chunk, and discard what was not taken."""
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self.held = 0
            self._changed.notify_all()
