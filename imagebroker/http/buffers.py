"""Buffers for received data, reused once no view of them is left.

New memory for each block would have to be filled with zeros by Python and found page by page by the
kernel: together that takes as long as receiving the bytes.
"""

from __future__ import annotations

from threading import Lock

#: Blocks that are kept; those beyond are for the garbage collector.
_MOST = 16


class Buffers:
    """Blocks of one size, for all connections of a session."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._blocks: list[bytearray] = []
        self._lock = Lock()

    def take(self) -> bytearray:
        """A block that no `memoryview` shows any more, or a new one; it is the caller's alone."""
        with self._lock:
            for _ in range(len(self._blocks)):
                block = self._blocks.pop(0)
                if _is_free(block):
                    return block
                self._blocks.append(block)
        return bytearray(self.size)

    def keep(self, block: bytearray) -> None:
        """Give it out again when its views are gone. A block without any is free at once."""
        with self._lock:
            if len(self._blocks) < _MOST:
                self._blocks.append(block)


def _is_free(block: bytearray) -> bool:
    """Whether no view of it is left: an object that shows its memory refuses to be resized."""
    try:
        last = block.pop()
    except BufferError:
        return False
    block.append(last)
    return True
