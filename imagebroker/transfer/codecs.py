"""Compressed data: which kind it is, and decoding it piece by piece with bounded memory."""

from __future__ import annotations

import importlib
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import CompressionError, InvalidImageRef, UnsupportedOperation
from imagebroker.redaction import redact

LOG = logging.getLogger(__name__)

#: Unpack what its first bytes show to be compressed, and leave everything else as it is.
AUTO = "auto"
#: Bytes of output in one piece. A multiple of what file systems allocate, so that holes stay holes.
BLOCK = 128 * 1024
#: Bytes that a decoder gets at once: it copies what is left of them at the end of each member,
#: and a member may have no more than 20.
_SLICE = 16 * 1024
#: Members that there may be, whatever their size, and bytes that further ones have on average:
#: making a decoder takes as long as decoding several KiB. Runs of zeros in `bgzip` have 90 bytes.
_MEMBERS, _SMALLEST = 100_000, 64
#: Bytes in which each kind shows itself.
_MAGIC = 10
#: What a stream may refer back to: 128 MiB. `zstd -d` reads that much without an option
#: (ZSTD_WINDOWLOG_LIMIT_DEFAULT is 27), so it is what `zstd --long` and `--ultra -22` make.
_WINDOW_LOG = 27
#: And what decoding takes beside the window.
_MEMORY = (1 << _WINDOW_LOG) + (16 << 20)


class Decoder(Protocol):
    """One member; a file is one or several, one after the other."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Compression(NamedTuple):
    """One kind of compressed data."""

    name: str
    magic: re.Pattern[bytes]
    #: Endings of the names of such files.
    endings: tuple[str, ...]
    new: Callable[[], Decoder]
    #: Zeros may stand between and after members in multiples of so many bytes; 0: none may.
    padding: int = 0
    #: The kind's own tool ignores what is appended to the data, such as a signature, from so many
    #: bytes on; 0: it never does.
    ignored_from: int = 0
    #: With which every member begins.
    begins: bytes = b""

    def ignores(self, appended: bytes) -> bool:
        """Whether this is not a member, and not the beginning of one that was cut."""
        may_be_cut = self.begins.startswith(appended[: len(self.begins)])
        long_enough = len(appended) >= (_MAGIC if may_be_cut else self.ignored_from)
        return self.ignored_from > 0 and long_enough


def _xz() -> Decoder:
    import lzma

    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY)


def _bzip2() -> Decoder:
    import bz2

    return bz2.BZ2Decompressor()


def _zstd() -> Decoder:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    zstd: Any = importlib.import_module(name)
    limit = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    decoder: Decoder = zstd.ZstdDecompressor(options=limit)
    return decoder


class _Gzip:
    """zlib's decoder, with the face of the others."""

    def __init__(self) -> None:
        import zlib

        self._decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        # A full piece may leave more of the output inside, though all of the input is taken.
        self.needs_input = not self._decoder.unconsumed_tail and len(out) < max_length
        return out

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


_ZSTD_MAGIC = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # or a frame to be skipped
_BZIP2_MAGIC = re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)")
KINDS = {
    kind.name: kind
    for kind in (
        Compression("gzip", re.compile(rb"\x1f\x8b\x08"), (".gz",), _Gzip, 1, 2, b"\x1f\x8b"),
        Compression("xz", re.compile(rb"\xfd7zXZ\0"), (".xz",), _xz, 4),
        Compression("zstd", _ZSTD_MAGIC, (".zst", ".zstd"), _zstd),
        Compression("bzip2", _BZIP2_MAGIC, (".bz2",), _bzip2, 1, 1, b"BZh"),
    )
}


class _Foreign(NamedTuple):
    """A kind of compressed data that is not unpacked here."""

    name: str
    magic: re.Pattern[bytes]
    #: The command that unpacks it.
    tool: str


