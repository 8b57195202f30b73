"""A child is forked in a callback, a signal's handler or a thread; its parent must not notice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import imagebroker
from imagebroker.config.settings import Settings
from imagebroker.config.tuning import Tuning
from imagebroker.system.forks import Process
from tests.distributions import install
from tests.faults.children import EXPECTED, LEFT, REFUSED, SUCCEEDED, USELESS, WAYS, Child
from tests.faults.cuts import DESTS
from tests.faults.places import SCHEMES, Places
from tests.faults.tally import HANG, LEAK, OTHER, WRONG, Violation
from tests.scripted import IMAGES, Script

#: More than fits into the buffers of a connection, and than is hashed without a thread.
DATA = random.Random(7).randbytes(3 * 1024 * 1024 + 321)
#: What is uploaded: a few chunks.
UPLOAD = DATA[: 400 * 1024 + 7]
_PATIENCE = 60.0
#: Where a child is forked, and at which of the calls.
_CALLED = {"progress": (0, 1, 3, 8), "cancel": (0, 1, 5, 20)}
_MOMENTS = {"signal": range(12), "thread": range(4)}
#: The same, for one kind of destination and for plugins.
_OF_DEST = {"reader": {"chunk": (0, 1, 3), "close": (0,)}, "object": {"write": (0, 2)}, "path": {}}
_OF_PLUGIN = {"plugin-open": (0,), "plugin-read": (0, 2, 9), "plugin-close": (0,)}
_OF_UPLOAD = {"data": (0, 1, 3), "signal": range(8), "thread": range(2)}
#: A child that is forked there does not come back to where its parent is: or its error is taken for
#: somebody else's.
_ASTRAY = ("signal", "thread", "write", "plugin-open", "plugin-read", "plugin-close")


@dataclass(frozen=True)
class Point:
    """One fork."""

    scheme: str
    #: A kind of destination, or "upload".
    dest: str
    where: str
    at: int
    way: str

    def __str__(self) -> str:
        return f"{self.scheme}, {self.dest}, {self.where} {self.at}, {self.way}"

    @property
    def group(self) -> str:
        return f"{self.scheme}, {self.dest}, {self.where}"

    @property
    def chance(self) -> random.Random:
        return random.Random(zlib.crc32(str(self).encode()))


class Forks:
    """The campaign: `_run` is the call, `Child.strike` what it comes by."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._dest = folder, folder / "dest"
        self._note = folder / "child-note"
        self._process = Process()
        self._places = Places(folder, data=DATA)
        self._refs: dict[str, str] = {}
        self._lasts: dict[tuple[str, str], float] = {}
        self._number = 0

    def __enter__(self) -> Self:
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads, from 3.12 on
        site = self._folder / "site"
        install(site, "imagebroker-scripted", {"scripted": "tests.scripted:ScriptedBackend"})
        sys.path.insert(0, str(site))
        self._places.__enter__()
        try:
            self._begin()
        except BaseException:
            self._places.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> None:
        config = self._folder / "forks.conf"
        text = self._places.configuration(
            f"retry_backoff = 0\nstate_dir = {self._folder / 'state'}"
        )
        text = text.replace("enabled_schemes = ", "enabled_schemes = scripted, ")
        (self._folder / "uploads").mkdir()
        self._endpoint = self._places["scp"].ref.rpartition("/")[0] + "/uploads/"
        own = text.partition("[backend:scp]\n")[2].partition("\n[")[0]
        config.write_text(f"{text}\n[backend:scp:up]\n{own}\nendpoint = {self._endpoint}\n")
        tuning = Tuning(progress_every=0.001)  # so that there are many calls
        self._broker = imagebroker.Broker(Settings.from_file(config, tuning=tuning))
        self._refs = {scheme: self._places[scheme].ref for scheme in SCHEMES}
        image = self._broker.create(
            None, {"name": "stored", "disk_format": "raw"}, DATA, backend="file"
        )
        self._refs |= {"file": image.ref, "scripted": "scripted://h/image"}
        for point in self._kinds():
            IMAGES["/image"] = self._script(None)
            self._lasts[point.scheme, point.dest] = min(self._timed(point) for _ in range(3))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._process.is_current:  # servers and folders are the parent's
            os._exit(USELESS)
        self._broker.close()
        self._places.__exit__(None, None, None)

    # -- what there is to try --------------------------------------------------------------------

    def _kinds(self) -> Iterator[Point]:
        """One of each subject, without a fork."""
        for scheme in self._refs:
            for dest in DESTS:
                yield Point(scheme, dest, "", 0, "")
        for scheme in ("file", "glance", "scp"):
            yield Point(scheme, "upload", "", 0, "")

    def points(self) -> Iterator[Point]:
        for kind in self._kinds():
            places: dict[str, Any] = _OF_UPLOAD
            if kind.dest != "upload":
                places = {**_CALLED, **_MOMENTS, **_OF_DEST[kind.dest]}
            if kind.scheme == "scripted":
                places = {**places, **_OF_PLUGIN}
            for where, moments in places.items():
                for at in moments:
                    for way in WAYS:
                        yield Point(kind.scheme, kind.dest, where, at, way)

    # -- one of them -----------------------------------------------------------------------------

    def attempt(self, point: Point) -> list[Violation] | None:
        at = 0 if point.where in ("signal", "thread") else point.at
        waits = point.chance.random() < 0.5
        self._note.unlink(missing_ok=True)
        child = Child(point.way, at, waits=waits, use=partial(self._use, point), note=self._note)
        subject = self._subject(point, child)
        try:
            error = self._run(point, subject, child)
            if child.is_here and error is None and subject.is_wrong():
                raise ValueError("a child reports a success that is none")
        except BaseException as astray:
            if not child.is_here:
                raise
            error = astray
        if child.is_here:
            child.ends(error, (imagebroker.ImageBrokerError,))
        found = [] if error is None else [Violation(OTHER, f"its parent failed: {error!r}")]
        if child.pid is not None:
            # It is waited for: a child that returns has a call of its own, and a part file.
            found += self._of_child(point, child)
        found += subject.violations(error)
        return found if child.pid is not None else found or None

    def _run(self, point: Point, subject: Subject, child: Child) -> BaseException | None:
        delay = point.chance.random() * self._lasts.get((point.scheme, point.dest), 0.0)

        def handler(number: int, frame: FrameType | None) -> None:
            if _is_within_call(frame):
                child.strike()
            elif running and not child.is_here:
                signal.setitimer(signal.ITIMER_REAL, 0.0003)

        running = True
        signal.signal(signal.SIGALRM, handler)
        thread = threading.Thread(target=_later, args=(delay, child), daemon=True)
        try:
            if point.where == "signal":
                signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))
            elif point.where == "thread":
                thread.start()
            subject.run(self._broker)
        except BaseException as error:
            return error
        finally:
            running = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            if point.where == "thread" and not child.is_here:
                thread.join()
        return None

    def _of_child(self, point: Point, child: Child) -> Iterator[Violation]:
        status = child.status(_PATIENCE)
        expected = set(EXPECTED[point.way])
        if point.where in _ASTRAY:
            expected |= {0, LEFT, REFUSED, SUCCEEDED}
        if status is None:
            yield Violation(HANG, f"the child has not ended after {_PATIENCE:.0f} s")
        elif status not in expected:
            said = self._note.read_text()[-3000:] if self._note.exists() else "nothing"
            yield Violation(
                OTHER, f"the child ended with {status}, not {expected}; it says: {said}"
            )

    def _use(self, point: Point) -> None:
        """What a child does with its parent's broker."""
        ref = self._refs["file" if point.scheme == "scripted" else point.scheme]
        target = self._folder / f"child-{os.getpid()}"
        self._broker.download(None, ref, target)
        right = target.read_bytes() == DATA
        target.unlink()
        if not right:
            raise ValueError("the child's image is not the image")

    def _timed(self, point: Point) -> float:
        began = time.monotonic()
        error = self._run(point, subject := self._subject(point, None), _NOBODY)
        if error is not None or [*subject.violations(None)]:
            raise RuntimeError(f"{point}: {error!r}")
        return time.monotonic() - began

    def _script(self, child: Child | None) -> Script:
        image = Script(DATA, chunk=256 * 1024, version='"v1"')
        image.before_chunk = lambda offset: time.sleep(0.001)
        return image

    def _subject(self, point: Point, child: Child | None) -> Subject:
        strike = child.strike if child is not None else _nothing

        def at(where: str) -> Callable[..., None]:
            return strike if point.where == where else _nothing

        if point.dest == "upload":
            self._number += 1
            return Upload(point.scheme, f"upload-{self._number}", self._folder, at("data"))
        if point.scheme == "scripted":
            image = IMAGES["/image"] = self._script(child)
            image.before_open, image.on_close = at("plugin-open"), at("plugin-close")
            read = at("plugin-read")
            image.before_chunk = lambda offset: (time.sleep(0.001), read())[0]
        return Transfer(self._dest, point, self._refs[point.scheme], at)


