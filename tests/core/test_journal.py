"""The journal of a part file says something true at every moment."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength

from imagebroker.exceptions import TransferError
from imagebroker.transfer.store import journal as journals
from imagebroker.transfer.store.journal import Journal
from imagebroker.transfer.store.part_file import PartFile

DATA = b"x" * 5000
BEGUN = Journal("v1", 9000, (), 3000, {"sha256": hashlib.sha256(DATA[:3000]).hexdigest()})


def leave(dest: Path, noted: Journal) -> PartFile:
    """A download that is interrupted after it noted this."""
    with pytest.raises(TransferError), PartFile(dest, key="0" * 16, keep=True) as part:
        part.write(0, DATA[: noted.stored])
        part.note(noted)
        raise TransferError("cut", retryable=True)
    return part


def only_journal(folder: Path) -> Path:
    found = list(folder.glob(".*.imagebroker-journal"))
    assert_that(found, HasLength(1))
    return found[0]


def test_a_later_process_writes_over_the_journal_instead_of_making_it_anew(tmp_path: Path) -> None:
    leave(tmp_path / "image", BEGUN)
    path = only_journal(tmp_path)
    before = os.stat(path).st_ino
    more = replace(BEGUN, stored=5000, digests={"sha256": hashlib.sha256(DATA).hexdigest()})
    leave(tmp_path / "image", more)
    assert_that(os.stat(path).st_ino, Equals(before))
    with path.open("rb") as file:
        assert_that(journals.read(file.fileno()), Equals(more))


def test_a_journal_with_a_second_name_is_not_written_to(tmp_path: Path) -> None:
    leave(tmp_path / "image", BEGUN)
    path = only_journal(tmp_path)
    os.link(path, tmp_path / "elsewhere")
    before = path.read_bytes()
    leave(tmp_path / "image", replace(BEGUN, version="v2"))
    assert_that((tmp_path / "elsewhere").read_bytes(), Equals(before))
    with path.open("rb") as file:
        read = journals.read(file.fileno())
    assert_that(read is not None and read.version, Equals("v2"))
