"""Images in a registry, with the pull secret of a node: Ironic chooses, and ours brings them."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from tests.compat.ironic_service.conftest import Ironic
from tests.compat.service_process import ServiceError
from tests.servers.images import random_file
from tests.servers.registry import PASSWORD, USER, Registry

NODE = {"username": USER, "password": PASSWORD}


@pytest.fixture
def disk(basic_registry: Registry, tmp_path: Path) -> tuple[str, bytes]:
    """A manifest with a disk, by its digest, and the disk."""
    data = random_file(tmp_path / "disk", 200_000).read_bytes()
    name = f"ironic/{uuid.uuid4().hex}"
    pushed = basic_registry.push_disk(name, "latest", data)
    return f"oci://{basic_registry.address}/{name}@{pushed['digest']}", data


def use(ironic: Ironic, registry: Registry) -> None:
    ironic.use(f"[oci]\nverify_ca = {registry.ca_file}\n")


def test_a_disk_comes_with_the_secret_of_its_node(
    one_ironic: Ironic, basic_registry: Registry, disk: tuple[str, bytes], tmp_path: Path
) -> None:
    use(one_ironic, basic_registry)
    href, data = disk
    digests = [
        one_ironic.download(api, href, tmp_path / api, auth=NODE) for api in ("ironic", "ours")
    ]
    assert_that(digests[1], Equals(digests[0]))
    assert_that((tmp_path / "ours").read_bytes() == data, Is(True))


def test_a_file_of_secrets_serves_every_node(
    one_ironic: Ironic, basic_registry: Registry, disk: tuple[str, bytes], tmp_path: Path
) -> None:
    secrets = basic_registry.pull_secret()
    one_ironic.use(
        f"[oci]\nverify_ca = {basic_registry.ca_file}\nauthentication_config = {secrets}\n"
    )
    one_ironic.download("ours", disk[0], tmp_path / "dest", auth={})
    assert_that((tmp_path / "dest").read_bytes() == disk[1], Is(True))


def test_without_a_secret_it_is_refused(
    one_ironic: Ironic, basic_registry: Registry, disk: tuple[str, bytes], tmp_path: Path
) -> None:
    use(one_ironic, basic_registry)
    with pytest.raises(ServiceError) as caught:
        one_ironic.download("ours", disk[0], tmp_path / "dest")
    assert_that(caught.value.kind, Contains("ImageServiceAuthenticationRequired"))


def test_a_tag_is_not_specific(
    one_ironic: Ironic, basic_registry: Registry, tmp_path: Path
) -> None:
    use(one_ironic, basic_registry)
    with pytest.raises(ServiceError, match="OciImageNotSpecific"):
        one_ironic.download("ours", basic_registry.ref("ironic/x"), tmp_path / "dest", auth=NODE)


def test_ironic_chooses_among_the_manifests_of_a_tag(
    one_ironic: Ironic, basic_registry: Registry, disk: tuple[str, bytes]
) -> None:
    use(one_ironic, basic_registry)
    href = disk[0].partition("@")[0] + ":latest"
    found = [
        one_ironic.process("identify", api=api, href=href, auth=NODE) for api in ("ironic", "ours")
    ]
    assert_that(found[1], Equals(found[0]))
    assert_that(found[1]["oci_image_manifest_url"], Equals(disk[0]))
