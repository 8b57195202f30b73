"""Buffers for received data, reused once no view of them is left.

New memory for each block would have to be filled with zeros by Python and found page by page by the
kernel: together that takes as long as receiving the bytes.
"""

from __future__ import annotations

from threading import Lock

#: Blocks that are kept; those beyond are for the garbage collector.
_MAX_BLOCKS = 16


class Buffers:
    """Blocks of one size, for all connections of a session."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._blocks: list[bytearray] = []
        self._lock = Lock()

    def take(self) -> memoryview:
        """All of a block that no other `memoryview` shows.

        When the last view of it is gone, it is given out again.
        """
        with self._lock:
            block = next(filter(_is_free, self._blocks), None)
            if block is None:
                block = bytearray(self.size)
                if len(self._blocks) < _MAX_BLOCKS:
                    self._blocks.append(block)
            return memoryview(block)  # before anybody else looks

    def clear(self) -> None:
        """Free the blocks that are kept; those of which a view is left, with their last view."""
        with self._lock:
            self._blocks.clear()


def _is_free(block: bytearray) -> bool:
    """Whether no view of it is left: an object that shows its memory refuses to be resized."""
    try:
        last = block.pop()
    except BufferError:
        return False
    block.append(last)
    return True
