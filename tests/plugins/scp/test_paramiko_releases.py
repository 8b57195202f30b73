"""The oldest and the newest paramiko that may be installed, and one that nobody has tested."""

from __future__ import annotations

import logging
from pathlib import Path

import paramiko
import pytest
from imagebroker_scp.releases import TESTED
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, Not

from tests.plugins.scp_peers import fetched, make_backend
from tests.releases import Library
from tests.servers.sshd import Sshd

PARAMIKO = Library(
    "scp", "paramiko", "paramiko",
    # Bytes, ranges, errors, key exchanges in between.
    (
        "tests/plugins/scp/test_reading.py",
        "tests/plugins/scp/hostile/test_key_exchange.py",
        "tests/plugins/scp/hostile/test_ssh.py",
    ),
)  # fmt: skip
#: Where paramiko reads packets itself.
FALLBACK = {"IMAGEBROKER_TESTED_PARAMIKO": ""}


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return PARAMIKO.installed(PARAMIKO.requirement, tmp_path_factory.mktemp("newest"))


def test_the_oldest_release_passes_the_core_of_the_suite(tmp_path: Path) -> None:
    PARAMIKO.passes_core(PARAMIKO.installed(f"paramiko=={PARAMIKO.oldest}", tmp_path))


def test_the_newest_release_passes_the_core_of_the_suite(newest: Path) -> None:
    if PARAMIKO.release(newest) == paramiko.__version__:
        pytest.skip("the whole suite runs with it")
    PARAMIKO.passes_core(newest)


def test_the_newest_release_passes_it_where_paramiko_reads_packets_itself(newest: Path) -> None:
    PARAMIKO.passes_core(newest, **FALLBACK)


def test_the_oldest_release_is_one_of_those_that_were_tested() -> None:
    assert_that(TESTED[0], Equals(PARAMIKO.oldest))


def test_a_release_that_nobody_has_tested_reads_packets_itself_and_the_log_says_so(
    sshd: Sshd, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imagebroker_scp")
    data = fetched(sshd.url(image), make_backend(sshd, tested=("2.12.0",)))
    assert_that(data == image.read_bytes(), Is(True))
    assert_that(caplog.text, Contains(f"paramiko {paramiko.__version__} is not a tested release"))
    [record] = [each for each in caplog.records if "is not a tested release" in each.message]
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
