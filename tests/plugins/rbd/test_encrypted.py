"""Images that Ceph's clients encrypt: read as they are stored, whoever has the key."""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.exceptions import VerificationError
from tests.bounds import HANGS
from tests.plugins.rbd.conftest import Images
from tests.servers.ceph import Ceph
from tests.servers.fixtures import require

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def rbd_command(ceph: Ceph) -> list[str]:
    require(None if shutil.which("rbd") else "install ceph-common: tests/install-servers")
    options = ceph.options()
    return [
        "rbd", "--conf", options["ceph_conf"], "--id", options["user"],
        "--keyring", options["keyring"],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def encrypted(
    ceph: Ceph, rbd_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    """The name of an image whose first objects are the header of this version of LUKS, with
    something behind it. It is made once: the key takes seconds on purpose."""
    phrase = tmp_path_factory.mktemp("luks") / "phrase"
    phrase.write_text("of-the-test")

    @functools.cache
    def made(version: str) -> str:
        import rbd

        name = f"test-{uuid.uuid4().hex}"
        ceph.write(name, b"", None, size=48 * MIB)
        subprocess.run(
            [*rbd_command, "encryption", "format", f"{ceph.pool}/{name}", version, phrase],
            check=True, capture_output=True, timeout=HANGS,
        )  # fmt: skip
        with ceph.opened() as place, rbd.Image(place, name) as image:
            image.write(os.urandom(MIB), 40 * MIB)
            image.create_snap("snap")
        return name

    return made


@pytest.mark.parametrize("version", ["luks1", "luks2"])
def test_an_encrypted_image_is_read_as_ceph_exports_it(
    images: Images, encrypted: Callable[[str], str], rbd_command: list[str], version: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    name, found = encrypted(version), io.BytesIO()
    images.broker().download(None, images.ref(name), found, check_format=version == "luks1")
    file = tmp_path / "exported"
    source = f"{images.server.pool}/{name}@snap"
    subprocess.run(
        [*rbd_command, "export", "--no-progress", source, file], check=True, timeout=HANGS
    )
    assert_that(found.getvalue() == file.read_bytes(), Is(True))
    assert_that(found.getvalue()[:6], Equals(b"LUKS\xba\xbe"))


def test_what_cannot_be_verified_in_it_says_what_to_do(
    images: Images, encrypted: Callable[[str], str], tmp_path: Path
) -> None:
    name = encrypted("luks2")
    with pytest.raises(VerificationError) as caught:
        images.broker().download(None, images.ref(name), tmp_path / "disk")
    assert_that(str(caught.value), Contains("luks"))
    assert_that(caught.value.hint, Contains("--no-check-format"))
