"""A file through the broker."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan, MatchesStructure, Not

import imagebroker
from imagebroker.exceptions import ImageNotFound, PolicyViolation, TooLarge, UnsupportedOperation
from tests.plugins.file.paths import DATA, link_to_a_file, uri


@pytest.fixture
def broker(make_broker: Callable[[str], imagebroker.Broker], tmp_path: Path, allowed: Path) -> Any:
    return make_broker(
        f"""
        [imagebroker]
        enabled_schemes = file
        retry_backoff = 0
        max_size = {1 << 41}
        [backend:file]
        allowed_paths = {allowed}
        store_dir = {tmp_path}/store
        """
    )


def test_a_download_stores_the_file(broker: Any, allowed: Path, tmp_path: Path) -> None:
    download = broker.download(None, uri(allowed / "image.raw"), tmp_path / "dest")
    assert_that(download, MatchesStructure.byEquality(size=len(DATA), attempts=1))
    assert_that((tmp_path / "dest").read_bytes(), Equals(DATA))


def test_a_download_is_a_file_of_its_own(broker: Any, allowed: Path, tmp_path: Path) -> None:
    os.link(allowed / "image.raw", tmp_path / "elsewhere")
    broker.download(None, uri(allowed / "image.raw"), tmp_path / "dest")
    (tmp_path / "dest").write_bytes(b"written to")
    assert_that((allowed / "image.raw").read_bytes(), Equals(DATA))
    assert_that((tmp_path / "dest").stat().st_nlink, Equals(1))


@pytest.fixture
def sparse(allowed: Path) -> Path:
    """1 TiB that takes next to nothing on the disk."""
    path = allowed / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.write(b"start")
        file.seek((1 << 40) - 3)
        file.write(b"end")
    return path


def test_a_sparse_file_over_the_limit_is_refused_before_anything_is_written(
    broker: Any, sparse: Path, tmp_path: Path
) -> None:
    with pytest.raises(TooLarge):
        broker.download(None, uri(sparse), tmp_path / "dest", max_size=10 << 30)
    assert_that(sorted(os.listdir(tmp_path)), Not(Contains("dest")))


def test_a_sparse_file_keeps_its_holes(broker: Any, sparse: Path, tmp_path: Path) -> None:
    broker.download(None, uri(sparse), tmp_path / "dest")
    status = (tmp_path / "dest").stat()
    assert_that(status.st_size, Equals(1 << 40))
    assert_that(status.st_blocks * 512, LessThan(1 << 20))
    with (tmp_path / "dest").open("rb") as file:
        assert_that(file.read(6), Equals(b"start\0"))
        file.seek((1 << 40) - 4)
        assert_that(file.read(), Equals(b"\0end"))


@pytest.mark.parametrize(
    ("plant", "kind"),
    [(link_to_a_file, PolicyViolation), (lambda f, s: f / "absent", ImageNotFound)],
)
def test_a_refused_download_leaves_the_destination_alone(
    broker: Any, allowed: Path, secret: Path, tmp_path: Path, plant: Any, kind: Any
) -> None:
    (tmp_path / "dest").write_bytes(b"old")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(kind):
        broker.download(None, uri(plant(allowed, secret)), tmp_path / "dest")
    assert_that((tmp_path / "dest").read_bytes(), Equals(b"old"))
    assert_that(sorted(os.listdir(tmp_path)), Equals(before))


def test_a_pin_is_checked_against_a_file(broker: Any, allowed: Path, tmp_path: Path) -> None:
    with pytest.raises(imagebroker.VerificationError):
        broker.download(None, f"{uri(allowed / 'image.raw')}#sha256={'0' * 64}", tmp_path / "dest")
    assert_that((tmp_path / "dest").exists(), Is(False))


def test_the_broker_names_nothing_to_update_below_a_path(broker: Any, allowed: Path) -> None:
    for call in (broker.delete, lambda c, r: broker.update(c, r, {"name": "x"})):
        with pytest.raises(UnsupportedOperation):
            call(None, uri(allowed / "image.raw"))
