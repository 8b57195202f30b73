"""What a `Content-Encoding` says about stored bytes."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.http.codings import foreign_coding


@pytest.mark.parametrize(
    "value",
    [
        "", "identity", "none", "None", "binary", "aws-chunked", "utf-8", "UTF-8", "8bit",
        "aws-chunked,identity", " , ", "application/octet-stream", "image/x-qemu-disk",
    ],
)  # fmt: skip
def test_what_names_no_coding_says_nothing(value: str) -> None:
    assert_that(foreign_coding([value], ["/a.img"]), Equals(""))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("gzip", "/pool/disk.img.gz"),
        ("x-gzip", "/pool/disk.raw.gz"),
        ("GZIP", "/DISK.IMG.GZ"),
        ("gzip", "/rootfs.tgz"),
        ("x-compress", "/disk.Z"),
        ("zstd", "/disk.img.zst"),
        ("br", "/disk.img.br"),
        ("xz", "/disk.img.xz"),
        ("bzip2", "/disk.img.bz2"),
        ("x-bzip2", "/disk.img.bz2"),
        ("aws-chunked, gzip", "/disk.img.gz"),
    ],
)
def test_a_name_explains_its_coding(value: str, name: str) -> None:
    assert_that(foreign_coding([value], [name]), Equals(""))
    assert_that(foreign_coding([value], ["/latest", name]), Equals(""))


@pytest.mark.parametrize(
    ("values", "name", "foreign"),
    [
        (["gzip"], "/disk.img", "gzip"),
        (["gzip"], "/disk.img.xz", "gzip"),
        (["br"], "/disk.img.gz", "br"),
        (["gzip, gzip"], "/disk.img.gz", "gzip, gzip"),
        (["gzip", "gzip"], "/disk.img.gz", "gzip, gzip"),
        (["identity", "gzip"], "/disk.img", "gzip"),
        (["deflate"], "/disk.img", "deflate"),
        (["x-unknown"], "/disk.img", "x-unknown"),
        (["gzip"], "/gz", "gzip"),
    ],
)
def test_anything_else_is_foreign(values: list[str], name: str, foreign: str) -> None:
    assert_that(foreign_coding(values, [name]), Equals(foreign))
