"""Images that Ceph's clients encrypt: read as they are stored, whoever has the key."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.exceptions import VerificationError
from tests.plugins.rbd.conftest import Images
from tests.servers.fixtures import require

MIB = 1024 * 1024


@pytest.fixture
def rbd_command(images: Images, tmp_path: Path) -> list[str]:
    require(None if shutil.which("rbd") else "install ceph-common: tests/install-servers")
    options = images.server.options()
    return [
        "rbd", "--conf", options["ceph_conf"], "--id", options["user"],
        "--keyring", options["keyring"],
    ]  # fmt: skip


def encrypted(images: Images, rbd_command: list[str], version: str, folder: Path) -> str:
    """An image whose first objects are the header of LUKS, with something behind it."""
    name = images.publish(b"", None, size=48 * MIB)
    (folder / "phrase").write_text("of-the-test")
    pool = images.server.pool
    subprocess.run(
        [*rbd_command, "encryption", "format", f"{pool}/{name}", version, folder / "phrase"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with images.server.opened() as place:
        import rbd

        with rbd.Image(place, name) as image:
            image.write(os.urandom(MIB), 40 * MIB)
            image.create_snap("snap")
    return name


@pytest.mark.parametrize("version", ["luks1", "luks2"])
def test_an_encrypted_image_is_read_as_ceph_exports_it(
    images: Images, rbd_command: list[str], version: str, tmp_path: Path
) -> None:
    name, found = encrypted(images, rbd_command, version, tmp_path), io.BytesIO()
    images.broker().download(None, images.ref(name), found, check_format=version == "luks1")
    file = tmp_path / "exported"
    source = f"{images.server.pool}/{name}@snap"
    subprocess.run([*rbd_command, "export", "--no-progress", source, file], check=True, timeout=120)
    assert_that(found.getvalue() == file.read_bytes(), Is(True))
    assert_that(found.getvalue()[:6], Equals(b"LUKS\xba\xbe"))


def test_what_cannot_be_verified_in_it_says_what_to_do(
    images: Images, rbd_command: list[str], tmp_path: Path
) -> None:
    name = encrypted(images, rbd_command, "luks2", tmp_path)
    with pytest.raises(VerificationError) as caught:
        images.broker().download(None, images.ref(name), tmp_path / "disk")
    assert_that(str(caught.value), Contains("luks"))
    assert_that(caught.value.hint, Contains("--no-check-format"))
