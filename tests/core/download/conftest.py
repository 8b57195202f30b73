"""What every test of a download has: a destination, and nothing left behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import LessThan

from tests.core.download.destination import Destination


@pytest.fixture(params=["absent", "existing"])
def dest(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    return Destination(tmp_path / "dest", request.param == "existing")


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """After any call: no thread and no descriptor more than before."""
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    # Fewer: something of an earlier test was collected in the meantime.
    assert_that(len(os.listdir("/proc/self/fd")), LessThan(files + 1))
    assert_that(threading.active_count(), LessThan(threads + 1))