_FOREIGN = (
    _Foreign("lz4", re.compile(rb"\x04\x22\x4d\x18|\x02\x21\x4c\x18"), "lz4 -d"),
    _Foreign("zip", re.compile(rb"PK\x03\x04"), "unzip"),
    # Properties as xz and 7-Zip write them, a round dictionary, and a size below 4 GiB or none.
    _Foreign("lzma", re.compile(rb"\x5d\0\0.[\0-\x08](?:\xff{5}|.{4}\0)", re.DOTALL), "xz -d"),
    _Foreign("lzip", re.compile(rb"LZIP[\0\x01]"), "lzip -d"),
    _Foreign("7z", re.compile(rb"7z\xbc\xaf\x27\x1c"), "7z x"),
    _Foreign("lzop", re.compile(rb"\x89LZO\0\r\n\x1a\n"), "lzop -d"),
    _Foreign("compress", re.compile(rb"\x1f\x9d\x90"), "gzip -d"),
    _Foreign("old zstd", re.compile(rb"[\x22-\x27]\xb5\x2f\xfd"), "an old zstd -d"),
    _Foreign("rar", re.compile(rb"Rar!\x1a\x07"), "unrar x"),
)


def checked_kind(decompress: object) -> str:
    """The caller's `decompress=`, before any I/O.

    :raises InvalidImageRef: it is not a kind of compression.
    :raises UnsupportedOperation: this Python lacks what decodes it.
    """
    if not isinstance(decompress, str) or decompress not in (AUTO, *KINDS):
        raise InvalidImageRef(
            f"decompress: {redact(decompress, 40)!r} is not a kind of compression",
            hint=f"one of {', '.join((AUTO, *KINDS))}",
        )
    if decompress != AUTO:
        new_decoder(KINDS[decompress])
    return decompress


def new_decoder(kind: Compression) -> Decoder:
    """A decoder for one member.

    :raises UnsupportedOperation: the module that decodes this kind is not installed.
    """
    try:
        return kind.new()
    except ImportError as error:
        raise UnsupportedOperation(
            f"unpacking {kind.name} needs a module that is not installed: {error.name}",
            hint="pip install 'imagebroker[zstd]'"
            if kind.name == "zstd"
            else f"install a Python that has {error.name}",
        ) from error


def unpacked_name(name: bytes, decompress: str) -> bytes:
    """The name of such a file when it is decompressed."""
    kinds = KINDS.values() if decompress == AUTO else (KINDS[decompress],)
    for ending in (ending for kind in kinds for ending in kind.endings):
        if name.lower().endswith(ending.encode()) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


