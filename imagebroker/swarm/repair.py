"""The bytes of a swarm once more, after their digest has shown that some of them are wrong.

What this host has read from the backend is right. What others sent is compared with the backend, in
order, until a chunk differs: then all that the same host announced is compared, and if the digest
is right after that, the rest is too. So only chunks are read again, and who lied is known.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import BinaryIO, NamedTuple

from imagebroker.backends.backend import Buffer, ImageSource
from imagebroker.backends.opened_source import OpenedSource
from imagebroker.exceptions import TransferError
from imagebroker.swarm import tree
from imagebroker.swarm.backend_reader import read_range
from imagebroker.swarm.spool import Spool

_BLOCK = 1024 * 1024


class Announced(NamedTuple):
    """What was told of a chunk that came from others."""

    #: Who did, for people; whether its own backend has sent the chunk to it, as it says.
    by: str
    own: bool
    #: Of the chunk's hash tree: all its bytes.
    root: bytes


class RepairedSource(ImageSource):
    """Chunks of a spool, of which those that others sent are held to the backend."""

    seekable = True

    def __init__(
        self,
        own: OpenedSource,
        spool: Spool,
        announced: Mapping[int, Announced],
        digest: tuple[str, str],
        lied: Callable[[int, Announced], None],
        idle_timeout: float,
    ) -> None:
        """:param announced: what was told of each chunk that others sent. :param digest: algorithm
        and digest of the whole. :param lied: hears of each chunk of which the backend has other
        bytes than were told."""
        self.image = own.image
        self._own, self._spool, self._digest, self._lied = own, spool, digest, lied
        self._unverified = dict(announced)
        self._idle_timeout = idle_timeout
        self._closed = False

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        layout = self._spool.layout
        position, end = start, layout.size if stop is None else stop
        while position < end:
            index = layout.index(position)
            first, last = layout.span(index)
            if not self._spool.has(index):
                yield from self._from_backend(position, min(last, end))
                position = min(last, end)
                continue
            self._check(index)
            data = self._spool.read(index, position - first, min(_BLOCK, min(last, end) - position))
            if not data:
                raise TransferError(f"chunk {index} is gone", retryable=False)
            position += len(data)
            yield data

    def close(self) -> None:
        self._closed = True
        self._own.close()

    def _check(self, index: int) -> None:
        """Compare a chunk with the backend; if it is wrong, all others of the same announcer."""
        told = self._unverified.get(index)
        if told is None or self._is_right(index, told):
            return
        for at, each in [*self._unverified.items()]:
            if each.by == told.by:
                self._is_right(at, each)
        if self._has_digest():
            self._unverified.clear()

    def _is_right(self, index: int, told: Announced) -> bool:
        """Compare it with what the backend sends; afterwards it is that. If that is what was told,
        nobody lied: it went wrong here.

        :raises ImageBrokerError: the backend sends nothing.
        """
        layout, right = self._spool.layout, True

        def compared(file: BinaryIO) -> Iterator[bytes]:
            nonlocal right
            position = 0
            for data in self._from_backend(*layout.span(index)):
                if os.pread(file.fileno(), len(data), position) != data:
                    right = False
                    os.pwrite(file.fileno(), data, position)
                position += len(data)
                yield bytes(data)

        with closing(self._spool.writer(index)) as file:
            pieces = tree.pieces(compared(file), layout.piece)
        del self._unverified[index]
        if tree.root(pieces, layout.piece) != told.root:
            self._lied(index, told)
        return right

    def _from_backend(self, start: int, stop: int) -> Iterator[Buffer]:
        return read_range(self._own, start, stop, self._idle_timeout, lambda: self._closed)

    def _has_digest(self) -> bool:
        algorithm, expected = self._digest
        found = hashlib.new(algorithm)
        layout = self._spool.layout
        for index in range(layout.count):
            if not self._spool.has(index):
                return False
            for offset in range(0, layout.length(index), _BLOCK):
                found.update(self._spool.read(index, offset, _BLOCK))
        return found.hexdigest() == expected
