"""python -m tests.forks.program FOLDER DEST: a process that forks within its downloads.

The child leaves in each way that there is, and what it does not end by itself the interpreter ends,
with all that is called then. The parent waits for it, goes on, and prints one line of JSON.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagebroker.exceptions import Cancelled
from tests.faults import stage
from tests.scripted import IMAGES

WAYS = ("sys.exit", "exception", "os._exit", "return", "exec", "subprocess", "multiprocessing")
REFUSED = 42


class Stray(Exception):
    """Of the child's own code."""


def leave(way: str) -> None:
    """In the child."""
    if way == "sys.exit":
        sys.exit(7)
    if way == "exception":
        raise Stray
    if way == "os._exit":
        os._exit(7)
    if way == "exec":
        os.execv("/bin/true", ["true"])
    if way == "subprocess":
        subprocess.run(["/bin/true"], check=True, preexec_fn=lambda: None)
        sys.exit(7)


class Fork:
    """A callback that forks, once, when it is called for the `at`-th time."""

    def __init__(self, way: str, at: int) -> None:
        self._way, self._left = way, at
        self.status: int | None = None

    def __call__(self, *ignored: Any) -> None:
        self._left -= 1
        if self._left:
            return
        if self._way == "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(7,))
            process.start()
            process.join()
            self.status = process.exitcode
            return
        child = os.fork()
        if child:
            self.status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return
        sys.stderr = io.StringIO()  # a traceback is what is wanted here
        leave(self._way)


def into_path(fork: Fork, dest: Path) -> dict[str, Any]:
    done = stage.BROKER.download(None, stage.REF, dest, progress=fork, keep_partial=True)
    return {"attempts": done.attempts, "right": dest.read_bytes() == stage.DATA}


def into_object(fork: Fork, dest: Path) -> dict[str, Any]:
    """Into a file with a buffer, which a child has a copy of."""
    with dest.open("wb") as target:
        target.write(b"head")
        target.flush()
        done = stage.BROKER.download(None, stage.REF, target, progress=fork)
    return {"attempts": done.attempts, "right": dest.read_bytes() == b"head" + stage.DATA}


def into_raw_object(fork: Fork, dest: Path) -> dict[str, Any]:
    with dest.open("wb", buffering=0) as target:
        done = stage.BROKER.download(None, stage.REF, target, progress=fork)
    return {"attempts": done.attempts, "right": dest.read_bytes() == stage.DATA}


def through_reader(fork: Fork, dest: Path) -> dict[str, Any]:
    read = b""
    with stage.BROKER.open(None, stage.REF) as reader:
        for chunk in reader:
            read += chunk
            fork()
    return {"attempts": 1, "right": read == stage.DATA}


def with_cancel(fork: Fork, dest: Path) -> dict[str, Any]:
    class Cancel:
        def is_set(self) -> bool:
            fork()
            return False

    done = stage.BROKER.download(None, stage.REF, dest, cancel=Cancel())
    return {"attempts": done.attempts, "right": dest.read_bytes() == stage.DATA}


DESTS: dict[str, Callable[[Fork, Path], dict[str, Any]]] = {
    "path": into_path, "object": into_object, "raw-object": into_raw_object,
    "reader": through_reader, "cancel": with_cancel,
}  # fmt: skip


def main(folder: Path, dest: str) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads, from 3.12 on
    stage.prepare(folder)
    for way in WAYS:
        for at in (1, 3):
            image = stage.script("streamed", folder)
            # Slowly, so that there are some calls.
            image.before_chunk = lambda offset: stage.time.sleep(0.03)
            IMAGES["/image"] = image
            fork = Fork(way, at)
            into = folder / f"{way}-{at}"
            into.mkdir()
            try:
                found = DESTS[dest](fork, into / "image")
            except Cancelled:
                sys.exit(REFUSED)  # the child that came back
            found |= {"way": way, "status": fork.status, "closed": image.closed}
            print(json.dumps(found | {"left": sorted(os.listdir(into))}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
