"""`download` to a DEST that already is the image, as a timer repeats it every day."""

from __future__ import annotations

import hashlib

from testtools.assertions import assert_that
from testtools.matchers import Equals, MatchesRegex, StartsWith

from tests.cli.conftest import Inside

DATA = bytes(range(256)) * 40


def stored(imagebroker: Inside) -> str:
    (imagebroker.work / "disk.raw").write_bytes(DATA)
    ref: str = imagebroker("create", "--file", "disk.raw", "-f", "json").record["ref"]
    return ref


def test_a_second_run_says_that_it_is_up_to_date(imagebroker: Inside) -> None:
    ref = stored(imagebroker)
    first = imagebroker("download", ref, "dest")
    assert_that(first.stderr, StartsWith("imagebroker: stored dest: "))
    inode = (imagebroker.work / "dest").stat().st_ino
    again = imagebroker("download", ref, "dest")
    digest = hashlib.sha256(DATA).hexdigest()
    assert_that(again.status, Equals(0))
    assert_that(
        again.stderr,
        MatchesRegex(
            rf"imagebroker: dest is up to date: 10\.0 KiB(, .*)?sha256:{digest}, raw, virtual size "
            r"10\.0 KiB; verified: sha256 of the record\n"
        ),
    )
    assert_that((imagebroker.work / "dest").stat().st_ino, Equals(inode))


def test_json_says_so_too(imagebroker: Inside) -> None:
    ref = stored(imagebroker)
    runs = [imagebroker("download", ref, "dest", "-f", "json").record for _ in range(2)]
    assert_that([run["via"] for run in runs], Equals(["backend", "present"]))
    assert_that([run["attempts"] for run in runs], Equals([1, 0]))
    assert_that(runs[1]["rate"], Equals(None))


def test_what_was_damaged_in_the_meantime_is_stored_again(imagebroker: Inside) -> None:
    ref = stored(imagebroker)
    imagebroker("download", ref, "dest")
    (imagebroker.work / "dest").write_bytes(DATA[:-1] + b"x")
    again = imagebroker("download", ref, "dest")
    assert_that(again.stderr, StartsWith("imagebroker: stored dest: "))
    assert_that((imagebroker.work / "dest").read_bytes(), Equals(DATA))


def test_no_overwrite_still_refuses(imagebroker: Inside) -> None:
    ref = stored(imagebroker)
    imagebroker("download", ref, "dest")
    assert_that(imagebroker("download", ref, "dest", "--no-overwrite").status, Equals(9))
