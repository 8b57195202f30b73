"""Chunks that are read ahead: each in a thread, with a connection of its own."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator

from imagebroker.plugin import Buffer

#: Chunks that are read at once, and blocks of each that wait in memory.
PARALLEL, ROOM = 4, 12
#: Seconds between two checks whether anybody still wants the blocks.
_POLL_INTERVAL = 0.2

#: Makes the blocks of one chunk.
Make = Callable[[], Iterator[Buffer]]


def in_order(makes: Iterable[Make], parallel: int = PARALLEL) -> Generator[Buffer, None, None]:
    """The blocks of all chunks, one chunk after the other, the next ones already on their way.

    Closing it ends the threads; what they wait for is the caller's to end.
    """
    waiting = iter(makes)
    running: list[_ReadAhead] = []
    try:
        for make in waiting:
            running.append(_ReadAhead(make))
            if len(running) == parallel:
                yield from running.pop(0).blocks()
        while running:
            yield from running.pop(0).blocks()
    finally:
        for each in running:
            each.stop()


class _ReadAhead:
    """The thread that reads one chunk."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._queue: queue.Queue[Buffer | BaseException | None] = queue.Queue(ROOM)
        self._unwanted = threading.Event()
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(self._run,), name="imagebroker-oci", daemon=True
        ).start()

    def _run(self) -> None:
        end: BaseException | None = None
        blocks = self._make()
        try:
            for block in blocks:
                if not self._put(block):
                    break
        except BaseException as error:
            end = error
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()
        self._put(end)

    def _put(self, item: Buffer | BaseException | None) -> bool:
        """Whether anybody wants it."""
        while not self._unwanted.is_set():
            try:
                self._queue.put(item, timeout=_POLL_INTERVAL)
            except queue.Full:
                continue
            return True
        return False

    def blocks(self) -> Iterator[Buffer]:
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.stop()

    def stop(self) -> None:
        self._unwanted.set()
