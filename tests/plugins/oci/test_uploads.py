"""What `create` stores other programs read, and a failed upload leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools import ExpectedException
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength

from imagebroker.exceptions import (
    Conflict,
    ImageNotFound,
    InvalidImageRef,
    PolicyViolation,
    UnsupportedOperation,
    UploadFailed,
)
from imagebroker.testing.hooks import random_bytes
from tests.bounds import HANGS
from tests.plugins.oci.conftest import Library
from tests.servers.process import HOST
from tests.servers.tcp import NO_FAULT, Fault, TcpProxy

DISK = random_bytes(3_500_000)
NEW = {"name": "1.0", "disk_format": "raw", "container_format": "bare"}

needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")


def skopeo(*words: str) -> str:
    done = subprocess.run(["skopeo", *words], capture_output=True, check=False, timeout=HANGS)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def docker_ref(repository: Library, tag: str) -> str:
    return f"docker://{repository.server.address}/{repository.name}:{tag}"


@needs_skopeo
def test_skopeo_copies_what_was_created_byte_for_byte(repository: Library, tmp_path: Path) -> None:
    image = repository.broker().create(None, NEW, DISK)
    assert_that(image.ref, Equals(repository.ref("1.0")))
    folder = tmp_path / "copy"
    skopeo("copy", "--src-tls-verify=false", docker_ref(repository, "1.0"), f"dir:{folder}")
    manifest = json.loads((folder / "manifest.json").read_text())
    (layer,) = manifest["layers"]
    assert_that((folder / layer["digest"].partition(":")[2]).read_bytes(), Equals(DISK))
    assert_that(layer["annotations"]["org.opencontainers.image.title"], Equals("1.0.raw"))
    assert_that(layer["mediaType"], Equals("application/vnd.kubevirt.disk.raw"))


@needs_skopeo
def test_what_skopeo_has_copied_is_read(repository: Library) -> None:
    repository.broker().create(None, NEW, DISK)
    copied = f"{repository.name}/copied"
    where = f"docker://{repository.server.address}/{copied}:2"
    skopeo(
        "copy", "--src-tls-verify=false", "--dest-tls-verify=false",
        docker_ref(repository, "1.0"), where,
    )  # fmt: skip
    assert_that(repository.downloaded(repository.server.ref(copied, "2")), Equals(DISK))
    tags = json.loads(skopeo("list-tags", "--tls-verify=false", where.rpartition(":")[0]))
    assert_that(tags["Tags"], Equals(["2"]))


@needs_skopeo
def test_a_containerdisk_is_a_container_image_with_a_disk(
    repository: Library, tmp_path: Path
) -> None:
    """As KubeVirt's user guide has it: /disk, owned by 107, not writable."""
    broker = repository.broker(create_as="containerdisk")
    fields = {**NEW, "properties": {"architecture": "aarch64"}}
    image = broker.create(None, fields, DISK)
    assert_that(image.size, Equals(len(DISK)))
    folder = tmp_path / "copy"
    skopeo("copy", "--src-tls-verify=false", docker_ref(repository, "1.0"), f"oci:{folder}:1.0")
    shown = json.loads(skopeo("inspect", f"oci:{folder}:1.0"))
    assert_that((shown["Architecture"], len(shown["Layers"])), Equals(("arm64", 1)))
    blob = folder / "blobs" / "sha256" / shown["Layers"][0].partition(":")[2]
    with tarfile.open(blob) as archive:
        members = {each.name: each for each in archive.getmembers()}
        assert_that(sorted(members), Equals(["disk", "disk/1.0.raw"]))
        file = members["disk/1.0.raw"]
        assert_that((file.uid, file.gid, file.mode), Equals((107, 107, 0o440)))
        content = archive.extractfile(file)
        assert content is not None
        assert_that(content.read() == DISK, Equals(True))
    digest = hashlib.sha256(DISK).hexdigest()
    changed = broker.update(None, image.ref, {"tags": ["gold"]})
    assert_that((changed.size, changed.checksums["sha256"]), Equals((len(DISK), digest)))
    done = repository.broker(require_checksum=True).download(None, image.ref, tmp_path / "disk")
    assert_that(done.evidence["sha256"], Equals(digest))


