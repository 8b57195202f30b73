"""What holds for every test of the swarm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.servers.fixtures import require
from tests.servers.nginx import Nginx, missing
from tests.swarm.fleet import served


@pytest.fixture(autouse=True)
def libtorrent_stays_in_other_processes() -> Iterator[None]:
    """Ceph's library crashes where it was imported, and later tests need Ceph."""
    before = "libtorrent" in sys.modules
    yield
    assert_that("libtorrent" in sys.modules, Equals(before), "the test imports libtorrent")


@pytest.fixture
def rate() -> int:
    """Bytes a second that the backend sends over each connection; a module may have its own."""
    return 1024 * 1024


@pytest.fixture
def nginx(tmp_path: Path, rate: int) -> Iterator[Nginx]:
    """The backend, so slow to each connection that hosts meet before it has sent much."""
    require(missing())
    with served(tmp_path, rate) as server:
        yield server
