"""Which bytes of a chunk must be written: all but runs of zeros, which become holes."""

from __future__ import annotations

from imagebroker.backends.backend import Buffer

#: What file systems allocate at once: a smaller run of zeros would save nothing.
BLOCK = 4096
_ZEROS = bytes(1024 * 1024)


def is_zero(view: memoryview) -> bool:
    """Whether there are only zeros; by memcmp, without a copy."""
    size = len(view)
    if size <= len(_ZEROS):
        return _ZEROS.startswith(view)
    return all(
        _ZEROS.startswith(view[start : start + len(_ZEROS)])
        for start in range(0, size, len(_ZEROS))
    )


def filled(chunk: Buffer, offset: int) -> list[tuple[int, int]]:
    """Where a chunk that belongs at `offset` of a file has blocks with more than zeros.

    Blocks are those of the file, so that a run of zeros becomes a hole in whatever chunks it
    arrives. Only a block whose first byte is zero is examined: almost all other data costs
    one look at every 4096th byte.
    """
    view = memoryview(chunk)
    size = len(view)
    head = min(-offset % BLOCK, size)
    firsts = bytes(view[head::BLOCK])
    runs: list[tuple[int, int]] = []
    begin = head if head and is_zero(view[:head]) else 0
    block = firsts.find(0)
    while block >= 0:
        start = head + block * BLOCK
        stop = _end_of_zeros(view, start)
        if stop == start:
            block = firsts.find(0, block + 1)
            continue
        if begin < start:
            runs.append((begin, start))
        begin = stop
        block = firsts.find(0, -(-(stop - head) // BLOCK))
    if begin < size:
        runs.append((begin, size))
    return runs


def _end_of_zeros(view: memoryview, start: int) -> int:
    """Where the blocks of zeros that begin at `start` end; in large steps first."""
    size = len(view)
    for step in (len(_ZEROS), 16 * BLOCK, BLOCK):
        while start < size and is_zero(view[start : start + step]):
            start = min(start + step, size)
    return start