def test_a_containerdisk_needs_a_size(repository: Library) -> None:
    broker = repository.broker(create_as="containerdisk")
    with ExpectedException(InvalidImageRef, ".*size is not known.*"):
        broker.create(None, NEW, iter([DISK]))
    sized = broker.create(None, {**NEW, "size": len(DISK)}, iter([DISK]))
    assert_that(repository.downloaded(sized.ref) == DISK, Equals(True))


def test_the_record_is_in_the_manifest(repository: Library) -> None:
    fields = {
        **NEW, "tags": ["gold"], "properties": {"os_distro": "debian"}, "min_disk": 3,
        "protected": True,
    }  # fmt: skip
    broker = repository.broker()
    ref = broker.create(None, fields, DISK).ref
    found = repository.broker().get(None, ref)
    assert_that(
        (found.name, found.tags, dict(found.properties), found.min_disk, found.disk_format),
        Equals(("1.0", ("gold",), {"os_distro": "debian"}, 3, "raw")),
    )
    with ExpectedException(PolicyViolation, ".*protected.*"):
        broker.delete(None, ref)
    changed = broker.update(None, ref, {"protected": False, "properties": {"os_version": "12"}})
    assert_that(dict(changed.properties), Equals({"os_distro": "debian", "os_version": "12"}))
    assert_that(repository.downloaded(ref), Equals(DISK))
    broker.delete(None, ref)
    with ExpectedException(ImageNotFound):
        broker.get(None, ref)


def test_a_stream_of_unknown_size_is_stored(repository: Library) -> None:
    def chunks() -> Iterator[bytes]:
        for start in range(0, len(DISK), 100_000):
            yield DISK[start : start + 100_000]

    image = repository.broker().create(None, NEW, chunks())
    assert_that(repository.downloaded(image.ref), Equals(DISK))


def test_a_tag_that_is_taken_stays_what_it_is(repository: Library) -> None:
    repository.push_disk("1.0", b"another")
    with ExpectedException(Conflict, ".*already exists.*"):
        repository.broker().create(None, NEW, DISK)
    assert_that(repository.downloaded(repository.ref("1.0")), Equals(b"another"))
    assert_that(repository.server.uploads(repository.name), HasLength(0))


def test_a_source_that_fails_leaves_no_upload(repository: Library) -> None:
    def chunks() -> Iterator[bytes]:
        yield DISK[:2_000_000]
        raise OSError("the disk is broken")

    with ExpectedException(UploadFailed, ".*the disk is broken.*"):
        repository.broker().create(None, NEW, chunks())
    assert_that(repository.server.uploads(repository.name), HasLength(0))
    with ExpectedException(ImageNotFound):
        repository.broker().get(None, repository.ref("1.0"))


def test_a_connection_that_is_cut_is_no_image_and_can_be_tried_again(repository: Library) -> None:
    server = repository.server
    with TcpProxy(HOST, server.port, Fault(cut_after=1_500_000, upload=True)) as proxy:
        place = f"{HOST}:{proxy.port}/{repository.name}"
        broker = repository.broker(create_in=place, part_size=2)
        with pytest.raises(UploadFailed) as caught:
            broker.create(None, NEW, DISK)
        assert_that(caught.value.retryable, Equals(True))
        with ExpectedException(ImageNotFound):
            broker.get(None, repository.ref("1.0"))
        proxy.fault = NO_FAULT
        image = broker.create(None, NEW, DISK)
        assert_that(image.size, Equals(len(DISK)))
    assert_that(repository.downloaded(repository.ref("1.0")) == DISK, Equals(True))


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "x" * 129, "ä", "a:b"])
def test_a_name_that_is_no_tag_is_refused(repository: Library, name: str) -> None:
    with ExpectedException(InvalidImageRef, ".*cannot be the tag.*"):
        repository.broker().create(None, {**NEW, "name": name}, DISK)
    assert_that(repository.server.uploads(repository.name), HasLength(0))


