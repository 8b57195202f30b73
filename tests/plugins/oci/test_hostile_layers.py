"""A layer that is damaged, or made to do harm, is an error: bounded, and never an image."""

from __future__ import annotations

import gzip
import tarfile

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Not

from imagebroker.exceptions import BackendError, ImageBrokerError
from imagebroker.testing.hooks import random_bytes
from tests.plugins.oci.conftest import Library
from tests.plugins.oci.layouts import TAR, archive

DISK = random_bytes(300_000)
GOOD = archive([("disk/a.img", DISK)])


def header(path: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse() -> bytes:
    """A file of GNU's old form for holes, which says that it is much larger than it is."""
    block = bytearray(header("disk/a.img", tarfile.GNUTYPE_SPARSE, 512))
    block[386:398] = b"00000000000\0"
    block[398:410] = b"00000001000\0"
    block[483:495] = b"77777777777\0"
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(512)


LAYERS = {
    "no archive": b"this is no archive" * 1000,
    "empty": b"",
    "only zeros": bytes(10_240),
    "cut within the disk": GOOD[:200_000],
    "cut within a header": GOOD[:700],
    "larger than the layer": header("disk/a.img", tarfile.REGTYPE, 10**12) + DISK,
    "negative": header("disk/a.img", tarfile.REGTYPE, -1) + DISK,
    "a header without end": header("x", tarfile.XHDTYPE, 10**12) + DISK,
    "a name without end": header("x", tarfile.GNUTYPE_LONGNAME, 10**12) + DISK,
    "a header that is none": header("x", tarfile.XHDTYPE, 512) + b"\\xff" * 512 + GOOD,
    "headers for ever": header("x", tarfile.XHDTYPE, 512) * 20_000,
    "files for ever": header("x", tarfile.REGTYPE, 0) * 20_000 + GOOD,
    "a device": header("disk/a.img", tarfile.BLKTYPE, 0) + GOOD,
    "a hard link": header("disk/a.img", tarfile.LNKTYPE, 0) + GOOD,
    "holes": sparse(),
}


def refused(repository: Library, tag: str) -> None:
    dest = repository.folder / "disk"
    with pytest.raises(ImageBrokerError) as caught:
        repository.broker().download(None, repository.ref(tag), dest)
    assert_that(type(caught.value), Not(Equals(BackendError)))  # the plugin is not to blame
    assert_that(dest.exists(), Equals(False))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_is_no_archive_with_a_disk(repository: Library, name: str) -> None:
    repository.push("plain", repository.blob(LAYERS[name], TAR))
    repository.push("packed", repository.blob(gzip.compress(LAYERS[name], 1), f"{TAR}+gzip"))
    refused(repository, "plain")
    refused(repository, "packed")


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [0, 5, 1000, -5])
def test_a_packed_layer_that_is_cut_or_not_packed(
    repository: Library, coding: str, cut: int
) -> None:
    zstd = pytest.importorskip("backports.zstd")
    packed = gzip.compress(GOOD, 1) if coding == "gzip" else zstd.compress(GOOD)
    repository.push("cut", repository.blob(packed[:cut], f"{TAR}+{coding}"))
    repository.push("plain", repository.blob(GOOD[: len(GOOD) + min(cut, 0)], f"{TAR}+{coding}"))
    if cut != -5 or coding == "zstd":  # gzip's last bytes are a checksum of what has passed
        refused(repository, "cut")
    refused(repository, "plain")
