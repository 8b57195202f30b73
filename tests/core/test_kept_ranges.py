"""What several ranges had stored when a transfer broke, a later process need not read again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, LessThan, MatchesAny

from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import TransferError
from tests.bounds import HANGS
from tests.conftest import Scripted

MIB = 1 << 20
#: The middle is zeros, which are not written.
DATA = random.Random(1).randbytes(5 * MIB) + bytes(2 * MIB) + random.Random(2).randbytes(5 * MIB)
CHECKSUM = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
CHUNK = 64 * 1024


@pytest.fixture
def tuning() -> Tuning:
    return Tuning(
        parallel_from=256 * 1024, observe=0.02, measure=0.02, smallest_range=256 * 1024,
        first_range=MIB,
    )  # fmt: skip


class Metered:
    """Counts what is sent, and breaks for good after so many bytes."""

    def __init__(self, limit: int | None = None) -> None:
        self.sent, self.limit = 0, limit
        self._lock = threading.Lock()

    def __call__(self, offset: int) -> None:
        time.sleep(0.004)
        with self._lock:
            if self.limit is not None and self.sent >= self.limit:
                raise TransferError("gone", retryable=False)
            self.sent += CHUNK


@pytest.fixture(params=["version", "digest"])
def broken(
    request: pytest.FixtureRequest, scripted: Scripted, tmp_path: Path
) -> tuple[str, Any, dict[str, Any], int]:
    """A download that broke after 6 MiB: ref, script, arguments, the bytes that were kept."""
    arguments = {"checksum": CHECKSUM} if request.param == "digest" else {}
    ref, script = scripted.image(
        DATA, chunk=CHUNK, parallel_reads=8, version="v1", before_chunk=Metered(6 * MIB)
    )
    with pytest.raises(TransferError) as caught:
        scripted.broker.download(None, ref, tmp_path / "image", keep_partial=True, **arguments)
    kept = caught.value.bytes_kept
    assert kept is not None
    assert_that(kept, GreaterThan(4 * MIB))
    script.before_chunk = Metered()
    return ref, script, arguments, kept


def left(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """The part file, its journal, and what that says."""
    (part,) = tmp_path.glob(".image*-part")
    (journal,) = tmp_path.glob(".image*-journal")
    return part, journal, json.loads(journal.read_bytes())


@pytest.mark.promise("kept-part")
def test_only_what_is_missing_is_read(
    broken: tuple[str, Any, dict[str, Any], int], scripted: Scripted, tmp_path: Path
) -> None:
    ref, script, arguments, kept = broken
    said = left(tmp_path)[2]
    assert_that(len(said["early"]), GreaterThan(0))
    assert_that(bool(said["early"][0][2]), Equals(not arguments))
    done = scripted.broker.download(None, ref, tmp_path / "image", **arguments)
    assert_that((tmp_path / "image").read_bytes() == DATA, Equals(True))
    assert_that(sum(done.served.values()), Equals(len(DATA) - kept))
    assert_that(script.before_chunk.sent, LessThan(len(DATA) - kept + MIB))
    assert_that(done.evidence["sha256"], Equals(CHECKSUM.partition(":")[2]))
    assert_that(list(tmp_path.glob(".image*")), Equals([]))


@pytest.mark.parametrize("before", [0, MIB])
@pytest.mark.parametrize("gap", [5, CHUNK, 3 * CHUNK + 1, 2 * MIB])
def test_one_gap_is_read_and_nothing_behind_it(
    before: int,
    gap: int,
    broken: tuple[str, Any, dict[str, Any], int],
    scripted: Scripted,
    tmp_path: Path,
) -> None:
    ref, _, arguments, _ = broken
    part, journal, said = left(tmp_path)
    behind = before + gap
    part.write_bytes(DATA[:before] + bytes(gap) + DATA[behind:])
    digest = "" if arguments else hashlib.sha256(DATA[behind:]).hexdigest()
    said["stored"], said["early"] = before, [[behind, len(DATA), digest]]
    said["digests"] = {"sha256": hashlib.sha256(DATA[:before]).hexdigest()}
    journal.write_text(json.dumps(said))
    done = scripted.broker.download(None, ref, tmp_path / "image", **arguments)
    assert_that((tmp_path / "image").read_bytes() == DATA, Equals(True))
    assert_that(sum(done.served.values()), Equals(gap))


@pytest.mark.promise("kept-part")
def test_damage_in_a_range_that_was_kept_is_found_and_read_again(
    broken: tuple[str, Any, dict[str, Any], int], scripted: Scripted, tmp_path: Path
) -> None:
    ref, _, arguments, _ = broken
    part, _, said = left(tmp_path)
    with open(part, "r+b") as file:
        file.seek(said["early"][-1][0] + 5)
        file.write(b"damage")
    scripted.broker.download(None, ref, tmp_path / "image", **arguments)
    assert_that((tmp_path / "image").read_bytes() == DATA, Equals(True))


def test_what_was_written_and_not_noted_does_not_show_through_the_zeros_that_are_not_written(
    broken: tuple[str, Any, dict[str, Any], int], scripted: Scripted, tmp_path: Path
) -> None:
    ref, _, arguments, _ = broken
    part, _, said = left(tmp_path)
    position = said["stored"]
    with open(part, "r+b") as file:
        for start, stop, _ in said["early"]:
            file.seek(position)
            file.write(b"?" * (start - position))
            position = stop
    scripted.broker.download(None, ref, tmp_path / "image", **arguments)
    assert_that((tmp_path / "image").read_bytes() == DATA, Equals(True))


@pytest.mark.parametrize("change", ["version", "early", "order", "beyond", "kinds"])
def test_a_journal_that_makes_no_sense_or_is_of_another_image_is_not_used(
    change: str, broken: tuple[str, Any, dict[str, Any], int], scripted: Scripted, tmp_path: Path
) -> None:
    ref, script, arguments, _ = broken
    _, journal, said = left(tmp_path)
    if change == "version":
        script.version = "v2"
    elif change == "early":
        said["early"] = "no"
    elif change == "order":
        said["early"] = [[9 * MIB, 10 * MIB, ""], [8 * MIB, 9 * MIB, ""]]
    elif change == "beyond":
        said["early"] = [[said["stored"] - 1, said["stored"] + 5, ""]]
    else:
        said["early"] = [["a", None, 3]]
    if change != "version":
        journal.write_text(json.dumps(said))
    done = scripted.broker.download(None, ref, tmp_path / "image", **arguments)
    assert_that((tmp_path / "image").read_bytes() == DATA, Equals(True))
    # Another version may be that of another server; with a digest of the whole that is found out.
    taken_up = change == "version" and "checksum" in arguments
    assert_that(sum(done.served.values()) == len(DATA), Equals(not taken_up))


def noted_bytes(folder: Path) -> int:
    """What a journal promises to the next process; 0 where it was killed before it noted any."""
    for path in folder.glob(".*.imagebroker-journal"):
        if path.stat().st_size:
            said = json.loads(path.read_text())
            early = sum(stop - start for start, stop, _ in said["early"])
            return int(said["stored"]) + early
    return 0


KILLED = """
import os, random, signal, sys, time
sys.path[:0] = {path!r}
import imagebroker
from imagebroker.config.settings import Settings
from imagebroker.config.tuning import Tuning
from tests.scripted import IMAGES, Script

