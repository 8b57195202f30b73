"""Where a converted image comes from and goes to: the cache, and what is at the path already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import VerificationError
from tests.conftest import Scripted
from tests.conversion.disks import DISK, made, sha256
from tests.scripted import Script


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    return made("qcow2", tmp_path)


@pytest.fixture
def cached(scripted: Scripted, tmp_path: Path) -> Scripted:
    scripted.configured(
        f"cache_dir = {tmp_path}/cache\ncache_size = 1G", tuning=Tuning(progress_every=0.0)
    )
    return scripted


def published(scripted: Scripted, data: bytes) -> tuple[str, Script]:
    return scripted.image(data, chunk=100_000, version="1", checksums={"sha256": sha256(data)})


def whole(script: Script) -> int:
    """How often its bytes were read, beyond a look at the first."""
    return sum(stop != 1 for _, stop in script.spans)


def entries(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "cache").glob("sha256-*")}


def test_what_is_cached_is_the_image_and_not_the_disk(
    cached: Scripted, image: bytes, tmp_path: Path
) -> None:
    ref, script = published(cached, image)
    first = cached.broker.download(None, ref, tmp_path / "a", convert="raw")
    assert_that(entries(tmp_path) == {f"sha256-{sha256(image)}": image}, Is(True))
    second = cached.broker.download(None, ref, tmp_path / "b")
    assert_that(((tmp_path / "a").read_bytes() == DISK, first.via), Equals((True, "backend")))
    assert_that(((tmp_path / "b").read_bytes() == image, second.via), Equals((True, "cache")))
    assert_that(whole(script), Equals(1))


def test_a_cached_image_is_converted_where_it_is(
    cached: Scripted, image: bytes, tmp_path: Path
) -> None:
    ref, script = published(cached, image)
    cached.broker.download(None, ref, tmp_path / "a")
    (tmp_path / "to").mkdir()
    sizes: set[int] = set()

    def look(progress: Any) -> None:
        if progress.phase == "convert" and progress.done < len(DISK):
            sizes.update(path.stat().st_blocks for path in (tmp_path / "to").glob(".*-part"))

    done = cached.broker.download(None, ref, tmp_path / "to" / "b", convert="raw", progress=look)
    assert_that((tmp_path / "to" / "b").read_bytes() == DISK, Is(True))
    assert_that((done.via, whole(script)), Equals(("cache", 1)))
    assert_that(done.evidence["sha256"], Equals(sha256(image)))
    assert_that(0 in sizes, Is(True))  # the part file of the image: nothing was copied
    assert_that(entries(tmp_path) == {f"sha256-{sha256(image)}": image}, Is(True))
    assert_that([path.name for path in (tmp_path / "to").iterdir()], Equals(["b"]))


def test_a_damaged_entry_of_the_cache_is_not_converted(
    cached: Scripted, image: bytes, tmp_path: Path
) -> None:
    ref, script = published(cached, image)
    cached.broker.download(None, ref, tmp_path / "a")
    (entry,) = (tmp_path / "cache").glob("sha256-*")
    entry.chmod(0o600)
    with entry.open("r+b") as file:
        file.seek(len(image) // 2)
        file.write(b"damage")
    done = cached.broker.download(None, ref, tmp_path / "b", convert="raw")
    assert_that((tmp_path / "b").read_bytes() == DISK, Is(True))
    assert_that((done.via, whole(script)), Equals(("backend", 2)))


def test_a_plain_disk_from_the_cache_is_a_copy(cached: Scripted, tmp_path: Path) -> None:
    ref, script = published(cached, DISK)
    cached.broker.download(None, ref, tmp_path / "a")
    done = cached.broker.download(None, ref, tmp_path / "b", convert="raw")
    assert_that((tmp_path / "b").read_bytes() == DISK, Is(True))
    assert_that((done.via, whole(script)), Equals(("cache", 1)))
    assert_that(done.evidence["sha256"], Equals(sha256(DISK)))


@pytest.mark.parametrize("given", [True, False], ids=["digest", "note"])
def test_the_image_at_the_path_is_not_taken_for_its_disk_nor_the_disk_for_the_image(
    given: bool, scripted: Scripted, image: bytes, tmp_path: Path
) -> None:
    ref, _ = published(scripted, image)
    dest = tmp_path / "out"
    how = {"checksum": f"sha256:{sha256(image)}"} if given else {}
    for convert, expected in ((None, image), ("raw", DISK), (None, image), ("raw", DISK)):
        done = scripted.broker.download(None, ref, dest, convert=convert, **how)
        assert_that((done.via, dest.read_bytes() == expected), Equals(("backend", True)))


@pytest.mark.parametrize("given", [True, False], ids=["digest", "note"])
def test_a_disk_that_was_converted_before_is_up_to_date(
    given: bool, scripted: Scripted, image: bytes, tmp_path: Path
) -> None:
    ref, script = published(scripted, image)
    dest = tmp_path / "out"
    how: dict[str, Any] = {"convert": "raw"}
    if given:
        how["checksum"] = f"sha256:{sha256(image)}"
    first = scripted.broker.download(None, ref, dest, **how)
    again = scripted.broker.download(None, ref, dest, **how)
    assert_that((first.via, again.via, again.attempts), Equals(("backend", "present", 0)))
    assert_that(whole(script), Equals(1))
    for name in ("sha256", "raw_sha256", "disk_format", "virtual_size", "converted_from"):
        assert_that(again.evidence[name], Equals(first.evidence[name]))
    assert_that(again.size, Equals(len(DISK)))


def test_a_disk_is_converted_again_if_it_or_the_image_has_changed(
    scripted: Scripted, image: bytes, tmp_path: Path
) -> None:
    ref, _ = published(scripted, image)
    dest = tmp_path / "out"
    scripted.broker.download(None, ref, dest, convert="raw")
    with dest.open("r+b") as file:
        file.write(b"other")
    assert_that(scripted.broker.download(None, ref, dest, convert="raw").via, Equals("backend"))
    assert_that(dest.read_bytes() == DISK, Is(True))
    other = f"sha256:{sha256(b'another image')}"
    with pytest.raises(VerificationError):
        scripted.broker.download(None, ref, dest, convert="raw", checksum=other)


def test_a_disk_is_not_up_to_date_if_the_format_of_its_image_is_refused_now(
    scripted: Scripted, image: bytes, tmp_path: Path
) -> None:
    ref, _ = published(scripted, image)
    dest = tmp_path / "out"
    scripted.broker.download(None, ref, dest, convert="raw")
    with pytest.raises(VerificationError):
        scripted.broker.download(None, ref, dest, convert="raw", allowed_formats=["vmdk"])


def test_a_plain_disk_at_the_path_is_up_to_date(scripted: Scripted, tmp_path: Path) -> None:
    ref, _ = published(scripted, DISK)
    how = {"checksum": f"sha256:{sha256(DISK)}"}
    scripted.broker.download(None, ref, tmp_path / "out", **how)
    done = scripted.broker.download(None, ref, tmp_path / "out", convert="raw", **how)
    assert_that(done.via, Equals("present"))
