"""An SFTP server that does as a scenario says; also a program that sshd can start as a subsystem.

Standard library only: sshd starts it with whatever Python there is.
"""

from __future__ import annotations

import json
import random
import select
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 64 * 1024


def content(size: int) -> bytes:
    """What every file holds: different everywhere, the same each time."""
    return random.Random(size).randbytes(size)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _packet(kind: int, number: int, body: bytes) -> bytes:
    return struct.pack(">IBI", len(body) + 5, kind, number) + body


def _status(number: int, code: int, text: bytes = b"") -> bytes:
    return _packet(101, number, struct.pack(">I", code) + _string(text) + _string(b""))


class HostileSftp:
    """One session. Give it packets, get its answers."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        self.how = scenario
        self.data = content(scenario.get("real_size", 1024 * 1024))
        self.reads = self.listed = 0
        self.kept: list[bytes] = []
        self.stalled = False
        self.rng = random.Random(0)
        self.stored: dict[int, bytes] = {}

    def answers(self, packet: bytes) -> Iterator[bytes]:
        """What to send for one packet (without its length)."""
        kind = packet[0]
        if self.stalled or self.how.get("stall_at") == kind:
            self.stalled = True
            return
        if self.how.get("end_at") == kind:
            raise EOFError
        if kind == 1:
            yield from self._version()
            return
        number = struct.unpack(">I", packet[1:5])[0]
        body = packet[5:]
        if self.how.get("status_at", {}).get(str(kind)) is not None:
            code = self.how["status_at"][str(kind)]
            text = self.how.get("status_text", "no").encode("utf-8", "surrogateescape")
            yield _status(number, code, text)
        elif self.how.get("raw_at", {}).get(str(kind)) is not None:
            yield bytes.fromhex(self.how["raw_at"][str(kind)].replace("ID", f"{number:08x}"))
        elif kind == 200 and "limits" in self.how:
            yield _packet(201, number, struct.pack(">QQQQ", 1 << 18, *self.how["limits"], 0))
        elif kind == 5:
            yield from self._read(number, body)
        elif kind in (7, 8, 17):
            yield _packet(105, number, self._attributes())
        elif kind in (3, 11):
            yield _packet(102, number, _string(b"handle"))
        elif kind == 12:
            yield self._names(number)
        elif kind == 16:
            yield _packet(104, number, struct.pack(">I", 1) + body + _string(b"") + bytes(4))
        else:
            yield _status(number, 0)

    def flush(self) -> bytes:
        """What was held back, in another order: to be sent when nothing more is asked for."""
        self.rng.shuffle(self.kept)
        held, self.kept = self.kept, []
        return b"".join(held)

    def _version(self) -> Iterator[bytes]:
        if "greeting" in self.how:
            yield self.how["greeting"].encode("latin-1")
            return
        body = b""
        if "limits" in self.how:
            body += _string(b"limits@openssh.com") + _string(b"1")
        if self.how.get("fsync"):
            body += _string(b"fsync@openssh.com") + _string(b"1")
        yield struct.pack(">IBI", len(body) + 5, 2, self.how.get("version", 3)) + body

    def _attributes(self) -> bytes:
        mode = self.how.get("mode", 0o100644)
        if self.how.get("no_attributes"):
            return struct.pack(">I", 0)
        size = self.how.get("size", len(self.data))
        size = self.how.get("sizes", {}).get(str(self.listed), size)
        return struct.pack(">IQIII", 1 | 4 | 8, size, mode, 0, 1_700_000_000)

    def _names(self, number: int) -> bytes:
        """One part of a directory. Without `parts` there is no last one."""
        self.listed += 1
        if self.listed > self.how.get("parts", self.listed):
            return _status(number, 1)
        name = {
            "dots": b".",
            "fresh": b"file-%d" % self.listed,
            "same": b"file",
            "long": b"%d-" % self.listed + b"x" * 250_000,
            "one long": b"x" * 250_000 if self.listed == 2 else b"file-%d" % self.listed,
            "folders": b"folder-%d" % self.listed,
        }[self.how["listing"]]
        body = struct.pack(">I", 1) + _string(name) + _string(b"") + self._attributes()
        return _packet(104, number, body)

    def _read(self, number: int, body: bytes) -> Iterator[bytes]:
        [length] = struct.unpack(">I", body[:4])
        offset, wanted = struct.unpack(">QI", body[4 + length : 16 + length])
        self.reads += 1
        how = self.how.get("reads", "honest")
        piece = self.data[offset : offset + min(wanted, CHUNK)]
        if not piece or (how == "eof early" and self.reads > 3):
            yield _status(number, 1)
            return
        answer = _packet(103, number, _string(piece))
        if how in ("shuffled", "held back"):
            self.kept.append(answer)
            if len(self.kept) >= (4 if how == "shuffled" else 50):
                yield self.flush()
        elif how == "short first" and self.reads == 1 and len(piece) > 1:
            yield _packet(103, number, _string(piece[:-1]))
        elif how == "short each" or how == "one byte each":
            yield _packet(103, number, _string(piece[: 1 if how == "one byte each" else 1000]))
        elif how == "short at random":
            yield _packet(103, number, _string(piece[: self.rng.randint(1, len(piece))]))
        elif how == "twice" and self.reads == 3:
            yield answer + answer
        elif how == "unknown id" and self.reads == 3:
            yield _packet(103, number ^ 0x40000000, _string(piece))
        elif how == "one byte more" and self.reads == 3:
            yield _packet(103, number, _string(piece.ljust(wanted, b"x") + b"!"))
        elif how == "no bytes" and self.reads == 3:
            yield _packet(103, number, _string(b""))
        elif how == "length lies" and self.reads == 3:
            yield _packet(103, number, struct.pack(">I", len(piece) + 10) + piece)
        elif how == "wrong kind" and self.reads == 3:
            yield _packet(104, number, struct.pack(">I", 0))
        elif how == "status ok" and self.reads == 3:
            yield _status(number, 0)
        elif how == "failure" and self.reads == 3:
            yield _status(number, 4, b"Input/output error")
        elif how == "huge packet" and self.reads == 3:
            yield struct.pack(">IBI", 0xFFFFFFFF, 103, number)
        elif how == "cut" and self.reads == 3:
            yield answer[: len(answer) // 2]
            raise EOFError
        elif how == "stall" and self.reads >= 3:
            yield answer[: len(answer) // 2] if self.reads == 3 else b""
            self.stalled = True
        elif how == "data after the end" and self.reads == 2:
            yield _status(number, 1)
        else:
            yield answer


def main() -> None:
    """Serve standard input and output."""
    server = HostileSftp(json.loads(Path(sys.argv[1]).read_text()))
    # Unbuffered, so that `select` tells whether there is more.
    source, sink = sys.stdin.buffer.raw, sys.stdout.buffer  # type: ignore[attr-defined]
    while head := _next(source, server, sink):
        packet = _exactly(source, struct.unpack(">I", head)[0])
        try:
            for answer in server.answers(packet):
                sink.write(answer)
                sink.flush()
        except EOFError:
            sink.flush()
            return


def _next(source: Any, server: HostileSftp, sink: Any) -> bytes:
    if server.kept and not select.select([source], [], [], 0.05)[0]:
        sink.write(server.flush())
        sink.flush()
    return _exactly(source, 4)


def _exactly(source: Any, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := source.read(count - len(data))):
        data += piece
    return data


if __name__ == "__main__":
    main()
