"""The oldest and the newest paramiko that may be installed, and one that nobody has tested."""

from __future__ import annotations

import configparser
import logging
import os
import subprocess
import sys
from pathlib import Path

import paramiko
import pytest
from imagebroker_scp.releases import TESTED
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, Not

from tests.bounds import HANGS
from tests.plugins.scp_peers import fetched, make_backend
from tests.servers.fixtures import require
from tests.servers.sshd import Sshd

ROOT = Path(__file__).parents[3]
#: The tests that every release has to pass: bytes, ranges, errors, key exchanges in between.
CORE = (
    "tests/plugins/scp/test_reading.py",
    "tests/plugins/scp/hostile/test_key_exchange.py",
    "tests/plugins/scp/hostile/test_ssh.py",
)
#: Where paramiko reads packets itself.
FALLBACK = {"IMAGEBROKER_TESTED_PARAMIKO": ""}


def requirement() -> str:
    """What the extra `scp` asks for."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options.extras_require"]["scp"].split()
    return next(line for line in lines if line.startswith("paramiko"))


def oldest() -> str:
    return requirement().partition(">=")[2]


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(requirement(), tmp_path_factory.mktemp("newest"))


def installed(wanted: str, folder: Path) -> Path:
    """A folder with one release of paramiko; what it depends on is that of this environment."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--target", folder, wanted],
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    if done.returncode:
        require(f"{wanted} cannot be installed from here: {done.stderr.strip()[-300:]}")
    return folder


def release(folder: Path) -> str:
    """The release that is in a folder."""
    return next(folder.glob("paramiko-*.dist-info")).name.split("-")[1].removesuffix(".dist")


def run_core(folder: Path, **environment: str) -> None:
    """The core of the suite passes with the paramiko of a folder."""
    with_it = {**os.environ, "PYTHONPATH": str(folder), **environment}
    with_it.pop("PYTEST_XDIST_WORKER", None)
    code = "import paramiko; print(paramiko.__version__)"
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=with_it, check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(shown.stdout.strip(), Equals(release(folder)), shown.stderr[-2000:])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "-p", "no:xdist", "-k", "not gibibytes", *CORE],
        cwd=ROOT, env=with_it, check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stdout[-6000:] + done.stderr[-2000:])


def test_the_oldest_release_passes_the_core_of_the_suite(tmp_path: Path) -> None:
    run_core(installed(f"paramiko=={oldest()}", tmp_path))


def test_the_newest_release_passes_the_core_of_the_suite(newest: Path) -> None:
    if release(newest) == paramiko.__version__:
        pytest.skip("the whole suite runs with it")
    run_core(newest)


def test_the_newest_release_passes_it_where_paramiko_reads_packets_itself(newest: Path) -> None:
    run_core(newest, **FALLBACK)


def test_the_oldest_release_is_one_of_those_that_were_tested() -> None:
    assert_that(TESTED[0], Equals(oldest()))


def test_a_release_that_nobody_has_tested_reads_packets_itself_and_the_log_says_so(
    sshd: Sshd, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imagebroker_scp")
    data = fetched(sshd.url(image), make_backend(sshd, tested=("2.12.0",)))
    assert_that(data == image.read_bytes(), Is(True))
    assert_that(caplog.text, Contains(f"paramiko {paramiko.__version__} is none of the releases"))
    [record] = [each for each in caplog.records if "is none of the releases" in each.message]
    assert_that(record.levelno, Equals(logging.INFO))


@pytest.mark.skipif(
    paramiko.__version__ not in TESTED, reason="this release of paramiko is newer than the list"
)
def test_of_a_tested_release_nothing_is_said(
    sshd: Sshd, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imagebroker_scp")
    data = fetched(sshd.url(image), make_backend(sshd, tested=None))
    assert_that(data == image.read_bytes(), Is(True))
    assert_that(caplog.text, Not(Contains("paramiko")))
