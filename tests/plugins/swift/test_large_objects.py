"""Large objects: read whatever made them, written in segments, removed with what they consist of."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

import imagebroker
from imagebroker.exceptions import ChecksumMismatch, ImageNotFound, TransferError
from tests.plugins.swift.conftest import Container
from tests.servers.fixtures import require
from tests.servers.swift import Swift, missing

MIB = 1024 * 1024
DATA = random.Random(11).randbytes(5 * MIB + 17)
DIGEST = hashlib.sha256(DATA).hexdigest()


def make_static(container: Container, key: str = "static.raw") -> str:
    """As `swift upload --use-slo` makes one."""
    container.user.call("PUT", "others_of_" + container.name)
    segments = []
    for number, at in enumerate(range(0, len(DATA), 2 * MIB)):
        segments.append(f"others_of_{container.name}/{key}/slo/{number:08d}")
        container.user.call("PUT", segments[-1], DATA[at : at + 2 * MIB])
    container.user.make_static(f"{container.name}/{key}", segments)
    return container.ref(key)


def make_dynamic(container: Container, key: str = "dynamic.raw") -> str:
    """As `swift upload --segment-size` makes one by default."""
    container.user.call("PUT", "others_of_" + container.name)
    for number, at in enumerate(range(0, len(DATA), 2 * MIB)):
        path = f"others_of_{container.name}/{quote(key)}/{number:08d}"
        container.user.call("PUT", path, DATA[at : at + 2 * MIB])
    prefix = quote(f"others_of_{container.name}/{key}/")
    container.user.call("PUT", f"{container.name}/{quote(key)}", b"", X_Object_Manifest=prefix)
    return container.ref(key)


@pytest.mark.parametrize("make", [make_static, make_dynamic])
def test_the_etag_of_a_large_object_is_not_taken_for_the_md5_of_its_data(
    container: Container, tmp_path: Path, make: Callable[[Container], str]
) -> None:
    broker, ref = container.broker(), make(container)
    image = broker.get(None, ref)
    assert_that((image.size, dict(image.checksums)), Equals((len(DATA), {})))
    done = broker.download(None, ref, tmp_path / "disk.raw", checksum=f"sha256:{DIGEST}")
    assert_that(done.size, Equals(len(DATA)))
    with broker.open(None, ref) as reader:
        assert_that(b"".join(reader) == DATA, Equals(True))


def test_the_etag_of_a_single_object_is_checked_as_its_md5(container: Container) -> None:
    broker = container.broker()
    container.user.call("PUT", f"{container.name}/plain.raw", b"plain data")
    image = broker.get(None, container.ref("plain.raw"))
    md5 = hashlib.md5(b"plain data", usedforsecurity=False).hexdigest()
    assert_that(dict(image.checksums), Equals({"md5": md5}))
    with pytest.raises(ChecksumMismatch):
        with broker.open(None, image.ref, checksum=f"sha256:{DIGEST}") as reader:
            reader.read()


@pytest.mark.parametrize("make", [make_static, make_dynamic])
def test_a_range_is_of_the_version_that_was_opened(
    container: Container, make: Callable[[Container], str]
) -> None:
    broker, ref = container.broker(), make(container)
    before = broker.get(None, ref)
    assert_that(before.version, Not(Equals(None)))
    container.user.call("PUT", ref.removeprefix("swift://"), DATA[::-1])
    assert_that(broker.get(None, ref).version, Not(Equals(before.version)))


@pytest.mark.parametrize("make", [make_static, make_dynamic])
def test_an_image_is_removed_with_the_segments_of_any_program(
    container: Container, make: Callable[[Container], str]
) -> None:
    broker, ref = container.broker(), make(container)
    assert_that(container.user.names("others_of_" + container.name), HasLength(3))
    broker.delete(None, ref)
    assert_that(container.user.names("others_of_" + container.name), Equals([]))
    with pytest.raises(ImageNotFound):
        broker.get(None, ref)


@pytest.mark.parametrize("named", ["{size}", "{size}/2097152"])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_dynamic_object_without_one_of_its_segments_is_not_stored(
    container: Container, tmp_path: Path, missing: int, named: str
) -> None:
    """Swift joins what is there: only the names that `swift` and rclone give tell that it is short."""
    key = f"a b/1764489600.123456/{named.format(size=len(DATA))}"
    make_dynamic(container, key)
    prefix = quote(f"others_of_{container.name}/{key}/")
    container.user.call("PUT", f"{container.name}/disk.raw", b"", X_Object_Manifest=prefix)
    broker, ref = container.broker(), container.ref("disk.raw")
    assert_that(broker.download(None, ref, tmp_path / "whole").size, Equals(len(DATA)))
    container.user.call("DELETE", f"others_of_{container.name}/{quote(key)}/{missing:08d}")
    with pytest.raises(TransferError, match=f"but {len(DATA)} were stored"):
        broker.download(None, ref, tmp_path / "short", retries=0)
    assert_that((tmp_path / "short").exists(), Equals(False))


def stream(data: bytes = DATA) -> Iterator[bytes]:
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


@pytest.mark.parametrize("rewindable", [True, False])
def test_an_image_in_segments_has_its_digest_and_arrives_whole(
    container: Container, tmp_path: Path, rewindable: bool
) -> None:
    broker = container.broker()
    image = broker.create(
        None, {"name": "linux/disk.raw", "tags": ["a", "b"]}, DATA if rewindable else stream()
    )
    assert_that(image.ref, Equals(container.ref("images/linux/disk.raw")))
    assert_that((image.size, image.checksums["sha256"]), Equals((len(DATA), DIGEST)))
    assert_that(image.tags, Equals(("a", "b")))
    assert_that(container.segment_names(), HasLength(6))
    done = broker.download(None, image.ref, tmp_path / "disk.raw")
    assert_that((tmp_path / "disk.raw").read_bytes() == DATA, Equals(True))
    assert_that(done.evidence["checked_against"], Equals(("sha256 of the record",)))
    assert_that([each.ref for each in broker.get_all(None)], Equals([image.ref]))
    broker.delete(None, image.ref)
    assert_that(container.segment_names(), Equals([]))


def test_a_small_image_is_a_single_object(container: Container) -> None:
    image = container.broker().create(None, {"name": "disk"}, stream(DATA[: 1 * MIB]))
    assert_that(image.checksums["sha256"], Equals(hashlib.sha256(DATA[:MIB]).hexdigest()))
    assert_that(container.segment_names(), Equals([]))
    assert_that("X-Static-Large-Object" in container.head("disk"), Equals(False))


def test_manifests_name_manifests_where_one_cannot_name_all_segments(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    require(missing())
    with Swift(most_segments=2) as server:
        container = Container(server, make_broker)
        broker = container.broker()
        image = broker.create(None, {"name": "disk"}, stream())
        url = f"{container.name}/images/disk?multipart-manifest=get"
        top = json.loads(container.user.call("GET", url).content)
        assert_that([each.get("sub_slo") for each in top], Equals([True, True]))
        broker.download(None, image.ref, tmp_path / "disk", checksum=f"sha256:{DIGEST}")
        assert_that(broker.purge(None, older_than=0), HasLength(0))
        broker.delete(None, image.ref)
        assert_that(container.segment_names(), Equals([]))


def test_segments_are_of_the_containers_storage_policy_and_can_be_put_elsewhere(
    container: Container,
) -> None:
    elsewhere = f"{container.name}-elsewhere"
    container.broker(segments_container=elsewhere).create(None, {"name": "disk"}, DATA)
    policies = {
        container.user.call("HEAD", name).headers["X-Storage-Policy"]
        for name in (container.name, elsewhere)
    }
    assert_that(policies, HasLength(1))
    assert_that(container.user.names(elsewhere)[0], Contains("images/disk/"))
    assert_that(container.segment_names(), Equals([]))
