"""The systemd units that are shipped load, and run a command line that works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.cli import exit_status
from tests.bounds import HANGS

EXAMPLES = Path(__file__).parents[2] / "examples"
UNITS = sorted(
    path for kind in ("service", "timer", "socket", "path") for path in EXAMPLES.rglob(f"*.{kind}")
)
SERVICE = EXAMPLES / "systemd" / "imagebroker-image@.service"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The command as an executable file, which the units expect in /usr/bin."""
    path = tmp_path / "bin" / "imagebroker"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m imagebroker "$@"\n')
    path.chmod(0o755)
    return path


def verified(unit: Path, folder: Path, program: Path, **changes: str) -> tuple[int, str]:
    """What systemd says about a unit and those beside it, once the command is where it expects."""
    for path in UNITS:
        text = path.read_text().replace("/usr/bin/imagebroker", str(program))
        for old, new in changes.items():
            text = re.sub(rf"(?m)^{old}=.*$", new, text)
        (folder / path.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(folder / unit.name)],
        check=False, capture_output=True, text=True, timeout=HANGS,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
class TestUnits:
    @pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
    def test_a_unit_loads(self, unit: Path, tmp_path: Path, program: Path) -> None:
        assert_that(verified(unit, tmp_path, program), Equals((0, "")))

    @pytest.mark.parametrize("line", [
        "RestartForceExitStatus=5", "Restart=always", "RestartPreventExitStatus=none",
        "RestartExitStatus=5",
    ])  # fmt: skip
    def test_one_that_does_not_load_is_found(
        self, line: str, tmp_path: Path, program: Path
    ) -> None:
        found = verified(SERVICE, tmp_path, program, Restart=line)
        assert_that(found[1], Contains("imagebroker-image@"))


def test_every_kind_of_unit_is_looked_at() -> None:
    assert_that({path.suffix for path in UNITS}, Equals({".service", ".timer"}))


def test_only_temporary_failures_are_tried_again() -> None:
    """A wrong digest or a wrong password does not get better by asking every five minutes."""
    text = SERVICE.read_text()
    found = re.search(r"(?m)^RestartPreventExitStatus=(.*)$", text)
    assert found is not None
    known = {
        value for name, value in vars(exit_status).items()
        if name.isupper() and isinstance(value, int)
    }  # fmt: skip
    assert_that(re.search(r"(?m)^Restart=on-failure$", text) is not None, Equals(True))
    assert_that(
        {int(each) for each in found[1].split()},
        Equals((known | {1, 2, 3, 4, 6, 7, 9}) - {0, 5, 130}),
    )


def test_its_command_line_downloads(tmp_path: Path, program: Path) -> None:
    """With what its comment says belongs into the file of the instance."""
    (tmp_path / "disk.raw").write_bytes(bytes(range(256)) * 40)
    config = tmp_path / "imagebroker.conf"
    config.write_text(
        f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nallowed_paths = {tmp_path}\n"
    )
    found = re.search(r"(?m)^ExecStart=(.*)$", SERVICE.read_text())
    assert found is not None
    line = (
        found[1]
        .replace("/usr/bin/imagebroker", str(program))
        .replace("/etc/imagebroker/imagebroker.conf", str(config))
        .replace("/var/lib/imagebroker-images/%i", str(tmp_path / "image"))
        .replace("$OPTIONS", "--min-rate 10 --retries 1")
        .replace("${REF}", f"file://{tmp_path}/disk.raw")
    )
    done = subprocess.run(shlex.split(line), check=False, capture_output=True, timeout=HANGS)
    assert_that((done.returncode, done.stdout), Equals((0, b"")), done.stderr.decode())
    assert_that((tmp_path / "image.img").read_bytes(), Equals(bytes(range(256)) * 40))
