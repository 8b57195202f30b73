"""A copy from every backend to every one that can create, streamed through one broker.

docs/records.md has the table of these pairs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is, LessThan, MatchesStructure

from imagebroker.exceptions import (
    ChecksumMismatch,
    ImageBrokerError,
    UnsupportedOperation,
)
from tests.end_to_end.conftest import RECORDS, SOURCES, TARGETS, Everywhere


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("target", TARGETS)
def test_a_copy_has_the_bytes_and_what_the_original_said(
    everywhere: Everywhere, tmp_path: Path, target: str
) -> None:
    for source, ref in everywhere.to(target):
        info = {"name": f"copy-of-{source.replace(' ', '-')}"}
        copied = everywhere.broker.copy(None, ref, info, backend=target)
        assert_that(copied.name, Equals(info["name"]))
        assert_that(copied.size, Equals(len(everywhere.data)))
        done = everywhere.broker.download(None, copied.ref, tmp_path / "copy")
        assert_that((tmp_path / "copy").read_bytes() == everywhere.data, Is(True))
        assert_that(done.evidence["disk_format"], Equals("qcow2"))
        if target != "scp":
            assert_that(copied, MatchesStructure.byEquality(status="active", disk_format="qcow2"))
            assert_that(copied.min_ram or 0, Equals(64 if source in RECORDS else 0))


def test_the_documented_table_has_these_pairs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
    section = text.split("## Copies")[1].split("\n## ")[0]
    header, _, *rows = [line for line in section.splitlines() if line.startswith("|")]
    assert_that(_cells(header)[1:], Equals([*TARGETS]))
    found = [_cells(row) for row in rows]
    assert_that([row[0] for row in found], Equals([*SOURCES]))
    assert_that({cell for row in found for cell in row[1:]}, Equals({"yes"}))


@pytest.mark.parametrize("target", TARGETS)
def test_a_copy_whose_source_is_not_what_was_asked_for_leaves_nothing(
    everywhere: Everywhere, target: str
) -> None:
    sources = everywhere.to(target)
    before = everywhere.left_in(target)
    wrong = f"sha256:{hashlib.sha256(b'something else').hexdigest()}"
    for _, ref in sources:
        with pytest.raises(ImageBrokerError) as caught:
            everywhere.broker.copy(None, ref, {"name": "copy"}, backend=target, checksum=wrong)
        causes = [caught.value, caught.value.__cause__, caught.value.__context__]
        assert_that(any(isinstance(each, ChecksumMismatch) for each in causes), Is(True))
    assert_that(everywhere.left_in(target), Equals(before))


def test_what_cannot_create_is_refused_before_anything_is_read(everywhere: Everywhere) -> None:
    with pytest.raises(UnsupportedOperation):
        everywhere.broker.copy(None, everywhere.refs["http"], backend="http")


def test_a_large_image_needs_no_file_and_no_memory(everywhere: Everywhere, tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(512 * 1024 * 1024)
        file.write(b"x" * 1_000_000)
    before = _resident()
    everywhere.broker.copy(
        None, f"file://{tmp_path}/large", {"name": "large", "disk_format": "raw"}, backend="file"
    )
    assert_that(_resident() - before, LessThan(32 * 1024))


def _resident() -> int:
    """KiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
