"""A disk is found in every layout that is in use, and what is there is named where none fits."""

from __future__ import annotations

import gzip
import hashlib
import tarfile

import pytest
from testtools import ExpectedException
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesAll

from imagebroker.exceptions import (
    ImageNotFound,
    InvalidImageRef,
    TooLarge,
    UnsupportedOperation,
)
from imagebroker.testing.hooks import random_bytes
from tests.plugins.oci.conftest import Library
from tests.plugins.oci.layouts import (
    TAR,
    archive,
    push_container,
    push_kubeswift,
    push_tart,
)
from tests.servers.images import make_qcow2

DISK = random_bytes(300_000)
OTHER = random_bytes(200_000, seed=1)


def test_a_blob_that_oras_has_pushed(repository: Library) -> None:
    disk = make_qcow2(repository.folder / "disk.qcow2", 1024 * 1024).read_bytes()
    repository.push_disk("1", disk, title="disk.qcow2")
    assert_that(repository.downloaded(repository.ref("1")), Equals(disk))
    image = repository.broker().get(None, repository.ref("1"))
    assert_that(image.disk_format, Equals("qcow2"))
    assert_that(image.checksums["sha256"], Equals(hashlib.sha256(disk).hexdigest()))


@pytest.mark.parametrize(
    ("media_type", "title"),
    [
        (TAR, "disk.raw"),  # what oras says of a file whose type it is not told
        ("application/vnd.kubevirt.disk.raw", ""),
        ("application/octet-stream", ""),
        ("application/vnd.ocm.software.vm.disk.raw", ""),
    ],
)
def test_a_blob_is_a_disk_by_its_type_its_name_or_because_it_is_alone(
    repository: Library, media_type: str, title: str
) -> None:
    annotations = {"org.opencontainers.image.title": title} if title else {}
    repository.push("1", repository.blob(DISK, media_type, annotations=annotations))
    assert_that(repository.downloaded(repository.ref("1")), Equals(DISK))


def test_a_packed_blob_is_unpacked_on_request(repository: Library) -> None:
    packed = gzip.compress(DISK, 1)
    repository.push("1", repository.blob(packed, "application/vnd.kubevirt.disk.raw+gzip"))
    dest = repository.folder / "disk"
    repository.broker().download(None, repository.ref("1"), dest, decompress="auto")
    assert_that(dest.read_bytes(), Equals(DISK))
    assert_that(repository.downloaded(repository.ref("1")), Equals(packed))


def push_index(repository: Library, tag: str) -> None:
    """As podman machine and Ironic have it."""
    manifests = []
    for number, (disktype, arch) in enumerate(
        [("qcow2", "x86_64"), ("raw", "x86_64"), ("qcow2", "aarch64")]
    ):
        pushed = repository.push_disk(f"{tag}-{number}", DISK + bytes([number]))
        platform = {"os": "linux", "architecture": arch}
        manifests.append({**pushed, "platform": platform, "annotations": {"disktype": disktype}})
    repository.server.push_index(repository.name, tag, *manifests)


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("?disktype=raw&arch=amd64", 1),
        ("?disktype=qcow2&arch=x86_64", 0),
        ("?disktype=qcow2&arch=arm64", 2),
        ("?arch=aarch64", 2),
    ],
)
def test_an_index_is_chosen_from_by_type_and_architecture(
    repository: Library, query: str, number: int
) -> None:
    push_index(repository, "all")
    found = repository.downloaded(repository.ref("all") + query)
    assert_that(found, Equals(DISK + bytes([number])))


