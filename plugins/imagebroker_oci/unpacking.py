"""The content of a layer: unpacked block by block, with bounded memory."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

from imagebroker.plugin import TransferError, UnsupportedOperation, VerificationError

#: Bytes of one unpacked block.
BLOCK = 256 * 1024
#: Bytes that a decoder gets at once.
_SLICE = 32 * 1024
#: What a zstd stream may refer back to: 128 MiB, as `zstd -d` takes without an option.
_WINDOW_LOG = 27
#: Bytes that a stream of LZ4 may refer back to, and of one block of it.
_LZ4_WINDOW, _LZ4_MOST = 64 * 1024, 16 * 1024 * 1024


def unpacked(coding: str, blocks: Iterable[memoryview], what: str) -> Iterator[bytes | memoryview]:
    """The content of `blocks`; `what` is the subject of errors.

    :raises VerificationError: they are not packed in this way.
    :raises UnsupportedOperation: the module that unpacks them is not installed.
    """
    return _UNPACKERS[coding](blocks, what)


def _plain(blocks: Iterable[memoryview], what: str) -> Iterator[bytes | memoryview]:
    yield from blocks


def _gzip(blocks: Iterable[memoryview], what: str) -> Iterator[bytes]:
    import zlib

    def new() -> Any:
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    decoder, begun = new(), False
    for piece in _slices(blocks):
        data: bytes | memoryview = piece
        while len(data):
            try:
                out = decoder.decompress(data, BLOCK)
            except zlib.error as error:
                raise _damaged(what, "gzip") from error
            begun = True
            if out:
                yield out
            data = decoder.unconsumed_tail
            if decoder.eof:  # layers may have several members
                data, decoder, begun = decoder.unused_data.lstrip(b"\0"), new(), False
    while begun and not decoder.eof:
        out = decoder.decompress(decoder.unconsumed_tail, BLOCK)
        if not out:
            raise _cut(what)
        yield out


def _slices(blocks: Iterable[memoryview]) -> Iterator[memoryview]:
    """In small pieces: what a decoder does not take at once, it copies."""
    for block in blocks:
        for start in range(0, len(block), _SLICE):
            yield block[start : start + _SLICE]


def _zstd(blocks: Iterable[memoryview], what: str) -> Iterator[bytes]:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    zstd = _module(name, "imagebroker[zstd]", what)
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    decoder, begun = zstd.ZstdDecompressor(options=options), False
    for piece in _slices(blocks):
        data = bytes(piece)
        while data or (begun and not decoder.needs_input and not decoder.eof):
            try:
                out = decoder.decompress(data, BLOCK)
            except zstd.ZstdError as error:
                raise _damaged(what, "zstd") from error
            begun, data = True, b""
            if out:
                yield out
            if decoder.eof:
                data, begun = decoder.unused_data, False
                decoder = zstd.ZstdDecompressor(options=options)
    if begun:
        raise _cut(what)


def _lz4(blocks: Iterable[memoryview], what: str) -> Iterator[bytes]:
    """Apple's frames of LZ4: `bv41` (packed), `bv4-` (as it is), `bv4$` (the end)."""
    lz4 = _module("lz4.block", "imagebroker[oci]", what)
    held, window = bytearray(), b""
    for block in blocks:
        held += block
        while len(held) >= 4:
            kind = bytes(held[:4])
            if kind == b"bv4$":
                return  # what follows is no part of it; the digest covers it
            head, size, packed = _lz4_head(kind, held, what)
            if head == 0 or len(held) < head + packed:
                break
            data = bytes(held[head : head + packed])
            del held[: head + packed]
            if kind == b"bv41":
                try:
                    data = lz4.decompress(data, uncompressed_size=size, dict=window)
                except lz4.LZ4BlockError as error:
                    raise _damaged(what, "LZ4") from error
                if len(data) != size:
                    raise _damaged(what, "LZ4")
            window = (window + data)[-_LZ4_WINDOW:]
            if data:
                yield data
    raise _cut(what)


def _lz4_head(kind: bytes, held: bytearray, what: str) -> tuple[int, int, int]:
    """Length of the head of a block (0: not all of it has arrived), its content and its data."""
    if kind == b"bv41":
        if len(held) < 12:
            return 0, 0, 0
        size, packed = struct.unpack_from("<II", held, 4)
        head = 12
    elif kind == b"bv4-":
        if len(held) < 8:
            return 0, 0, 0
        (size,) = struct.unpack_from("<I", held, 4)
        head, packed = 8, size
    else:
        raise _damaged(what, "LZ4")
    if max(size, packed) > _LZ4_MOST:
        raise _damaged(what, "LZ4")
    return head, size, packed


def _module(name: str, extra: str, what: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UnsupportedOperation(
            f"{what} needs a module that is not installed: {name}", hint=f"pip install '{extra}'"
        ) from error


def _damaged(what: str, kind: str) -> VerificationError:
    return VerificationError(
        f"{what} is not valid {kind}", hint="the image was damaged before it was pushed"
    )


def _cut(what: str) -> TransferError:
    return TransferError(
        f"{what}: the data is truncated",
        hint="the image is damaged: push it again",
        retryable=False,
    )


_UNPACKERS: dict[str, Callable[[Iterable[memoryview], str], Iterator[bytes | memoryview]]] = {
    "tar": _plain, "none": _plain, "gzip": _gzip, "zstd": _zstd, "lz4": _lz4,
}  # fmt: skip