class Unpacker:
    """Takes chunks as they were published, and hands out what is in them."""

    def __init__(self, ref: str, decompress: str) -> None:
        """`ref` is what messages call the image."""
        self._ref, self._wanted = ref, decompress
        #: The compression that was found; None: not compressed, or not known yet.
        self.kind: Compression | None = None
        #: Bytes that were taken.
        self.taken = 0

    def unpacked(self, chunks: Iterable[Buffer]) -> Iterator[Buffer]:
        """The content, in pieces of at most `BLOCK` bytes where the data was compressed.

        :raises CompressionError: the data is not of the kind that was named, is damaged, ends too
            early, has something else after its end, or takes too much memory to decode.
        """
        slices = self._slices(chunks)
        begin = b""
        for piece in slices:
            begin += piece
            if len(begin) >= _MAGIC:
                break
        self.kind = self._recognised(begin)
        if self.kind is None:
            if begin:
                yield begin
            yield from slices
            return
        yield from self._blocks(self._members(self.kind, begin, slices))

    def _slices(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        for chunk in chunks:
            view = memoryview(chunk)
            for start in range(0, len(view), _SLICE):
                piece = bytes(view[start : start + _SLICE])
                self.taken += len(piece)
                yield piece

    def _recognised(self, begin: bytes) -> Compression | None:
        for kind in KINDS.values():
            if kind.magic.match(begin) and self._wanted in (AUTO, kind.name):
                return kind
        if self._wanted == AUTO:
            self._check_not_foreign(begin)
            return None
        raise CompressionError(
            f"{self._ref} is not {self._wanted} data",
            hint="pass --decompress=auto (in Python, decompress='auto') to decompress only what is "
            "compressed",
        )

    def _check_not_foreign(self, begin: bytes) -> None:
        """:raises CompressionError: it would be stored compressed, though it was to be unpacked."""
        for kind in _FOREIGN:
            if kind.magic.match(begin):
                raise CompressionError(
                    f"{self._ref} is {kind.name} data, which cannot be decompressed here",
                    hint=f"to store it as it is, leave --decompress out; {kind.tool} unpacks it",
                )

    def _blocks(self, members: Iterator[_Member]) -> Iterator[bytes]:
        """Pieces of exactly `BLOCK` bytes, except for the last."""
        block = bytearray()
        for member in members:
            while piece := member.piece(BLOCK - len(block)):
                block += piece
                if len(block) == BLOCK:
                    yield bytes(block)
                    block.clear()
        if block:
            yield bytes(block)

    def _members(
        self, kind: Compression, begin: bytes, slices: Iterator[bytes]
    ) -> Iterator[_Member]:
        """One after the other; each has been read to its end when the next is asked for."""
        count = 0
        while begin:
            count += 1
            if count > _MEMBERS + self.taken // _SMALLEST:
                raise CompressionError(
                    f"{self._ref}: the {kind.name} data consists of {count} tiny pieces",
                    hint="no compressor makes such data: check the source of the image",
                )
            member = _Member(self._ref, kind, begin, slices)
            yield member
            begin = self._following(kind, member.rest, slices)

    def _following(self, kind: Compression, rest: bytes, slices: Iterator[bytes]) -> bytes:
        """The beginning of the next member, empty at the end of the data."""
        padding = 0
        while True:
            begin = rest.lstrip(b"\0")
            padding += len(rest) - len(begin)
            more = next(slices, None) if len(begin) < _MAGIC else None
            if more is None:
                break
            rest = begin + more
        aligned = not padding if not kind.padding else padding % kind.padding == 0
        if aligned and (not begin or kind.magic.match(begin)):
            return begin
        if kind.ignores(begin):
            for _ in slices:
                pass  # a digest of the whole is of these bytes too
            LOG.warning("%s: data appended to the %s data is ignored", self._ref, kind.name)
            return b""
        raise CompressionError(
            f"{self._ref}: unexpected data follows the {kind.name} data",
            hint="check the file where it was published: it may be damaged or incomplete",
        )


class _Member:
    """One member of the data, and the input from which it is decoded."""

    def __init__(self, ref: str, kind: Compression, begin: bytes, slices: Iterator[bytes]) -> None:
        self._title = f"{ref}: the {kind.name} data"
        self._decoder, self._slices = new_decoder(kind), slices
        self._input: bytes | None = begin

    def piece(self, most: int) -> bytes:
        """At most so many bytes of what is in it; none at its end."""
        while not self._decoder.eof:
            if self._input is None and self._decoder.needs_input:
                self._input = next(self._slices, None)
                if self._input is None:
                    raise CompressionError(
                        f"{self._title} is truncated",
                        hint="the file is incomplete where it was published",
                    )
            data, self._input = self._input or b"", None
            if out := self._decoded(data, most):
                return out
        return b""

    def _decoded(self, data: bytes, most: int) -> bytes:
        try:
            return self._decoder.decompress(data, most)
        except MemoryError as error:  # a decoder's word for its limit, too
            raise self._too_greedy() from error
        except Exception as error:
            if "memory" in str(error).lower():
                raise self._too_greedy() from error
            raise CompressionError(
                f"{self._title} is damaged: {error}",
                hint="check the file where it was published; something may have changed it",
            ) from error

    def _too_greedy(self) -> CompressionError:
        return CompressionError(
            f"{self._title} needs more than 128 MiB of memory to unpack",
            hint="compress it with a smaller window: xz -9 and zstd --long=27 are within the limit",
        )

    @property
    def rest(self) -> bytes:
        """Bytes that were read beyond the end of the compressed data."""
        return self._decoder.unused_data
