"""KubeVirt reads what is stored here, and its exports are read here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.exceptions import InvalidImageRef
from imagebroker.testing.hooks import random_bytes
from tests.plugins.oci.conftest import Library
from tests.plugins.oci.kubevirt_importer import NoDisk, import_artifact, import_container

DISK = random_bytes(300_000)
EXPORTED = "application/vnd.kubevirt.disk.raw"

needs_skopeo = pytest.mark.skipif(
    shutil.which("skopeo") is None, reason="install skopeo: tests/install-servers"
)


def at(repository: Library, tag: str) -> str:
    return f"docker://{repository.server.address}/{repository.name}:{tag}"


@needs_skopeo
@pytest.mark.parametrize(
    ("name", "disk_format", "size"),
    [
        ("1.0", "raw", len(DISK)), ("v2", "qcow2", len(DISK)), ("n" * 120, "raw", 1),
        ("disk", "vpc", 511), ("whole", "raw", 1024),
    ],
)  # fmt: skip
def test_the_importer_finds_the_disk_of_a_container_image(
    repository: Library, name: str, disk_format: str, size: int, tmp_path: Path
) -> None:
    """With names that need an entry of their own in the archive, and sizes around its blocks."""
    data = DISK[:size]
    fields = {
        "name": name, "disk_format": disk_format, "container_format": "bare",
        "properties": {"architecture": "x86_64"},
    }  # fmt: skip
    broker = repository.broker(create_as="containerdisk")
    broker.create(None, fields, data, check_format=False)
    ref = at(repository, name)
    assert_that(import_container(ref, tmp_path / "all") == data, Is(True))
    assert_that(import_container(ref, tmp_path / "amd64", "amd64") == data, Is(True))
    with pytest.raises(NoDisk, match="amd64"):
        import_container(ref, tmp_path / "arm64", "arm64")


@needs_skopeo
def test_the_importer_finds_it_after_its_record_has_changed(
    repository: Library, tmp_path: Path
) -> None:
    broker = repository.broker(create_as="containerdisk")
    fields = {"name": "1", "disk_format": "raw", "container_format": "bare"}
    ref = broker.create(None, fields, DISK).ref
    broker.update(None, ref, {"tags": ["gold"], "min_disk": 7})
    assert_that(import_container(at(repository, "1"), tmp_path / "all") == DISK, Is(True))


@needs_skopeo
def test_the_importer_selects_the_blob_of_an_artefact_by_its_title(
    repository: Library, tmp_path: Path
) -> None:
    fields = {"name": "1", "disk_format": "qcow2", "container_format": "bare"}
    repository.broker().create(None, fields, DISK, check_format=False)
    title = {"org.opencontainers.image.title": "1.qcow2"}
    assert_that(import_artifact(at(repository, "1"), tmp_path / "all", title) == DISK, Is(True))


def test_a_disk_of_an_export_is_chosen_by_its_name(repository: Library) -> None:
    other = random_bytes(200_000, seed=3)
    layers = [
        repository.blob(data, EXPORTED, annotations={
            "io.kubevirt.disk.name": name, "io.kubevirt.disk.size": "10Gi",
        })
        for name, data in (("rootdisk", DISK), ("datadisk", other))
    ]  # fmt: skip
    repository.push("1", *layers)
    with pytest.raises(InvalidImageRef, match="rootdisk") as caught:
        repository.broker().get(None, repository.ref("1"))
    assert_that(caught.value.hint, Contains("title="))
    for name, data in (("rootdisk", DISK), ("datadisk", other)):
        found = repository.downloaded(f"{repository.ref('1')}?title={name}")
        assert_that(found == data, Equals(True))