def test_an_index_of_platforms_is_chosen_from_by_this_one(
    repository: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    manifests = [
        push_container(
            repository, arch, archive([("disk/a.img", arch.encode())]), architecture=arch
        )
        for arch in ("amd64", "arm64")
    ]
    about = {
        **repository.push_disk("about", b"a signature"),
        "platform": {"os": "unknown", "architecture": "unknown"},
    }
    repository.server.push_index(repository.name, "all", *manifests, about)
    assert_that(repository.downloaded(repository.ref("all")), Equals(b"arm64"))


def test_what_an_index_has_is_listed(repository: Library) -> None:
    push_index(repository, "all")
    broker = repository.broker()
    with ExpectedException(
        ImageNotFound, ".*no image for disktype vmdk.*disktype raw arch x86_64.*"
    ):
        broker.get(None, repository.ref("all") + "?disktype=vmdk")
    with ExpectedException(InvalidImageRef, ".*several images.*disktype qcow2 arch x86_64.*"):
        broker.get(None, repository.ref("all") + "?arch=amd64")


def test_a_choice_holds_for_a_manifest_without_an_index(repository: Library) -> None:
    repository.push_disk("1", DISK, title="disk.qcow2")
    push_container(repository, "2", archive([("disk/a.img", DISK)]), architecture="arm64")
    broker = repository.broker()
    assert_that(broker.get(None, repository.ref("1") + "?disktype=qcow2").size, Equals(len(DISK)))
    assert_that(broker.get(None, repository.ref("2") + "?arch=aarch64").size, Equals(len(DISK)))
    with ExpectedException(ImageNotFound, ".*no disk of the type raw, but qcow2.*"):
        broker.get(None, repository.ref("1") + "?disktype=raw")
    with ExpectedException(ImageNotFound, ".*not for amd64: it is for arm64.*"):
        broker.get(None, repository.ref("2") + "?arch=amd64")
    with ExpectedException(InvalidImageRef, ".*query.*"):
        broker.get(None, repository.ref("1") + "?disk=raw")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("path", ["disk/a.qcow2", "./disk/a.qcow2", "/disk/downloaded"])
def test_a_file_in_a_layer_of_a_container(repository: Library, packed: bool, path: str) -> None:
    push_container(repository, "1", archive([(path, DISK)]), packed=packed)
    assert_that(repository.downloaded(repository.ref("1")), Equals(DISK))
    assert_that(repository.broker().get(None, repository.ref("1")).size, Equals(len(DISK)))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_the_last_layer_with_a_disk_counts(repository: Library, form: int) -> None:
    layers = [
        archive([("bin/sh", OTHER)]), archive([("disk/old.img", OTHER)]),
        archive([("etc/x", b"x"), ("disk/new.img", DISK), ("etc/y", OTHER)], form=form),
        archive([("etc/motd", OTHER)]),
    ]  # fmt: skip
    push_container(repository, "1", *layers)
    assert_that(repository.downloaded(repository.ref("1")), Equals(DISK))


def test_layers_of_zstd_and_of_several_members(repository: Library) -> None:
    zstd = pytest.importorskip("backports.zstd")
    layer = archive([("disk/a.img", DISK)])
    repository.push("zstd", repository.blob(zstd.compress(layer), f"{TAR}+zstd"))
    parts = [layer[start : start + 50_000] for start in range(0, len(layer), 50_000)]
    packed = b"".join(gzip.compress(each, 1) for each in parts)
    repository.push("members", repository.blob(packed, f"{TAR}+gzip"))
    for tag in ("zstd", "members"):
        assert_that(repository.downloaded(repository.ref(tag)), Equals(DISK))


def test_a_container_without_a_disk(repository: Library) -> None:
    push_container(repository, "1", archive([("bin/sh", OTHER)]), archive([("disk/sub/a", DISK)]))
    with ExpectedException(ImageNotFound, ".*a container image without a disk.*"):
        repository.broker().get(None, repository.ref("1"))


def test_a_link_is_no_disk(repository: Library) -> None:
    link = tarfile.TarInfo("disk/a.img")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
    push_container(repository, "1", archive(entries=[link]))
    with ExpectedException(UnsupportedOperation, ".*is not a plain file.*"):
        repository.broker().get(None, repository.ref("1"))


def test_an_archive_that_grows_without_end_is_left(repository: Library) -> None:
    bomb = archive([("bin/zeros", bytes(300 * 1024**2)), ("disk/a.img", DISK)])
    push_container(repository, "1", bomb)
    with ExpectedException(TooLarge, ".*has no disk in its first.*"):
        repository.broker().get(None, repository.ref("1"))


@pytest.mark.parametrize("linked", [False, True])
def test_tarts_chunks(repository: Library, linked: bool) -> None:
    pytest.importorskip("lz4")
    chunks = [b"tart" * 100_000, DISK, bytes(500_000), OTHER]
    push_tart(repository, "1", chunks, linked=linked)
    assert_that(repository.downloaded(repository.ref("1")), Equals(b"".join(chunks)))
    image = repository.broker().get(None, repository.ref("1"))
    assert_that((image.size, image.disk_format), Equals((sum(map(len, chunks)), "raw")))


def test_kubeswifts_chunks_with_zeros_between_them(repository: Library) -> None:
    total = 5_000_000
    disk = bytearray(total)
    chunks = [(3_000_000, DISK), (0, OTHER), (len(OTHER), DISK)]
    for offset, data in chunks:
        disk[offset : offset + len(data)] = data
    push_kubeswift(repository, "1", total, chunks)
    assert_that(repository.downloaded(repository.ref("1")), Equals(bytes(disk)))
    with repository.broker().open(None, repository.ref("1")) as reader:
        assert_that(b"".join(reader), Equals(bytes(disk)))


@pytest.mark.parametrize("total", [0, 3_000_000])
def test_a_chunked_disk_of_nothing_but_zeros(repository: Library, total: int) -> None:
    push_kubeswift(repository, "1", total, [])
    dest = repository.folder / "zeros"
    repository.broker().download(None, repository.ref("1"), dest, allow_empty=True)
    assert_that(dest.read_bytes() == bytes(total), Equals(True))


def test_several_files_are_listed_and_one_can_be_named(repository: Library) -> None:
    title = "org.opencontainers.image.title"
    layers = [
        repository.blob(data, "application/octet-stream", annotations={title: name})
        for name, data in (("root.img", DISK), ("swap.img", OTHER), ("README", b"read me"))
    ]
    repository.push("1", *layers)
    with ExpectedException(InvalidImageRef, ".*root.img.*swap.img.*"):
        repository.broker().get(None, repository.ref("1"))
    found = repository.downloaded(repository.ref("1") + "?title=swap.img")
    assert_that(found, Equals(OTHER))
    with ExpectedException(ImageNotFound, ".*no file boot.*it has root.img.*README.*"):
        repository.broker().get(None, repository.ref("1") + "?title=boot")


def test_a_tag_that_is_not_there_names_those_that_are(repository: Library) -> None:
    repository.push_disk("12.4", DISK)
    repository.push_disk("12.5", DISK)
    error = None
    try:
        repository.broker().get(None, repository.ref("12.6"))
    except ImageNotFound as caught:
        error = caught
    assert error is not None
    assert_that(str(error), Contains("no tag 12.6"))
    assert_that(error.hint, MatchesAll(Contains("12.4"), Contains("12.5")))
    with ExpectedException(ImageNotFound, ".*has no repository .*none.*"):
        repository.broker().get(None, repository.server.ref(f"{repository.name}/none", "1"))


def test_without_a_tag_it_is_latest_and_a_digest_pins(repository: Library) -> None:
    first = repository.push_disk("latest", DISK)
    repository.push_disk("latest", OTHER)
    bare = repository.ref("latest").removesuffix(":latest")
    assert_that(repository.downloaded(bare), Equals(OTHER))
    pinned = f"{bare}@{first['digest']}"
    assert_that(repository.downloaded(pinned), Equals(DISK))
    assert_that(repository.downloaded(f"{bare}:latest@{first['digest']}"), Equals(DISK))
