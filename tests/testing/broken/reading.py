"""Backends that hand out other bytes, or hand them out in another way."""

import array
import contextlib
import os
from collections.abc import Iterator
from typing import Any

from imagebroker.plugin import (
    Buffer,
    Context,
    ImageRef,
    ImageSource,
    TransferError,
)
from imagebroker.testing.fakes.memory import CHUNK, MemorySource
from tests.testing import hookups
from tests.testing.broken.register import broken
from tests.testing.peers import (
    FolderBackend,
    FolderSource,
    LineSource,
)


class Twisted(MemorySource):
    """Reads everything, then changes it."""

    parallel_reads = 1

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        yield self.twisted(b"".join(map(bytes, super().read(start, stop))))

    def twisted(self, data: bytes) -> bytes:
        return data


@broken("C13")
class OneByteTooFew(Twisted):
    def twisted(self, data: bytes) -> bytes:
        return data[:-1]


@broken("C13")
class OneByteTooMany(Twisted):
    def twisted(self, data: bytes) -> bytes:
        return data + b"\0"


@broken("C13")
class RightLengthWrongBytes(Twisted):
    def twisted(self, data: bytes) -> bytes:
        return data[:-2] + data[-1:] * 2 if len(data) > 70_000 else data


@broken("C13")
class ZerosAreLeftOut(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        for chunk in super().read(start, stop):
            if bytes(chunk).strip(b"\0"):
                yield chunk


@broken("C13")
class IgnoresStart(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        return super().read(0, stop)


@broken("C13")
class IgnoresStop(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        return super().read(start)


@broken("C13")
class StopIsInclusive(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        return super().read(start, None if stop is None else stop + 1)


@broken("C13")
class SwallowsTheError(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        with contextlib.suppress(TransferError):
            yield from super().read(start, stop)


@broken("C13", hookups.FolderContract)
class OffsetsHave32Bits(FolderBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return ShortOffsets(ref, self.find(ref))


class ShortOffsets(FolderSource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        end = self.image.size or 0 if stop is None else stop
        while start < end:
            chunk = os.pread(self.file.fileno(), min(CHUNK, end - start), start & 0xFFFFFFFF)
            yield chunk
            start += len(chunk)


@broken("C14")
class ReusesItsBuffer(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        buffer = bytearray(CHUNK)
        for chunk in super().read(start, stop):
            buffer[: len(chunk)] = chunk
            yield memoryview(buffer)[: len(chunk)]


@broken("C14")
class EmptyChunks(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        for chunk in super().read(start, stop):
            yield b""
            yield chunk


@broken("C14")
class OddChunks(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        for chunk in super().read(start, stop):
            yield array.array("B", chunk)


@broken("C14")
class ScatteredChunks(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        for chunk in super().read(start, stop):
            yield memoryview(bytes(byte for byte in chunk for _ in "12"))[::2]


@broken("C14")
class ReturnsTheBytes(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Any:
        return b"".join(map(bytes, super().read(start, stop)))


@broken("C14", hookups.LineContract)
class YieldsOnlyTheWhole(LineSource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        yield b"".join(map(bytes, super().read(start, stop)))


@broken("C14", hookups.FolderContract)
class ReadsTheWholeIntoMemory(FolderBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return Greedy(ref, self.find(ref))


class Greedy(FolderSource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        end = self.image.size or 0 if stop is None else stop
        yield bytes(min(end - start, 100 << 20))