def _nothing(*ignored: Any) -> None:
    pass


def _is_within_call(frame: FrameType | None) -> bool:
    """Whether the broker is at work: a child that is forked before begins a call of its own."""
    while frame is not None:
        if frame.f_code in _CALLS and "call" in frame.f_locals:
            return True
        frame = frame.f_back
    return False


#: What is on the stack when a call has begun.
_CALLS = [getattr(imagebroker.Broker, verb).__code__ for verb in ("download", "open", "create")]


def _later(delay: float, child: Child) -> None:
    time.sleep(delay)
    try:
        child.strike()
    finally:
        if child.is_here:
            # Not by its last thread's end: then the C library calls what OpenSSL does at the end of a
            # process, which waits for a lock that another thread may have had.
            os._exit(LEFT)


class Subject:
    """A call of the broker, and what is wrong afterwards."""

    def run(self, broker: imagebroker.Broker) -> None:
        raise NotImplementedError

    def violations(self, error: BaseException | None) -> Iterator[Violation]:
        raise NotImplementedError

    def is_wrong(self) -> bool:
        """In a child that says it has succeeded."""
        return False


class Transfer(Subject):
    """Into a path, a file object with a buffer, or through a reader."""

    def __init__(
        self, folder: Path, point: Point, ref: str, at: Callable[[str], Callable[..., None]]
    ) -> None:
        self._dest, self._ref = point.dest, ref
        self._chunk, self._write, self._close = at("chunk"), at("write"), at("close")
        self._progress, self._cancel = at("progress"), at("cancel")
        self._folder, self._path = folder, folder / "image"
        self._retries, self._read, self._attempts = 0, b"", 1
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def is_set(self) -> bool:
        """It is its own `cancel`."""
        self._cancel()
        return False

    def _told(self, progress: Any) -> None:
        self._retries = max(self._retries, progress.retries)
        self._progress()

    def run(self, broker: imagebroker.Broker) -> None:
        how: dict[str, Any] = {"progress": self._told, "cancel": self}
        if self._dest == "path":
            done = broker.download(None, self._ref, self._path, keep_partial=True, **how)
            self._attempts = done.attempts
        elif self._dest == "object":
            own = self._write is not _nothing
            with self._path.open("wb", buffering=0 if own else -1) as file:
                target: Any = _Written(file, self._write) if own else file
                self._attempts = broker.download(None, self._ref, target, **how).attempts
        else:
            with broker.open(None, self._ref, **how) as reader:
                for chunk in reader:
                    self._read += chunk
                    self._chunk()
                self._close()

    def violations(self, error: BaseException | None) -> Iterator[Violation]:
        found = self._read if self._dest == "reader" else b""
        if self._dest != "reader" and self._path.exists():
            found = self._path.read_bytes()
        if error is None and found != DATA:
            yield Violation(WRONG, f"{len(found)} bytes, which are not the image")
        # No attempt at all: a child that returned into the call before it began was there first.
        if self._retries or self._attempts > 1:
            yield Violation(OTHER, "the connection was lost: it took more than one attempt")
        left = [each.name for each in self._folder.iterdir() if each != self._path]
        if left:
            yield Violation(LEAK, f"left behind: {left}")

    def is_wrong(self) -> bool:
        return any(each.kind == WRONG for each in self.violations(None))


