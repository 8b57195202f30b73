"""Connections that are cut or stall: at every byte of a head, and wherever a protocol takes a step."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import imagebroker
from tests.faults.places import IMAGE, SCHEMES, Place, Places, open_files, quiet, stranger, threads
from tests.faults.ssh_stream import Recorder, packets
from tests.faults.tally import HANG, LEAK, OTHER, PARTIAL, WRONG, Violation
from tests.servers.process import HOST
from tests.servers.tcp import Fault

OLD = b"what was there before, and must be there afterwards"
#: Where a file object stands.
AT = 7
DESTS = ("path", "object", "reader")
#: For a connection that carried so many bytes to the client: where to cut it, and where to stall.
Choose = Callable[[int], tuple[list[int], list[int]]]
#: Seconds that a peer may be silent, where it stalls on purpose.
_STALL = 0.3
_KIB = 1024


@dataclass(frozen=True)
class Point:
    """A connection of a download ends or falls silent after so many bytes from one side."""

    scheme: str
    dest: str
    #: The number of the connection.
    connection: int
    at: int
    #: "FIN", "RST" or "stall".
    end: str
    #: Counted are the bytes from the client, not those from the server.
    upload: bool = False

    def __str__(self) -> str:
        side = "client" if self.upload else "server"
        return f"{self.group} connection {self.connection} byte {self.at} of the {side}"

    @property
    def group(self) -> str:
        return f"{self.scheme}, {self.dest}, {self.end}"


class Cuts:
    """The campaign."""

    def __init__(
        self,
        folder: Path,
        schemes: tuple[str, ...] = SCHEMES,
        data: bytes = IMAGE,
        choose: Choose | None = None,
        patience: float = 5.0,
    ) -> None:
        """`choose`: where connections that carry bytes are cut; default, at every byte of a head.
        `patience`: seconds after which a stall that has not ended is a hang; a cut has twice that.
        """
        self.schemes = schemes
        self._choose, self._patience = choose or every_byte, patience
        self._folder, self._dest = folder, folder / "dest"
        self._places = Places(folder, self.schemes, data)
        self._brokers: dict[bool, imagebroker.Broker] = {}

    def __enter__(self) -> Self:
        self._places.__enter__()
        try:
            self._make_brokers()
        except BaseException:
            self._places.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_brokers()
        self._places.__exit__(None, None, None)

    def _make_brokers(self) -> None:
        """One for cuts, and an impatient one for stalls; both know their tokens."""
        common = "retries = 0\nretry_backoff = 0\ndeadline = 60\n"
        self._brokers = {
            False: self._places.broker(f"{common}connect_timeout = 10\nstall_timeout = 5"),
            True: self._places.broker(
                f"{common}connect_timeout = {_STALL}\nstall_timeout = {_STALL}\nmin_rate = 0"
            ),
        }
        for scheme in {"glance", "s3", "swift"} & {*self.schemes}:
            for broker in self._brokers.values():
                self._log_in(broker, scheme)
        self._settle()

    def _log_in(self, broker: imagebroker.Broker, scheme: str) -> None:
        """A token may take longer than the impatient one waits."""
        for _ in range(20):
            with contextlib.suppress(imagebroker.TransferError, imagebroker.BackendError):
                broker.get(None, self._places[scheme].ref)
                return

    def _close_brokers(self) -> None:
        for broker in self._brokers.values():
            broker.close()

    def _settle(self) -> None:
        for scheme in self.schemes:
            quiet(self._places[scheme].proxy)
        until(lambda: threads() == 1 + len(self.schemes) + _LAUNCHER, 5)
        self._threads, self._files = threads(), open_files()

    def points(self) -> Iterator[Point]:
        for scheme in self.schemes:
            yield from self._points(self._places[scheme])

    def _points(self, place: Place) -> Iterator[Point]:
        for number, received, sent in self._lengths(place):
            if place.scheme == "scp":
                cuts, stalls, uploads = self._of_packets(place)
            else:
                cuts, stalls = self._choose(received)
                uploads = [0, 1, sent // 2, sent - 1]
            for dest in DESTS:
                for end in ("FIN", "RST"):
                    for at in cuts:
                        yield Point(place.scheme, dest, number, at, end)
                    for at in uploads:
                        yield Point(place.scheme, dest, number, at, end, upload=True)
                for at in stalls:
                    yield Point(place.scheme, dest, number, at, "stall")

    def _lengths(self, place: Place) -> list[tuple[int, int, int]]:
        """The connections of a whole download: number, and bytes to and from the client."""
        self._settle()
        target = self._folder / "whole"
        self._brokers[False].download(None, place.ref, target)
        if target.read_bytes() != self._places.data:
            raise RuntimeError(f"{place.ref} is not the image")
        self._close_brokers()
        self._make_connections_end(place)
        found = [(each.index, each.received, each.sent) for each in place.proxy.passages]
        self._make_brokers()
        return found

    def _make_connections_end(self, place: Place) -> None:
        """The last bytes of a connection are counted when it is over."""
        until(lambda: all(each.over.is_set() for each in place.proxy.passages), 5)

    def _of_packets(self, place: Place) -> tuple[list[int], list[int], list[int]]:
        """Before, inside and after every packet of the server; stalls before and inside; the same
        cuts for the client's packets.
        """
        recorder = Recorder(place.proxy.port)
        ref = place.ref.replace(f"{HOST}:{place.proxy.port}", f"{HOST}:{recorder.port}")
        with self._places.broker("retries = 0") as broker:
            broker.download(None, ref, io.BytesIO())
        recorder.close()
        server = _around(packets(bytes(recorder.said["server"])))
        client = _around(packets(bytes(recorder.said["client"])))
        return server, server, client

    def attempt(self, point: Point) -> list[Violation] | None:
        place = self._places[point.scheme]
        stalls = point.end == "stall"
        place.proxy.fault_for[point.connection] = Fault(
            cut_after=None if stalls else point.at,
            stall_after=point.at if stalls else None,
            reset=point.end == "RST",
            upload=point.upload,
        )
        began = time.monotonic()
        trial = Trial(self._dest, point.dest, existing=point.at % 2 == 0, data=self._places.data)
        error = trial.run(self._brokers[stalls], place.ref)
        seconds = time.monotonic() - began
        struck = any(each.struck.is_set() for each in place.proxy.passages)
        found = list(trial.violations(error))
        if error is None:
            # It was cut where nothing was missing: what is kept for the next call leads nowhere.
            self._close_brokers()
            self._make_brokers()
        else:
            found += self._of_error(error, seconds, point)
        quiet(place.proxy)
        return [*found, *self._leaks()] if struck else None

    def _of_error(self, error: Exception, seconds: float, point: Point) -> Iterator[Violation]:
        if stranger(error):
            yield Violation(OTHER, f"{type(error).__name__}: {error}")
        if seconds > self._patience * (1 if point.end == "stall" else 2):
            yield Violation(HANG, f"{seconds:.1f} s until {error}")

    def _leaks(self) -> Iterator[Violation]:
        if not until(lambda: threads() <= self._threads, 5):
            names = [thread.name for thread in threading.enumerate()]
            yield Violation(LEAK, f"{threads()} threads after {self._threads}: {names}")
            self._threads = threads()
        if not until(lambda: open_files() <= self._files, 5):
            yield Violation(LEAK, f"{open_files()} descriptors after {self._files}")
            self._files = open_files()


class Trial:
    """One download to one kind of destination, and what must hold if it fails."""

    def __init__(self, folder: Path, kind: str, *, existing: bool, data: bytes) -> None:
        self._kind, self._existing, self._data = kind, existing, data
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._path = folder / "image"
        if existing:
            self._path.write_bytes(OLD)
        self._before = self._path.stat().st_ino if self._path.exists() else None
        self._object: BinaryIO | None = None
        self._read = b""
        self._raised_again = True

    def run(self, broker: imagebroker.Broker, ref: str, **how: Any) -> Exception | None:
        """How it ends."""
        try:
            if self._kind == "path":
                broker.download(None, ref, self._path, **how)
            elif self._kind == "reader":
                self._consume(broker, ref, how)
            else:
                # A real file, or one that is in memory only.
                self._object = self._path.open("r+b") if self._existing else io.BytesIO(OLD)
                self._object.seek(AT)
                broker.download(None, ref, self._object, **how)
        except Exception as error:
            return error
        return None

    def _consume(self, broker: imagebroker.Broker, ref: str, how: dict[str, Any]) -> None:
        with broker.open(None, ref, **how) as reader:
            try:
                for chunk in reader:
                    self._read += chunk
            except imagebroker.ImageBrokerError as error:
                try:
                    self._raised_again = bool(reader.read(1)) and False
                except imagebroker.ImageBrokerError as again:
                    self._raised_again = again is error
                raise

    def violations(self, error: Exception | None, *, damaged: bool = False) -> Iterator[Violation]:
        """`damaged`: what arrived before the error was wrong already."""
        if self._kind == "path":
            yield from self._of_path(error)
        elif self._kind == "reader":
            yield from self._of_reader(error, damaged)
        elif self._object is not None:
            with self._object:
                yield from self._of_object(self._object, error)
        left = [each.name for each in self._folder.iterdir() if each != self._path]
        if left:
            yield Violation(LEAK, f"left behind: {left}")

    def _of_path(self, error: Exception | None) -> Iterator[Violation]:
        there = self._path.exists()
        if error is None:
            if not there or self._path.read_bytes() != self._data:
                yield Violation(WRONG, "dest is not the image")
        elif there != self._existing:
            yield Violation(PARTIAL, "dest was made or removed")
        elif there and (self._path.stat().st_ino, self._path.read_bytes()) != (self._before, OLD):
            yield Violation(PARTIAL, "dest is another file than before")

    def _of_reader(self, error: Exception | None, damaged: bool) -> Iterator[Violation]:
        if error is None:
            if self._read != self._data:
                yield Violation(WRONG, f"{len(self._read)} bytes were read, and they are wrong")
        elif len(self._read) >= len(self._data) or not (
            damaged or self._data.startswith(self._read)
        ):
            yield Violation(PARTIAL, f"{len(self._read)} bytes were handed out before the error")
        elif not self._raised_again:
            yield Violation(OTHER, "reading on after the error does not raise it again")

    def _of_object(self, target: BinaryIO, error: Exception | None) -> Iterator[Violation]:
        place = target.tell()
        target.seek(0)
        content = target.read()
        if error is None:
            if content[AT : AT + len(self._data)] != self._data:
                yield Violation(WRONG, "the file object does not hold the image")
        elif (place, len(content), content[:AT]) != (AT, len(OLD), OLD[:AT]):
            yield Violation(PARTIAL, f"the file object is at {place} and has {len(content)} bytes")


#: The thread that starts servers.
_LAUNCHER = 1


def until(true: Callable[[], bool], seconds: float) -> bool:
    """Wait for it; whether it came true."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def every_byte(total: int) -> tuple[list[int], list[int]]:
    """Every byte of the head, of the first and the last KiB of the body, every 256th between."""
    # Before the image come the head, and with https what the handshake takes.
    head = max(0, total - 64 * _KIB) + _KIB if total > 64 * _KIB else total
    tail = max(head, total - _KIB)
    cuts = [*range(head), *range(head, tail, 256), *range(tail, total)]
    stalls = sorted({0, 1, 9, head // 4, head // 2, max(0, head - _KIB - 1), head, total // 2,
                     total - 1})  # fmt: skip
    return cuts, [at for at in stalls if at < total]


def some_blocks(total: int) -> tuple[list[int], list[int]]:
    """Around the ends of blocks in which a large body is received, and anywhere between."""
    chosen = random.Random(total)
    blocks = chosen.sample(range(0, total, 256 * _KIB), min(24, total // (256 * _KIB) + 1))
    around = {at + step for at in blocks for step in (-1, 0, 1)}
    anywhere = {chosen.randrange(total) for _ in range(24)}
    cuts = sorted(at for at in around | anywhere if 0 <= at < total)
    return cuts, cuts[::16]


def _around(ends: list[int]) -> list[int]:
    """Offsets before, inside and after each packet."""
    found = {0}
    for begin, end in zip([0, *ends], ends, strict=False):
        found |= {begin, begin + 1, (begin + end) // 2, end - 1, end}
    return sorted(found)[:-1]  # after the last one nothing is missing
