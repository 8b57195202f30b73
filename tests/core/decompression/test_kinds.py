"""Each kind is unpacked as its own tool does it."""

from __future__ import annotations

import io
import lzma
import os
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.exceptions import (
    CompressionError,
    ImageBrokerError,
    InvalidImageRef,
    UnsupportedOperation,
)
from imagebroker.transfer.codecs import KINDS, unpacked_name
from tests.conftest import Scripted
from tests.verify.ways import Way

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    zstd = pytest.importorskip("backports.zstd", reason="needs imagebroker[zstd]")
from tests.core.decompression.packing import DATA, MIB, PACK, sha256


@pytest.mark.parametrize("kind", PACK)
def test_nothing_is_unpacked_unless_that_is_asked_for(
    scripted: Scripted, way: Way, kind: str
) -> None:
    packed = PACK[kind](DATA)
    ref, _ = scripted.image(packed)
    data, evidence = way.get(scripted.broker, ref)
    assert_that(data, Equals(packed))
    assert_that("compression" in evidence, Is(False))


@pytest.mark.parametrize("data", [DATA, b"x", b"BZh9 is no bzip2", b"\x1f\x8b", b"\xfd7zX"])
def test_auto_leaves_alone_what_is_not_compressed(
    scripted: Scripted, way: Way, data: bytes
) -> None:
    ref, _ = scripted.image(data)
    got, evidence = way.get(scripted.broker, ref, decompress="auto")
    assert_that(got, Equals(data))
    assert_that(evidence["sha256"], Equals(sha256(data)))
    assert_that("compression" in evidence, Is(False))


@pytest.mark.parametrize("kind", PACK)
def test_what_is_not_of_the_kind_that_was_named_is_refused(
    scripted: Scripted, way: Way, kind: str
) -> None:
    for other in (DATA, *(PACK[name](DATA) for name in PACK if name != kind)):
        ref, _ = scripted.image(other)
        with pytest.raises(CompressionError) as caught:
            way.get(scripted.broker, ref, decompress=kind)
        assert_that(caught.value.hint, Contains("auto"))
        way.assert_nothing_came(1)


@pytest.mark.parametrize(
    ("packed", "tool"),
    [
        (b"\x04\x22\x4d\x18\x64\x40\xa7" + DATA, "lz4 -d"),
        (b"PK\x03\x04\x14\0\0\0\x08\0" + DATA, "unzip"),
        (lzma.compress(DATA, format=lzma.FORMAT_ALONE), "xz -d"),
        (b"7z\xbc\xaf\x27\x1c\0\x04" + DATA, "7z x"),
        (b"LZIP\x01\x0c" + DATA, "lzip -d"),
    ],
)
def test_auto_does_not_store_as_it_is_what_another_tool_has_compressed(
    scripted: Scripted, way: Way, packed: bytes, tool: str
) -> None:
    ref, _ = scripted.image(packed)
    assert_that(way.get(scripted.broker, ref)[0], Equals(packed))
    with pytest.raises(CompressionError) as caught:
        way.get(scripted.broker, ref, decompress="auto")
    assert_that(caught.value.hint, Contains(tool))


@pytest.mark.parametrize("wrong", ["", "lzma", "GZIP", 7, b"gzip", ["gzip"], True])
def test_an_unknown_kind_is_refused_before_any_io(scripted: Scripted, wrong: Any) -> None:
    ref, script = scripted.image(DATA)
    for call in (
        lambda: scripted.broker.open(None, ref, decompress=wrong),
        lambda: scripted.broker.download(None, ref, io.BytesIO(), decompress=wrong),
    ):
        with pytest.raises(InvalidImageRef):
            call()
    assert_that(script.opened, Equals(0))


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("chunk", [1, 7, 1000, 10 * MIB])
def test_several_members_are_one_content(
    scripted: Scripted, way: Way, kind: str, chunk: int
) -> None:
    pack, parts = PACK[kind], (b"first" * 500, b"", b"second", DATA[:2000], b"")
    ref, _ = scripted.image(b"".join(map(pack, parts)), chunk=chunk)
    data, _ = way.get(scripted.broker, ref, decompress="auto")
    assert_that(data, Equals(b"".join(parts)))


def test_frames_of_zstd_that_are_to_be_skipped_are_skipped(scripted: Scripted, way: Way) -> None:
    skipped = struct.pack("<II", 0x184D2A53, 20_000) + os.urandom(20_000)
    ref, _ = scripted.image(skipped + zstd.compress(b"one") + skipped + zstd.compress(b" two"))
    data, _ = way.get(scripted.broker, ref, decompress="zstd")
    assert_that(data, Equals(b"one two"))


@pytest.mark.parametrize("between", [4, 8, 100_000])
def test_padding_between_and_after_streams_of_xz_is_skipped(
    scripted: Scripted, way: Way, between: int
) -> None:
    padding = bytes(between)
    ref, _ = scripted.image(lzma.compress(b"one") + padding + lzma.compress(b" two") + padding)
    data, _ = way.get(scripted.broker, ref, decompress="xz")
    assert_that(data, Equals(b"one two"))


@pytest.mark.promise("security-17")
@pytest.mark.parametrize("kind", ["xz", "zstd"])
@pytest.mark.parametrize("garbage", [b"x", b"\0", bytes(3), b"#!/bin/sh\n" * 5000, b"\0\0\0\0x"])
def test_something_else_behind_the_data_is_refused_where_its_own_tool_does(
    scripted: Scripted, way: Way, kind: str, garbage: bytes
) -> None:
    ref, _ = scripted.image(PACK[kind](DATA) + garbage)
    with pytest.raises(CompressionError):
        way.get(scripted.broker, ref, decompress=kind)
    way.assert_nothing_came(len(DATA))


@pytest.mark.parametrize("tool", ["gzip", "xz", "zstd", "bzip2"])
def test_what_the_tools_make_is_unpacked(
    scripted: Scripted, way: Way, tmp_path: Path, tool: str
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    (tmp_path / "disk").write_bytes(DATA)
    packed = subprocess.run([tool, "-c", tmp_path / "disk"], capture_output=True, check=True).stdout
    ref, _ = scripted.image(packed)
    assert_that(way.get(scripted.broker, ref, decompress="auto")[0], Equals(DATA))


def test_without_the_module_for_zstd_the_call_says_how_to_get_it() -> None:
    program = textwrap.dedent("""
        import sys
        sys.modules["backports.zstd"] = sys.modules["compression.zstd"] = None
        from imagebroker.exceptions import UnsupportedOperation
        from imagebroker.transfer.codecs import checked_kind
        assert checked_kind("xz") == "xz"
        try:
            checked_kind("zstd")
        except UnsupportedOperation as error:
            print(error.hint)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert_that(done.stdout, Equals("pip install 'imagebroker[zstd]'\n"))
    assert_that(issubclass(UnsupportedOperation, ImageBrokerError), Is(True))


@pytest.mark.parametrize(
    ("name", "decompress", "expected"),
    [
        (b"disk.qcow2.xz", "xz", b"disk.qcow2"),
        (b"disk.raw.ZST", "auto", b"disk.raw"),
        (b"disk.raw.gz", "xz", b"disk.raw.gz"),
        (b"disk", "auto", b"disk"),
        (b".xz", "xz", b".xz"),
    ],
)
def test_the_name_loses_its_ending(name: bytes, decompress: str, expected: bytes) -> None:
    assert_that(unpacked_name(name, decompress), Equals(expected))


def test_every_kind_has_a_test() -> None:
    assert_that(sorted(KINDS), Equals(sorted(PACK)))