def test_without_a_repository_nothing_is_created_or_listed(repository: Library) -> None:
    broker = repository.broker(create_in=None)
    with ExpectedException(UnsupportedOperation, ".*without a repository.*"):
        broker.create(None, NEW, DISK)
    with ExpectedException(UnsupportedOperation, ".*without a repository.*"):
        list(broker.get_all(None))


def test_a_user_may_push_with_a_token_and_anybody_else_may_not(
    token_repository: Library,
) -> None:
    from imagebroker.exceptions import NotAuthorized

    image = token_repository.broker().create(None, NEW, DISK)
    assert_that(token_repository.downloaded(image.ref), Equals(DISK))
    anybody = token_repository.broker(pull_secret_file=None)
    with ExpectedException(NotAuthorized, ".*UNAUTHORIZED.*|.*DENIED.*"):
        anybody.create(None, {**NEW, "name": "2.0"}, DISK)
    with ExpectedException(NotAuthorized):
        anybody.delete(None, image.ref)
    token_repository.broker().delete(None, image.ref)


def test_one_of_two_tags_of_a_manifest_is_not_deleted_with_the_other(
    repository: Library,
) -> None:
    broker = repository.broker()
    broker.create(None, NEW, DISK)
    digest, manifest = repository.server.manifest(repository.name, "1.0")
    body = repository.server.request(
        "GET", f"/v2/{repository.name}/manifests/1.0",
        headers={"Accept": manifest["mediaType"]},
    )[2]  # fmt: skip
    repository.server.push_manifest(repository.name, "stable", body)
    error = None
    try:
        broker.delete(None, repository.ref("1.0"))
    except Conflict as caught:
        error = caught
    assert error is not None
    assert_that(str(error), Contains("stable"))
    assert_that(repository.downloaded(repository.ref("stable")), Equals(DISK))
    broker.delete(None, f"{repository.ref('1.0').rpartition(':')[0]}@{digest}")
    with ExpectedException(ImageNotFound):
        broker.get(None, repository.ref("stable"))


def test_the_tags_of_the_repository_are_listed(repository: Library) -> None:
    broker = repository.broker()
    for number in range(3):
        broker.create(None, {**NEW, "name": f"v{number}"}, DISK[: 1000 + number])
    repository.push("signature", repository.blob(b"", "application/vnd.oci.empty.v1+json"))
    found = list(broker.get_all(None, sort_key="name", sort_dir="asc"))
    assert_that([image.name for image in found], Equals(["v0", "v1", "v2"]))
    assert_that(found[1].ref, Equals(repository.ref("v1")))
    (one,) = broker.get_all(None, filters={"size_min": 1002})
    assert_that(one.name, Equals("v2"))


def test_an_instance_has_the_refs_below_its_endpoint(repository: Library) -> None:
    address = repository.server.address
    west = repository.config(endpoint=f"oci://{address}/test/")
    west = west.replace("[backend:oci]", "[backend:oci:west]")
    broker = repository.make(west + "[backend:oci]\nallowed_networks = 127.0.0.0/8\n")
    repository.push_disk("1", DISK)
    assert_that(broker.resolve(repository.ref("1")).backend, Equals("oci:west"))
    assert_that(broker.get(None, repository.ref("1")).size, Equals(len(DISK)))
    assert_that(broker.resolve(f"oci://{address}/other/a:1").backend, Equals("oci"))


def test_a_named_instance_is_in_its_refs(repository: Library, tmp_path: Path) -> None:
    west = repository.config().replace("[backend:oci]", "[backend:oci:west]")
    broker = repository.make(west.replace("default_backend = oci", "default_backend = oci:west"))
    image = broker.create(None, NEW, DISK)
    assert_that(image.ref, Equals(repository.ref("1.0").replace("oci://", "oci:west://")))
    broker.download(None, image.ref, tmp_path / "disk")
    assert_that((tmp_path / "disk").read_bytes(), Equals(DISK))