tuning = Tuning(
    parallel_from=256 * 1024, observe=0.02, measure=0.02, journal_every=0.02,
    smallest_range=256 * 1024, first_range=1 << 20,
)
data = random.Random(1).randbytes(5 << 20) + bytes(2 << 20) + random.Random(2).randbytes(5 << 20)
sent = 0

def maybe_die(offset):
    global sent
    time.sleep(0.004)
    sent += 65536
    if sent > {at}:
        os.kill(os.getpid(), signal.SIGKILL)

IMAGES["/image"] = Script(
    data, chunk=65536, parallel_reads=8, version="v1", before_chunk=maybe_die
)
broker = imagebroker.Broker(Settings.from_file({config!r}, tuning=tuning))
broker.download(None, "scripted://host/image", {dest!r}, keep_partial=True, **{arguments!r})
"""


@pytest.mark.promise("kept-part")
@pytest.mark.parametrize("arguments", [{}, {"checksum": CHECKSUM}], ids=["version", "digest"])
@pytest.mark.parametrize("at", [1, 5 * MIB, 9 * MIB])
def test_after_kill_9_at_any_moment_the_bytes_are_right_and_few_are_read_again(
    at: int, arguments: dict[str, Any], scripted: Scripted, on_path: Path, tmp_path: Path
) -> None:
    config = tmp_path / "killed.conf"
    config.write_text("[imagebroker]\nenabled_schemes = scripted\n")
    program = KILLED.format(
        path=[str(on_path), os.getcwd()], at=at, config=str(config), dest=str(tmp_path / "image"),
        arguments=arguments,
    )  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=HANGS)
    assert_that(ended.returncode, Equals(-signal.SIGKILL))
    assert_that((tmp_path / "image").exists(), Equals(False))
    noted = noted_bytes(tmp_path)
    ref, _ = scripted.image(
        DATA, chunk=CHUNK, parallel_reads=8, version="v1", before_chunk=Metered()
    )
    done = scripted.broker.download(None, ref, tmp_path / "image", **arguments)
    assert_that((tmp_path / "image").read_bytes() == DATA, Equals(True))
    assert_that(sum(done.served.values()) <= len(DATA) - noted, Equals(True))
    assert_that(done.resumed_from, MatchesAny(Equals(None), GreaterThan(0)))
    assert_that(str(done.evidence), Contains(CHECKSUM.partition(":")[2]))
