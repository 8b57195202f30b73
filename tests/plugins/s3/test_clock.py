"""A clock that is wrong: signatures are refused, and the error says by how much, and what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, LessThan, MatchesAll

from tests.bounds import HANGS
from tests.plugins.s3.conftest import Bucket, OtherBucket
from tests.servers.fixtures import require

pytest.importorskip("boto3")
from imagebroker_s3.errors import error_of


@pytest.fixture
def late() -> list[str]:
    """What a command begins with that has another time."""
    require(None if shutil.which("faketime") else "install faketime: tests/install-servers")
    return ["faketime", "-f"]


def stderr_of(config: str, late: list[str], when: str, ref: str, folder: Path, status: int) -> str:
    (folder / "conf").write_text(config)
    done = subprocess.run(
        [*late, when, sys.executable, "-m", "imagebroker", "--config-file", folder / "conf",
         "download", ref, folder / "disk"],
        capture_output=True, text=True, timeout=HANGS,
        env={**os.environ, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_COLOR": "1"},
    )  # fmt: skip
    assert_that(done.returncode, Equals(status), done.stderr)
    return done.stderr


@pytest.mark.parametrize(("when", "where"), [("+2h", "ahead"), ("-3h", "behind")])
def test_a_wrong_clock_is_named_with_its_error_and_its_remedy(
    of_ceph: OtherBucket, late: list[str], when: str, where: str, tmp_path: Path
) -> None:
    of_ceph.client.put_object(Bucket=of_ceph.name, Key="disk", Body=b"\0")
    found = stderr_of(of_ceph.config(), late, when, of_ceph.ref("disk"), tmp_path, 4)
    named = re.search(r"RequestTimeTooSkewed; the clock .* (\d+) minutes (\w+)", found)
    assert_that(named is not None and named[2], Equals(where))
    # What the command itself takes on a busy machine counts too.
    off = int(named[1]) - 60 * int(when[1]) if named else None
    assert_that(off, MatchesAll(GreaterThan(-30), LessThan(30)))
    assert_that(found, Contains("timedatectl set-ntp true"))


def test_swift_is_understood_too(bucket: Bucket, late: list[str], tmp_path: Path) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="disk", Body=b"\0")
    ref = f"s3://{bucket.name}/disk"
    found = stderr_of(bucket.config(), late, "+2h", ref, tmp_path, 4)
    assert_that(found, Contains("timedatectl set-ntp true"))


@pytest.mark.parametrize("date", ["", "yesterday", None])
def test_without_the_servers_time_the_remedy_is_the_same(date: str | None) -> None:
    told = {"HTTPStatusCode": 403, "HTTPHeaders": {} if date is None else {"date": date}}
    error = error_of(
        "s3://b/k", {"Error": {"Code": "RequestTimeTooSkewed"}, "ResponseMetadata": told}
    )
    assert_that(error.hint, Contains("timedatectl"))
