"""Completion in a real bash: what the TAB key brings."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsAll, Equals, Not

from tests.bounds import HANGS
from tests.cli.conftest import Inside

#: After a change of commands or options: `imagebroker complete > etc/bash-completion/imagebroker`.
SCRIPT = Path(__file__).parents[2] / "etc" / "bash-completion" / "imagebroker"
BASH = shutil.which("bash")


@pytest.fixture(autouse=True)
def bash() -> None:
    if BASH is None:
        pytest.skip("install bash")


def offered(line: str, folder: Path) -> list[str]:
    """What bash is given for a line with the cursor at its end."""
    program = (
        f"source {shlex.quote(str(SCRIPT))}; COMP_LINE={shlex.quote(line)}; "
        'COMP_POINT=${#COMP_LINE}; _imagebroker; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        cwd=folder, check=True, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.stderr, Equals(""))
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("imagebroker downl", ["download"]),
        ("imagebroker --config-file x.conf sho", ["show"]),
        ("imagebroker con", ["config"]),
        ("imagebroker config ", ["show", "sample"]),
        ("imagebroker backend t", ["test"]),
        ("imagebroker help cop", ["copy"]),
        ("imagebroker download --che", ["--checksum"]),
        ("imagebroker download http://h/x dest --over", ["--overwrite"]),
        ("imagebroker download --progress ", ["auto", "json", "plain", "none"]),
        ("imagebroker download --progress=js", ["json"]),
        ("imagebroker list -f y", ["yaml"]),
        ("imagebroker list --backend gl", ["glance"]),
        ("imagebroker show -c disk", ["disk_format"]),
        ("imagebroker download ht", ["http://", "https://"]),
        ("imagebroker download --max-size 10G sc", ["scp://"]),
        ("imagebroker download https:", ["//"]),
        ("imagebroker download fil", ["file:", "file:///"]),
        ("imagebroker delete file:x sc", ["scp://"]),
        ("imagebroker backend test ht", ["http", "https"]),
        ("imagebroker config show backend:h", ["http"]),
        ("imagebroker download https://h/disk di", ["dir", "disk.img"]),
        ("imagebroker create --file di", ["dir", "disk.img"]),
        ("imagebroker --config-file di", ["dir", "disk.img"]),
        ("imagebroker download --checksum ", []),
        ("imagebroker download https://h/disk dest ", []),
        ("imagebroker nonsense ", []),
    ],
)
def test_what_is_offered(line: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "disk.img").touch()
    (tmp_path / "dir").mkdir()
    assert_that(sorted(offered(line, tmp_path)), Equals(sorted(expected)))


def test_every_command_and_every_option_of_it_is_offered(imagebroker: Inside) -> None:
    folder = imagebroker.work
    shown = imagebroker("--help").stdout.decode().partition("Commands:\n")[2]
    names = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  ", shown, flags=re.MULTILINE)
    assert_that(names, ContainsAll(["download", "config show", "backend new", "complete"]))
    assert_that(set(offered("imagebroker ", folder)), ContainsAll({n.split()[0] for n in names}))
    for name in names:
        described = imagebroker(*name.split(), "--help").stdout.decode()
        lines = re.findall(r"^  (-.*?)(?:  |$)", described, flags=re.MULTILINE)
        options = set(re.findall(r"--[a-z][a-z-]+", " ".join(lines)))
        assert_that(options, Contains("--help"))
        assert_that(set(offered(f"imagebroker {name} -", folder)), ContainsAll(options))
    assert_that(set(offered("imagebroker show -", folder)), Not(Contains("--checksum")))


@contextmanager
def _interactive(folder: Path) -> Iterator[int]:
    """A terminal with a bash in it that has read the script."""
    master, slave = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "PS1": "$ "}
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(slave)
        os.write(master, b"source %s; echo rea''dy\n" % os.fsencode(SCRIPT))
        try:
            _until(master, "ready\r\n")
            yield master
        finally:
            process.kill()
            os.close(master)


def _until(master: int, wanted: str) -> str:
    """What the terminal shows, as soon as it has `wanted`."""
    seen, ends = "", time.monotonic() + 30
    while wanted not in seen:
        ready = select.select([master], [], [], max(ends - time.monotonic(), 0))[0]
        assert ready, f"{wanted!r} is not in {seen!r}"
        seen += os.read(master, 4096).decode()
    return seen


def test_the_tab_key_completes_a_command_an_option_and_a_scheme(tmp_path: Path) -> None:
    (tmp_path / "disk with blanks.img").touch()
    with _interactive(tmp_path) as terminal:
        os.write(terminal, b"imagebroker downl\t")
        _until(terminal, "download ")
        os.write(terminal, b"--keep\t --allow-em\t")
        _until(terminal, "--allow-empty ")
        os.write(terminal, b"https\t")
        _until(terminal, "https://")
        os.write(terminal, b"host/path disk\t")
        seen = _until(terminal, ".img ")
        assert_that(seen, Contains("disk\\ with\\ blanks.img "))
