"""Every part of an image is checked against the digest in what led to it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field

import pytest
from testtools import ExpectedException
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import (
    ImageBrokerError,
    MalformedAnswer,
    TransferError,
    VerificationError,
)
from tests.plugins.oci.conftest import Library
from tests.plugins.oci.layouts import (
    CHUNK,
    TART,
    apple_lz4,
    archive,
    push_container,
    push_kubeswift,
    push_tart,
    sha256,
)


@dataclass(frozen=True)
class Disks:
    """Bytes that no other test pushes: registries store the same bytes once, for all."""

    true: bytes = field(default_factory=lambda: os.urandom(200_000))
    false: bytes = field(default_factory=lambda: os.urandom(200_000))


@pytest.fixture
def disks() -> Disks:
    return Disks()


def refused(repository: Library, tag: str, query: str = "") -> ImageBrokerError:
    """The error of a download, which leaves nothing behind."""
    dest = repository.folder / "refused"
    try:
        repository.broker().download(None, repository.ref(tag) + query, dest)
    except ImageBrokerError as error:
        assert_that(dest.exists(), Equals(False))
        return error
    raise AssertionError("the image was accepted")


def layers(repository: Library, tag: str) -> list[str]:
    _, manifest = repository.server.manifest(repository.name, tag)
    return [layer["digest"] for layer in manifest["layers"]]


def test_a_blob_with_other_bytes(disks: Disks, repository: Library) -> None:
    repository.push_disk("1", disks.true)
    repository.server.tamper(layers(repository, "1")[0], disks.false)
    assert isinstance(refused(repository, "1"), VerificationError)


def test_a_blob_of_another_size(disks: Disks, repository: Library) -> None:
    repository.push_disk("1", disks.true)
    repository.server.tamper(layers(repository, "1")[0], disks.true + b"more")
    error = refused(repository, "1")
    assert isinstance(error, TransferError)
    assert_that(str(error), Contains("sends 200004 bytes, and the manifest says 200000"))


@pytest.mark.parametrize("pinned", [False, True])
def test_a_manifest_with_other_bytes(disks: Disks, repository: Library, pinned: bool) -> None:
    digest = repository.push_disk("1", disks.true)["digest"]
    repository.push_disk("2", disks.false)
    _, other = repository.server.manifest(repository.name, "2")
    repository.server.tamper(digest, json.dumps(other).encode())
    ref = (
        repository.ref("1") if not pinned else repository.ref("1").rpartition(":")[0] + f"@{digest}"
    )
    with ExpectedException(VerificationError, ".*should have the digest.*"):
        repository.broker().get(None, ref)


def test_a_manifest_in_an_index_with_other_bytes(disks: Disks, repository: Library) -> None:
    pushed = repository.push_disk("1", disks.true)
    repository.push_disk("2", disks.false)
    repository.server.push_index(repository.name, "all", pushed)
    _, other = repository.server.manifest(repository.name, "2")
    repository.server.tamper(pushed["digest"], json.dumps(other).encode())
    assert isinstance(refused(repository, "all"), VerificationError)


def test_a_config_with_other_bytes(disks: Disks, repository: Library) -> None:
    push_kubeswift(repository, "1", len(disks.true), [(0, disks.true)])
    _, manifest = repository.server.manifest(repository.name, "1")
    false = json.dumps({"totalSize": 10**12}).encode()
    repository.server.tamper(manifest["config"]["digest"], false)
    assert isinstance(refused(repository, "1"), VerificationError)


@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_of_a_container_with_other_bytes_behind_the_disk(
    disks: Disks, repository: Library, packed: bool
) -> None:
    good = archive([("disk/a.img", disks.true), ("etc/passwd", b"root")])
    push_container(repository, "1", good, packed=False)
    bad = archive([("disk/a.img", disks.true), ("etc/passwd", b"evil")])
    repository.server.tamper(layers(repository, "1")[0], bad)
    assert isinstance(refused(repository, "1"), VerificationError)


def test_a_layer_above_the_disk_with_other_bytes(disks: Disks, repository: Library) -> None:
    above = archive([("disk/new.img", disks.true)])
    push_container(repository, "1", archive([("disk/old.img", disks.false)]), above, packed=False)
    hidden = archive([("bin/new.img", disks.true)])
    repository.server.tamper(layers(repository, "1")[1], hidden)
    assert isinstance(refused(repository, "1"), VerificationError)


def test_a_chunk_with_other_bytes(disks: Disks, repository: Library) -> None:
    push_kubeswift(repository, "1", 1_000_000, [(0, disks.true), (500_000, disks.false)])
    repository.server.tamper(sha256(disks.false), disks.true)
    assert isinstance(refused(repository, "1"), VerificationError)


def test_a_chunk_whose_content_is_other_than_the_manifest_says(
    disks: Disks, repository: Library
) -> None:
    pytest.importorskip("lz4")
    for tag, content, size in (
        ("digest", disks.false, len(disks.true)), ("longer", disks.true + b"x", len(disks.true)),
        ("shorter", disks.true[:-1], len(disks.true)),
    ):  # fmt: skip
        annotations = {
            "org.cirruslabs.tart.uncompressed-size": str(size),
            "org.cirruslabs.tart.uncompressed-content-digest": sha256(disks.true),
        }
        repository.push(tag, repository.blob(apple_lz4(content), TART, annotations=annotations))
        assert isinstance(refused(repository, tag), VerificationError)


def test_a_chunk_that_is_not_packed_as_it_should_be(disks: Disks, repository: Library) -> None:
    pytest.importorskip("lz4")
    push_tart(repository, "good", [disks.true])
    for tag, data in (("raw", disks.true), ("cut", apple_lz4(disks.true)[:-1000]), ("none", b"")):
        annotations = {
            "org.cirruslabs.tart.uncompressed-size": str(len(disks.true)),
            "org.cirruslabs.tart.uncompressed-content-digest": sha256(disks.true),
        }
        repository.push(tag, repository.blob(data, TART, annotations=annotations))
        error = refused(repository, tag)
        assert isinstance(error, VerificationError | TransferError)
        assert_that(error.retryable, Equals(False))


def test_chunks_that_overlap_or_lie_outside(disks: Disks, repository: Library) -> None:
    for tag, total, offsets in (("over", 400_000, (0, 100_000)), ("out", 300_000, (0, 200_000))):
        push_kubeswift(repository, tag, total, [(each, disks.true) for each in offsets])
        with ExpectedException(MalformedAnswer, ".*is not within its disk.*"):
            repository.broker().get(None, repository.ref(tag))
    layer = repository.blob(disks.true, CHUNK, annotations={"kubeswift.io/chunk-offset": "-1"})
    repository.push("minus", layer)
    with ExpectedException(MalformedAnswer, ".*chunk without a number.*|.*config.*"):
        repository.broker().get(None, repository.ref("minus"))


def test_the_digest_of_the_blob_counts_as_required(disks: Disks, repository: Library) -> None:
    repository.push_disk("1", disks.true)
    dest = repository.folder / "disk"
    done = repository.broker(require_checksum=True).download(None, repository.ref("1"), dest)
    assert_that(done.evidence["sha256"], Equals(hashlib.sha256(disks.true).hexdigest()))
