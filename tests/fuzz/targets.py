"""What is fuzzed: each target takes any bytes, and raises if a promise about them does not hold.

Expected refusals are caught here by their class; anything else that comes out is a finding.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPResponse

from imagebroker_glance.record import parse_json, to_image, to_locations
from imagebroker_scp.messages import StatusError
from imagebroker_scp.sftp import Sftp

from imagebroker.exceptions import (
    CompressionError,
    FormatError,
    InvalidImageRef,
    PolicyViolation,
    TransferError,
    VerificationError,
)
from imagebroker.http.answers import content_range, described, parse_date, retry_after
from imagebroker.http.digests import digests
from imagebroker.http.head import Head
from imagebroker.http.pools import translated
from imagebroker.http.urls import Url
from imagebroker.http.wire import Wire
from imagebroker.model.reference import ImageRef, parse
from imagebroker.plugin import Limits
from imagebroker.transfer.codecs import BLOCK, Unpacker
from imagebroker.verify.checksum_file import find_checksum
from imagebroker.verify.disk_format import VERIFIABLE, FormatCheck, FormatPolicy

#: Bytes of content after which a target stops to look.
_ENOUGH = 8 * 1024 * 1024


@dataclass(frozen=True)
class Target:
    """One parser of what strangers send."""

    name: str
    run: Callable[[bytes], None]
    #: Inputs to begin with: one at least that is good.
    seeds: tuple[bytes, ...]


# -- refs ---------------------------------------------------------------------------------------


def _ref(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        ref = parse(text)
    except InvalidImageRef as error:
        assert len(str(error)) < 1000, "the message is as long as the ref"
        return
    assert re.fullmatch(r"[!-~]+", text), "odd characters"
    bare = text.partition("#")[0]
    # `glance://UUID` is the one spelling that is written otherwise afterwards.
    assert bare in (ref.text, ref.text.replace(":", "://", 1)), "the parser repairs"
    assert parse(ref.text) == ImageRef(**{**vars(ref), "pin": None}), "not the same twice"
    assert ref.host is None or ref.host == ref.host.lower(), "a host in capitals"
    assert ref.port is None or 0 < ref.port < 65536, "no port"
    if ref.path is not None:
        assert ref.path.startswith("/"), "a relative path"
        assert ref.with_ending(".gpg").path == ref.path + ".gpg", "an ending elsewhere"


# -- http ---------------------------------------------------------------------------------------

_LIMITS = Limits(connect_timeout=5, stall_timeout=5)
_REF = parse("http://host/disk.img")


def _answer(data: bytes) -> None:
    """Answers on one connection: heads, lengths, chunks."""
    ours, theirs = socket.socketpair()
    try:
        theirs.settimeout(5)
        theirs.sendall(data[:60_000])
        theirs.shutdown(socket.SHUT_WR)
        wire = Wire(ours, "peer", _LIMITS)
        reply = HTTPResponse(wire)  # type: ignore[arg-type]
        try:
            with translated("peer"):
                reply.begin()
                head = wire.head
                assert head is not None, "http.client read another head"
                sent = sum(len(block) for block in iter(lambda: reply.read1(1 << 20), b""))
            length = head.content_length
            if length is not None and head.status not in (204, 304):
                assert sent == length, "another length than announced"
            _look(head)
        finally:
            reply.close()
    except TransferError:
        pass
    finally:
        ours.close()
        theirs.close()


def _headers(data: bytes) -> None:
    """The values of headers alone, a line each."""
    values = data.decode("latin-1").split("\n")[:8]
    names = ("content-range", "repr-digest", "retry-after", "last-modified", "content-length",
             "etag", "content-digest", "content-type")  # fmt: skip
    _look(Head(1, 200, "OK", list(zip(names, values, strict=False))))


def _look(head: Head) -> None:
    found = content_range(head)
    if found is not None:
        start, stop, total = found
        assert 0 <= start < stop <= total, "a range that is none"
    for algorithm, digest in digests(head, whole=True).items():
        assert len(bytes.fromhex(digest)) == hashlib.new(algorithm).digest_size, "no digest"
    seconds = retry_after(head)
    assert seconds is None or 0 <= seconds < float("inf"), "no number of seconds"
    when = parse_date(head.get("last-modified"))
    assert when is None or when.tzinfo is not None, "a date without its zone"
    try:
        described(_REF, Url.parse("http://host/disk.img"), head, whole=True)
    except TransferError:
        pass  # two lengths


# -- SFTP ---------------------------------------------------------------------------------------


class _Replies:
    """A stream on which packets come that the input describes: size, kind, body, again and again.

    Ids are those that the client waits for, unless the kind says otherwise.
    """

    def __init__(self, data: bytes) -> None:
        self._packets = self._made(data)

    def _made(self, data: bytes) -> Iterator[bytes]:
        number = -1  # what comes first has no id
        position = 0
        while position + 2 < len(data):
            size, kind = data[position], data[position + 1]
            body = data[position + 2 : position + 2 + size]
            position += 2 + size
            if kind == 255:
                yield body or b"\0"  # as it is, with whatever length it has
                continue
            number += 1
            head = b"" if number == 0 else struct.pack(">I", number)
            yield struct.pack(">IB", 1 + len(head) + len(body), kind) + head + body

    def send(self, data: bytes) -> None:
        pass

    def receive(self) -> bytes:
        return next(self._packets, b"")


def _sftp(data: bytes) -> None:
    try:
        session = Sftp(_Replies(data))
        for ask in (
            lambda: session.stat(b"/x"),
            lambda: session.realpath(b"."),
            lambda: session.open(b"/x"),
            lambda: session.has_data_at(b"handle", 0),
            lambda: list(zip(range(1000), session.listdir(b"/"), strict=False)),
        ):
            try:
                ask()
            except (StatusError, EOFError):
                continue
    except (TransferError, StatusError, EOFError) as error:
        assert len(str(error)) < 2000, "the message is as long as what was sent"


# -- Glance -------------------------------------------------------------------------------------


def _glance(data: bytes) -> None:
    try:
        record = parse_json(data, "http://glance/")
        image = to_image(record, "http://glance/", "glance:{}".format, locations=True)
        locations = record.get("locations")
        if isinstance(locations, list):
            to_locations(locations, "http://glance/")
    except (TransferError, InvalidImageRef):
        return
    assert parse(image.ref).id == image.id, "an id that is no UUID"
    assert image.size is None or image.size >= 0, "less than nothing"
    for value in (image.created_at, image.updated_at):
        assert value is None or (isinstance(value, datetime) and value.astimezone(UTC)), "no date"
    json.dumps(dict(image.properties))


# -- formats ------------------------------------------------------------------------------------

_POLICY = FormatPolicy(None, 64 << 40)
_DECLARED = (None, *sorted(VERIFIABLE))


def _judged(data: bytes, declared: str | None, size: int | None, cut: int) -> object:
    try:
        check = FormatCheck(_POLICY, declared, size)
        for start in range(0, len(data), cut):
            check.feed(data[start : start + cut])
        return tuple(sorted(check.evidence().items()))
    except FormatError:
        return "refused"


def _format(data: bytes) -> None:
    """A verdict or a refusal, the same however the bytes arrive."""
    if len(data) < 2:
        return
    declared, data = _DECLARED[data[0] % len(_DECLARED)], data[2:] + bytes(data[1] * 16)
    whole = _judged(data, declared, None, max(len(data), 1))
    assert _judged(data, declared, None, 13) == whole, "cut otherwise, judged otherwise"
    assert _judged(data, declared, len(data), 4096) == whole, "the size changes the verdict"


# -- checksum files, compressed data ------------------------------------------------------------


def _checksum_file(data: bytes) -> None:
    try:
        found = find_checksum(data, _REF, "the file", allow_weak=True)
    except (VerificationError, PolicyViolation):
        return
    assert found.digest in data.decode("latin-1").lower(), "a digest that is not there"
    assert len(found.digest) == 2 * hashlib.new(found.algorithm).digest_size, "no digest"


def _compressed(data: bytes) -> None:
    unpacker = Unpacker("it", "auto")
    total = 0
    try:
        for piece in unpacker.unpacked([data]):
            assert unpacker.kind is None or len(piece) <= BLOCK, "more than a piece"
            total += len(piece)
            if total > _ENOUGH:
                return
    except CompressionError:
        return
    assert unpacker.kind is not None or total == len(data), "bytes are missing"


# -- with what to begin -------------------------------------------------------------------------

_HEX = hashlib.sha256(b"").hexdigest()
_UUID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
_RECORD = {
    "id": _UUID, "name": "disk", "status": "active", "visibility": "shared", "size": 10,
    "tags": ["a"], "protected": False, "os_hidden": False, "checksum": "0" * 32,
    "os_hash_algo": "sha512", "os_hash_value": "0" * 128, "created_at": "2026-01-02T03:04:05Z",
    "min_disk": 1, "min_ram": 2, "disk_format": "raw", "container_format": "bare", "own": "x",
    "locations": [{"url": "http://h/x", "metadata": {"a": 1}}],
}  # fmt: skip


def _packet(kind: int, body: bytes) -> bytes:
    return bytes([len(body), kind]) + body


_ATTRIBUTES = struct.pack(">IQI", 5, 10, 0o100644)
_TALK = (
    _packet(2, struct.pack(">I", 3)) + _packet(105, _ATTRIBUTES)
    + _packet(104, struct.pack(">II", 1, 1) + b"/" + struct.pack(">I", 0) + bytes(4))
    + _packet(102, struct.pack(">I", 1) + b"h") + _packet(103, struct.pack(">I", 1) + b"x")
    + _packet(102, struct.pack(">I", 1) + b"d")
    + _packet(104, struct.pack(">II", 1, 1) + b"n" + struct.pack(">I", 1) + b"l" + _ATTRIBUTES)
    + _packet(101, struct.pack(">II", 1, 0) + bytes(4)) + _packet(101, struct.pack(">II", 0, 0))
)  # fmt: skip

TARGETS = {
    target.name: target
    for target in (
        Target("ref", _ref, (
            _UUID.encode(), f"glance:east:{_UUID}#sha256={_HEX}".encode(),
            b"https://h.example:8443/a/b%20c.img?x=1#sha512=" + b"0" * 128,
            b"scp://user@[2001:db8::1]:22/abs/path", b"file:///a/b",
        )),
        Target("answer", _answer, (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: \"a\"\r\n\r\nabc",
            b"HTTP/1.1 206 X\r\nContent-Range: bytes 1-2/3\r\nContent-Length: 2\r\n\r\nbc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nxy\r\n0\r\nA: b\r\n\r\n",
            b"HTTP/1.1 100 C\r\n\r\nHTTP/1.0 200 OK\r\n\r\nuntil the end",
        )),
        Target("headers", _headers, (
            b"bytes 0-9/10\nsha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:;a=1\n"
            b"120\nSun, 06 Nov 1994 08:49:37 GMT\n10\n\"tag\"\n\ntext/html",
        )),
        Target("sftp", _sftp, (_TALK,)),
        Target("glance", _glance, (json.dumps(_RECORD).encode(), b'{"id": "' + _UUID.encode() + b'"}')),
        Target("format", _format, (
            b"\0\0", b"\1\x20" + b"QFI\xfb" + struct.pack(">I", 3) + bytes(96),
            b"\1\x40KDMV" + struct.pack("<III", 1, 3, 0) + bytes(500), b"\1\x40conectix" + bytes(500),
            b"\1\xffvhdxfile" + bytes(500), b"\1\x40LUKS\xba\xbe\0\1" + bytes(600),
            b"\1\x40<<< QEMU VM Virtual Disk Image >>>\n".ljust(66, b"\0") + b"\x7f\x10\xda\xbe"
            + bytes(500), b"\1\x40# Disk DescriptorFile\nversion=1\n", b"\1\xff" + bytes(510) + b"\x55\xaa",
        )),
        Target("checksum-file", _checksum_file, (
            f"{_HEX}  disk.img\n".encode(), f"SHA256 (disk.img) = {_HEX}\n".encode(),
            f"\\{_HEX} *a\\nb\n{_HEX}  ./x/disk.img\r\n".encode(), _HEX.encode(),
        )),
        Target("compressed", _compressed, (
            bytes.fromhex("1f8b08000000000002034b04001b0ec3f001000000"),
            bytes.fromhex("28b52ffd240161000061" + "c1af2a5e"),
            b"BZh91AY&SY\x17rE8P\x90", b"\xfd7zXZ\0\0\4",
        )),
    )
}  # fmt: skip
