"""A folder in which one image is downloaded again and again, in every way that it can be."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from imagebroker.config.settings import Settings
from imagebroker.config.tuning import Tuning
from tests.distributions import install
from tests.faults.tally import HANG, LEAK, OTHER, PARTIAL, WRONG, Violation
from tests.scripted import IMAGES, Script

_random = random.Random(4).randbytes
#: A few chunks, a run of zeros in the middle, and an end that is no multiple of anything.
DATA = _random(160 * 1024) + bytes(64 * 1024) + _random(30_001)
CHUNK = 16 * 1024
#: What the destination holds before, where it exists.
OLD = b"what was there"
REF = "scripted://h/image"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()

#: How the bytes come, and where they go. "interrupted" breaks in the middle and keeps its part;
#: "resumed" goes on with what such a one left.
WAYS = ("streamed", "cloned", "ranges", "resumed", "interrupted")
#: The ways that leave or take up a part file.
KEEPING = ("resumed", "interrupted")
_BROKEN_AT = 150_000

#: Several ranges at once for images as small as ours, and at once; every chunk is noted.
WIDE = Tuning(
    parallel_from=CHUNK, observe=0.0, measure=0.001, smallest_range=CHUNK, journal_every=0.0
)

BROKER: Any = None
STORE = Path()


def prepare(folder: Path) -> None:
    """A broker, warm, in this process; it notes for a later one what it has after each chunk."""
    global BROKER, STORE
    import imagebroker
    import imagebroker.transfer.fetch.range_scheduler  # an import is not what is to be struck

    STORE = folder / "disk" / "store"
    (folder / "disk").mkdir()
    logging.getLogger().addHandler(logging.NullHandler())
    site = folder / "site"
    if not site.exists():
        install(site, "imagebroker-scripted", {"scripted": "tests.scripted:ScriptedBackend"})
    config = folder / "imagebroker.conf"
    config.write_text(
        "[imagebroker]\nenabled_schemes = scripted, file\nretry_backoff = 0\n"
        f"[backend:file]\nstore_dir = {STORE}\n"
    )
    (folder / "source").write_bytes(DATA)
    sys.path.insert(0, str(site))
    BROKER = imagebroker.Broker(Settings.from_file(config, tuning=WIDE))
    IMAGES["/warm"] = Script(b"warm")
    BROKER.download(None, "scripted://h/warm", folder / "warm")


def settle() -> None:
    """In a child: the broker makes its backends anew after a fork."""
    BROKER.resolve(REF)


def script(way: str, folder: Path) -> Script:
    image = Script(DATA, chunk=CHUNK, version='"v1"')
    if way == "cloned":
        image.local_path = folder / "source"
    elif way == "ranges":
        image.parallel_reads = 4
        image.before_chunk = lambda offset: time.sleep(0.001)
    elif way == "interrupted":
        image.breaks = [(_BROKEN_AT, None)]
    return image


def arguments(way: str) -> dict[str, Any]:
    """Of the call, beside the ref and the destination."""
    if way == "interrupted":
        return {"keep_partial": True, "retries": 0}
    return {"keep_partial": True} if way == "resumed" else {}


def download(folder: Path, dest: Path, way: str, pace: float = 0.0) -> dict[str, Any]:
    """In a child: one download, and what is open afterwards."""
    IMAGES["/image"] = image = script(way, folder)
    if pace:
        image.before_chunk = lambda offset: time.sleep(pace)
    answer = attempt(REF, dest, **arguments(way))
    answer["reads"] = list(image.reads)
    return answer


def attempt(ref: str, dest: Path, **how: Any) -> dict[str, Any]:
    """Download, tell a tracer that it is over, and say how it ended."""
    import imagebroker

    try:
        done = BROKER.download(None, ref, dest, **how)
        answer: dict[str, Any] = {"end": "done", "resumed_from": done.resumed_from}
    except imagebroker.ImageBrokerError as error:
        broken = isinstance(error, (imagebroker.TransferError, imagebroker.BackendError))
        answer = {"end": "error", "class": type(error).__name__, "text": str(error),
                  "interrupted": broken, "retryable": error.retryable}  # fmt: skip
    # A system call that nothing else here makes: what a tracer sees after it does not count.
    os.getpriority(os.PRIO_PROCESS, 0)
    deadline = time.monotonic() + 2
    while (threads := threading.active_count() - 1) and time.monotonic() < deadline:
        time.sleep(0.002)
    return answer | {"threads": threads, "files": len(os.listdir("/proc/self/fd"))}


def leftovers(folder: Path) -> list[str]:
    """What is beside the destination."""
    return sorted(each.name for each in folder.iterdir() if each.name != "image")


def reset(dest: Path, *, existing: bool, kept: Path | None = None) -> None:
    """The folder of the destination as it is before a download."""
    shutil.rmtree(dest, ignore_errors=True)
    dest.mkdir()
    if existing:
        (dest / "image").write_bytes(OLD)
    for each in kept.iterdir() if kept is not None else ():
        shutil.copy2(each, dest / each.name)


def judge(
    dest: Path,
    *,
    existing: bool,
    answer: dict[str, Any] | None,
    may_keep: bool = False,
    before: Container[str] = (),
    files: int,
) -> Iterator[Violation]:
    """What is wrong after a download that ended as `answer` says; None: its process was killed.

    `may_keep`: an interrupted one may leave what the next one takes up. `before`: what was beside
    the destination already. `files`: descriptors that a process has after a download.
    """
    image = dest / "image"
    content = image.read_bytes() if image.exists() else None
    if content not in (OLD if existing else None, DATA):
        yield Violation(PARTIAL, f"{len(content or b'')} bytes, neither the old nor the new image")
    if answer is None:
        return
    if "raised" in answer:
        yield Violation(OTHER, answer["raised"])
        return
    if answer["end"] == "done" and content != DATA:
        yield Violation(WRONG, "success was reported, and dest is not the image")
    if answer["end"] == "error" and content == DATA and "is complete" not in answer["text"]:
        yield Violation(OTHER, f"an error was reported, and dest was replaced: {answer['text']}")
    if answer["threads"]:
        yield Violation(LEAK, f"{answer['threads']} threads more than before")
    if answer["files"] > files:
        yield Violation(LEAK, f"{answer['files'] - files} descriptors more than before")
    left = [name for name in leftovers(dest) if name not in before]
    if left and not (may_keep and answer["end"] == "error" and answer["interrupted"]):
        yield Violation(LEAK, f"left behind after {answer}: {left}")


def judge_next(dest: Path, answer: dict[str, Any] | None) -> Iterator[Violation]:
    """What is wrong after the download that follows a fault, and meets none itself."""
    if answer is None or "raised" in answer:
        yield Violation(OTHER, f"the next download did not come to its end: {answer}")
        return
    if answer["end"] != "done":
        yield Violation(OTHER, f"the next download failed: {answer}")
    elif (dest / "image").read_bytes() != DATA:
        yield Violation(WRONG, "the next download reports success, and dest is not the image")
    if left := leftovers(dest):
        yield Violation(LEAK, f"the next download leaves {left}")


def hang(seconds: float) -> Violation:
    return Violation(HANG, f"no end within {seconds:.0f} s")
