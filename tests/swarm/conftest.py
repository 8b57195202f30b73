"""What holds for every test of the swarm."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals


@pytest.fixture(autouse=True)
def libtorrent_stays_in_other_processes() -> Iterator[None]:
    """Ceph's library crashes where it was imported, and later tests need Ceph."""
    before = "libtorrent" in sys.modules
    yield
    assert_that("libtorrent" in sys.modules, Equals(before), "the test imports libtorrent")