class _Written:
    """A file object of the caller's own kind, whose `write` does more than that."""

    def __init__(self, file: Any, strike: Callable[[], None]) -> None:
        self._file, self._strike = file, strike

    def write(self, data: Any) -> Any:
        count = self._file.write(data)
        self._strike()  # not before: in a child, it would write the same once more
        return count

    def flush(self) -> None:
        self._file.flush()


class Upload(Subject):
    """`create` with data that somebody else yields."""

    def __init__(self, scheme: str, name: str, folder: Path, strike: Callable[[], None]) -> None:
        self._scheme, self._name, self._folder, self._strike = scheme, name, folder, strike
        self._broker: imagebroker.Broker | None = None
        self._image: imagebroker.Image | None = None

    def _data(self) -> Iterator[bytes]:
        for start in range(0, len(UPLOAD), 64 * 1024):
            yield UPLOAD[start : start + 64 * 1024]
            self._strike()

    def run(self, broker: imagebroker.Broker) -> None:
        self._broker = broker
        backend = "scp:up" if self._scheme == "scp" else self._scheme
        info = {"name": self._name} | ({} if self._scheme == "scp" else {"disk_format": "raw"})
        self._image = broker.create(None, info, self._data(), backend=backend)

    def violations(self, error: BaseException | None) -> Iterator[Violation]:
        """And the image is deleted, where this process has made it."""
        if self._image is None or self._broker is None:
            return
        with self._broker.open(None, self._image.ref) as reader:
            if b"".join(reader) != UPLOAD:
                yield Violation(WRONG, "what is stored is not the data")
        self._broker.delete(None, self._image.ref)
        incoming = self._folder / "store" / "incoming"
        for folder in (incoming, self._folder / "uploads"):
            if folder.exists() and (left := os.listdir(folder)):
                yield Violation(LEAK, f"left behind in {folder.name}: {left}")


_NOBODY = Child("", 1 << 30, waits=False, use=_nothing, note=Path(os.devnull))
