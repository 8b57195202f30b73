"""Downloads that are cut, whose server restarts, whose process is killed: each reads on.

What the proxy hands out to one process is never more than what was missing when it began.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imagebroker.config.settings import Settings
from imagebroker.config.tuning import Tuning
from tests.faults import stage
from tests.faults.nursery import Nursery
from tests.faults.places import Place, Places, quiet
from tests.faults.tally import OTHER, PARTIAL, WRONG, Violation
from tests.servers.nginx import Nginx
from tests.servers.tcp import Fault, Passage

DATA = random.Random(6).randbytes(6_000_007)
#: Bytes of a connection beside the image: a head.
_OVERHEAD = 1024
_PATIENCE = 60.0
_ROUNDS = 12
_RANGE = re.compile(rb"\r\nrange: bytes=(\d+)-", re.IGNORECASE)


@dataclass(frozen=True)
class Point:
    """One image, with all that happens on its way."""

    number: int

    @property
    def scheme(self) -> str:
        return ("http", "http", "http", "https", "scp")[self.number % 5]

    @property
    def wide(self) -> bool:
        """Several ranges at once: what is under way in a connection that is given up is lost."""
        return self.number % 5 == 2

    def __str__(self) -> str:
        return f"{self.group} #{self.number}"

    @property
    def group(self) -> str:
        return f"{self.scheme}, several ranges at once" if self.wide else self.scheme


@dataclass
class _Process:
    """One of the processes that work on an image."""

    #: Bytes that were there when it began.
    stored: int
    killed: bool = False
    #: The server went while it worked, which may end its connections by reset.
    restarted: bool = False
    faults: list[Fault] = field(default_factory=list)


class MissingRanges:
    """The campaign."""

    count = 1_000

    def __init__(self, folder: Path) -> None:
        self._folder, self._dest = folder, folder / "dest"
        self._nursery = Nursery(partial(stage.prepare, folder), stage.settle)
        self._places = Places(folder, ("http", "https", "scp"), DATA)

    def __enter__(self) -> Self:
        self._places.__enter__()
        self._config = self._folder / "ranges.conf"
        self._config.write_text(
            self._places.configuration("retry_backoff = 0.01\nstall_timeout = 20\n")
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._places.__exit__(None, None, None)
        self._nursery.close()

    def points(self) -> Iterator[Point]:
        return map(Point, range(self.count))

    def attempt(self, point: Point) -> list[Violation]:
        chance, place = random.Random(point.number), self._places[point.scheme]
        shutil.rmtree(self._dest, ignore_errors=True)
        self._dest.mkdir()
        found: list[Violation] = []
        for number in range(_ROUNDS):
            last = number == _ROUNDS - 1
            process = _Process(self._stored())
            answer = self._run(place, process, chance, calm=last, wide=point.wide)
            found += self._judge(process, answer)
            # Inside TLS nobody sees what is asked for; with ssh all that waits in the channel's
            # window, which is as large as the image, may be lost when the connection ends.
            if place.scheme == "http" and not point.wide:
                found += self._of_bytes(place, process, answer)
            if found or (answer is not None and answer.get("end") == "done"):
                break
        else:
            found.append(Violation(OTHER, f"without any fault it ended with {answer}"))
        content = self._content()
        if content != DATA:
            found.append(Violation(PARTIAL, f"{len(content or b'')} bytes at the end"))
        elif left := stage.leftovers(self._dest):
            found.append(Violation("leaks", f"left behind: {left}"))
        return found

    def _run(
        self, place: Place, process: _Process, chance: random.Random, *, calm: bool, wide: bool
    ) -> dict[str, Any] | None:
        """One process; None if it was killed."""
        proxy = place.proxy
        quiet(proxy)
        if not calm:
            process.faults = [_fault(chance) for _ in range(chance.randrange(1, 7))]
            proxy.fault_for.update(enumerate(process.faults))
        kill = not calm and chance.random() < 0.4
        restart = not calm and not kill and chance.random() < 0.1
        # A kill needs something to hit.
        proxy.fault = Fault(rate=40e6) if kill or restart else Fault()
        # ssh has no version that proves two halves to be of one image.
        checksum = self._places.checksum if place.scheme == "scp" else None
        how = {"checksum": checksum, "retries": chance.randrange(5)}
        arguments = str(self._config), place.ref, self._dest / "image", how, wide
        with self._nursery.spawn(fetch, *arguments) as child:
            child.go()
            if kill:
                time.sleep(chance.uniform(0.02, 0.25))
                child.kill()
                child.wait(_PATIENCE)
                process.killed = True
            elif restart:
                time.sleep(chance.uniform(0.01, 0.05))
                process.restarted = True
                self._restart(place)
            try:
                answer: dict[str, Any] | None = child.result(0.1 if kill else _PATIENCE)
            except TimeoutError:
                return {"end": "hang"}
        # What a killed process asked for last may still wait to be accepted: it was not asked for
        # by the next one, which does not know that anything was sent.
        proxy.catch_up()
        deadline = time.monotonic() + 5
        while not all(each.over.is_set() for each in proxy.passages) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.001)
        return answer

    def _restart(self, place: Place) -> None:
        """The server goes, with all connections, and comes back after a moment."""
        server = self._places.servers["nginx"]
        if place.scheme == "scp" or not isinstance(server, Nginx):
            place.proxy.refuse()
            place.proxy.cut_all(reset=True)
            time.sleep(0.02)
            place.proxy.listen()
            return
        server.restart()
        for scheme, port in (("http", "http"), ("https", "good")):
            proxy = self._places[scheme].proxy
            proxy.target = proxy.target[0], server.ports[port]

    def _content(self) -> bytes | None:
        image = self._dest / "image"
        return image.read_bytes() if image.exists() else None

    def _stored(self) -> int:
        """What the journal promises to the next process.

        One without its part file promises nothing: its process was killed between the rename that
        completed the image and the removal of the journal, which the next download sweeps.
        """
        for journal in self._dest.glob(".*.imagebroker-journal"):
            if not journal.with_name(journal.name.replace("-journal", "-part")).exists():
                continue
            try:
                found = json.loads(journal.read_text())
                early = sum(stop - start for start, stop, _ in found.get("early", ()))
                return int(found["stored"]) + early
            except (ValueError, KeyError):
                return 0
        return 0

    def _judge(self, process: _Process, answer: dict[str, Any] | None) -> Iterator[Violation]:
        content = self._content()
        if content not in (None, DATA):
            yield Violation(PARTIAL, f"{len(content or b'')} bytes of {len(DATA)}")
        if answer is None:
            if not process.killed:
                yield Violation(OTHER, "the process died")
        elif answer.get("end") == "hang":
            yield Violation("hangs", f"no end within {_PATIENCE:.0f} s")
        elif answer.get("end") == "done" and content != DATA:
            yield Violation(WRONG, "success was reported, and dest is not the image")
        elif answer.get("end") == "error" and not (answer["interrupted"] and answer["retryable"]):
            yield Violation(OTHER, f"it failed with {answer}")
        elif answer.get("end") not in ("done", "error"):
            yield Violation(OTHER, str(answer))

    def _of_bytes(
        self, place: Place, process: _Process, answer: dict[str, Any] | None
    ) -> Iterator[Violation]:
        """What was sent to a process is what it missed, and what a reset took from it.

        A request that only looks at the image, and is given up when its answer has begun, does
        not count: what the kernel holds of it by then is its price.
        """
        passages = [each for each in place.proxy.passages if each.first and each.received]
        asked, known = [], process.stored
        for passage in passages:
            start = _start(passage)
            if start == 0 and known > 0:
                if passage is passages[-1] and answer is not None and answer.get("end") == "done":
                    yield Violation(OTHER, f"all was read again, and {known} bytes were there")
                continue
            if start < known:
                yield Violation(OTHER, f"a request began at {start}, and {known} bytes were there")
            asked.append(passage)
            if not (passage.fault.reset or process.restarted):
                known = max(known, start + passage.received - _OVERHEAD)
        missing = len(DATA) - process.stored
        lost = sum(each.received for each in asked if each.fault.reset or process.restarted)
        received = sum(each.received for each in asked)
        if received > missing + lost + _OVERHEAD * len(asked):
            yield Violation(OTHER, f"{received} bytes were sent for {missing} that were missing")


def _start(passage: Passage) -> int:
    """The byte at which a request begins."""
    found = _RANGE.search(passage.first)
    return int(found[1]) if found else 0


def _fault(chance: random.Random) -> Fault:
    """A cut somewhere; a third of them by reset, which may take bytes with it."""
    at = int(len(DATA) * chance.random() ** 2) + chance.randrange(100, 6000)
    rate = 40e6 if chance.random() < 0.5 else None  # slow enough to be killed on the way
    return Fault(cut_after=at, reset=chance.random() < 0.33, rate=rate)


def fetch(config: str, ref: str, dest: Path, how: dict[str, Any], wide: bool) -> dict[str, Any]:
    """In a child."""
    import imagebroker

    tuning = stage.WIDE if wide else Tuning(journal_every=0.0)
    stage.BROKER = imagebroker.Broker(Settings.from_file(config, tuning=tuning))
    return stage.attempt(ref, dest, keep_partial=True, **how)
