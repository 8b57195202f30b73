"""What is left of a download in a swarm after its processes have ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.swarm.spool import new_spool
from imagebroker.system.files import lock
from tests.bounds import HANGS
from tests.swarm.fleet import needs_libtorrent

HOURS = 3 * 3600


def left(folder: Path, name: str, *, locked: bool | None, age: int = 0) -> int | None:
    """A directory of another download; a lock that is held is returned."""
    made, fd = folder / name, None
    (made / "0-1").mkdir(parents=True)
    if locked is not None:
        fd = os.open(made / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        lock(fd) if locked else os.close(fd)
    now = made.stat().st_mtime
    os.utime(made, (now - age, now - age))
    return fd if locked else None


def test_what_dead_processes_have_left_is_removed(tmp_path: Path) -> None:
    held = left(tmp_path, "in use", locked=True, age=HOURS)
    left(tmp_path, "ended", locked=False)
    left(tmp_path, "about to begin", locked=None)
    left(tmp_path, "never begun", locked=None, age=HOURS)
    (tmp_path / "a file").touch()
    made = Path(new_spool(tmp_path)).name
    assert held is not None
    os.close(held)
    found = {each.name for each in tmp_path.iterdir()}
    assert_that(found, Equals({"in use", "about to begin", "a file", made}))


@needs_libtorrent
def test_a_second_process_whose_first_is_gone_leaves_nothing(tmp_path: Path) -> None:
    spool = tmp_path / "swarm-x"
    spool.mkdir()
    first, second = socket.socketpair()
    with second:
        first.close()
        done = subprocess.run(
            [sys.executable, "-m", "imagebroker.swarm.child", str(second.fileno()), spool],
            pass_fds=[second.fileno()], capture_output=True, text=True, timeout=HANGS, cwd="/",
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
    assert_that((done.stderr, spool.exists()), Equals(("", False)))
