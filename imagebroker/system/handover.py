"""Hands over chunks from one thread to another: the caller's data on its way to a plugin.

The caller's own code (an iterator, a file object, a signal handler) runs in the caller's thread,
the plugin in another. If that code forks, the child therefore has no plugin that could clean up
after the parent's upload.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from imagebroker.system.forks import Condition, Process


class _Round:
    """One pass through the data, from its beginning."""

    def __init__(self, begin: Callable[[], Iterator[bytes]]) -> None:
        self._begin = begin
        self._chunks: Iterator[bytes] | None = None
        #: Chunks that were read but not yet taken, and their total size.
        self.ready: deque[bytes] = deque()
        self.held = 0
        self.ended = False
        self.error: BaseException | None = None
        #: Whether the other thread waits for a chunk.
        self.wanted = False
        # Whether chunks are read until `ahead` is reached: not again before half of it is taken,
        # or the threads would wake each other for every chunk.
        self._filling = True

    def next(self) -> bytes | None:
        """The next chunk; None at the end."""
        if self._chunks is None:
            self._chunks = self._begin()
        return next(self._chunks, None)

    def is_due(self, ahead: int) -> bool:
        """Whether to read the next chunk now."""
        self._filling = self.held < (ahead if self._filling else ahead // 2)
        return not self.ended and (self._filling or (self.wanted and not self.ready))

    def add(self, chunk: bytes | None, error: BaseException | None) -> None:
        if chunk is None:
            self.error, self.ended = error, True
        else:
            self.ready.append(chunk)
            self.held += len(chunk)


class Handover:
    """Call `serve` in the thread that reads, and iterate over `taken` in the one that consumes.

    Unlike `Worker` and `Flow` it starts no thread: both threads are there already, and the data can
    be read again from its beginning.
    """

    def __init__(self, ahead: int = 0) -> None:
        """`ahead`: bytes to read ahead. 0 for a source that may block: otherwise the caller could
        be kept waiting for it although the plugin has failed already.
        """
        self._ahead = ahead
        self._process = Process()
        self._changed = Condition()
        self._round: _Round | None = None
        #: The error that ended it.
        self._failed: BaseException | None = None

    def taken(self, begin: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
        """The chunks that `begin()` yields in the other thread. :raises: what it raises there."""
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
                if this.held >= self._ahead // 2 > this.held - len(chunk):
                    self._changed.notify_all()
                this.held -= len(chunk)
                return chunk
        error, this.error = this.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # breaks the reference cycle between the traceback and this frame
        return None

    def serve(self, done: Callable[[], bool]) -> None:
        """Read for `taken` until `done()`; call `wake` when that becomes true.

        :raises Cancelled: the caller's code has forked, and this is the child.
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
        """The pass to read from; None once it is done."""
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
        """Raise `error` in `taken` from now on."""
        with self._changed:
            self._failed = error
            self._changed.notify_all()
