"""Bytes that one thread reads and another one takes: the caller's data on its way to a plugin.

The caller's own code (an iterator, a file object, the handler of a signal) runs in the caller's
thread, the plugin in another. What that code does to its thread, it does not do to the plugin: a
child that it forks has no plugin that would clean up after the parent's upload.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from imagebroker.system.forks import Condition, Process


class _Round:
    """The data once, from its beginning."""

    def __init__(self, begin: Callable[[], Iterator[bytes]]) -> None:
        self._begin = begin
        self._chunks: Iterator[bytes] | None = None
        #: What was read and not taken, and how many bytes that are.
        self.ready: deque[bytes] = deque()
        self.held = 0
        self.ended = False
        self.error: BaseException | None = None
        #: Whether a chunk is waited for.
        self.wanted = False

    def next(self) -> bytes | None:
        """The next chunk; None at the end."""
        if self._chunks is None:
            self._chunks = self._begin()
        return next(self._chunks, None)

    def is_due(self, ahead: int) -> bool:
        """Whether the next chunk is to be read now."""
        return not self.ended and (self.held < ahead or (self.wanted and not self.ready))

    def add(self, chunk: bytes | None, error: BaseException | None) -> None:
        if chunk is None:
            self.error, self.ended = error, True
        else:
            self.ready.append(chunk)
            self.held += len(chunk)


class Handover:
    """`serve` in the thread that may read, `taken` in the one that needs the bytes."""

    def __init__(self, ahead: int = 0) -> None:
        """`ahead`: bytes that are read before anybody asks for them. 0 for a source that may have
        to wait itself: it would keep the caller waiting though the plugin has failed already.
        """
        self._ahead = ahead
        self._process = Process()
        self._changed = Condition()
        self._round: _Round | None = None
        #: Why nothing more will come.
        self._failed: BaseException | None = None

    def taken(self, begin: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
        """What `begin()` yields, where the other thread calls it.

        :raises: what it raises.
        """
        this = _Round(begin)
        while (chunk := self._take(this)) is not None:
            yield chunk

    def _take(self, this: _Round) -> bytes | None:
        with self._changed:
            self._round = this
            while not this.ready and not this.ended and self._failed is None:
                this.wanted = True
                self._changed.notify_all()
                self._changed.wait()
            this.wanted = False
            if self._failed is not None:
                raise self._failed
            if this.ready:
                chunk = this.ready.popleft()
                if this.held >= self._ahead > this.held - len(chunk):
                    self._changed.notify_all()
                this.held -= len(chunk)
                return chunk
        error, this.error = this.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback would keep this frame, and so the error, alive
        return None

    def serve(self, done: Callable[[], bool]) -> None:
        """Read what is taken until `done()`; whoever makes it true calls `wake`.

        :raises Cancelled: the code that was read from has forked, and this is the child.
        """
        while (this := self._next(done)) is not None:
            try:
                chunk = this.next()
            except Exception as error:
                if not self._process.is_current:
                    raise
                self._add(this, None, error)
            else:
                self._process.check("the upload")
                self._add(this, chunk)

    def _add(self, this: _Round, chunk: bytes | None, error: BaseException | None = None) -> None:
        with self._changed:
            this.add(chunk, error)
            if this.wanted:
                self._changed.notify_all()

    def _next(self, done: Callable[[], bool]) -> _Round | None:
        """What to read from; None once it is done."""
        with self._changed:
            while not done():
                this = self._round
                if this is not None and this.is_due(self._ahead):
                    return this
                self._changed.wait()
        return None

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Whoever takes gets `error` from now on."""
        with self._changed:
            self._failed = error
            self._changed.notify_all()
