"""Compressed data is unpacked as its own tool unpacks it without an option."""

from __future__ import annotations

import functools
import logging
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import CompressionError
from imagebroker.transfer.codecs import Unpacker
from tests.conftest import Scripted
from tests.servers.fixtures import require
from tests.verify.ways import WAYS, Way

DATA = random.Random(3).randbytes(50_000) + bytes(50_000)
TOOLS = ("gzip", "bzip2", "xz", "zstd")
#: What may stand behind the data.
BEHIND = {
    "nothing": b"",
    "one-zero": b"\0",
    "four-zeros": bytes(4),
    "a-block-of-zeros": bytes(512),
    "many-zeros": bytes(3 * 1024 * 1024),
    "a-line-feed": b"\n",
    "a-word": b"end\n",
    "a-signature": b"-----BEGIN SIGNATURE-----\n" + b"x" * 400 + b"\n",
    "zeros-and-text": bytes(100) + b"appended after padding\n",
    "a-megabyte": os.urandom(1024) * 1024,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


def packed(tool: str, *flags: str, data: bytes = DATA) -> bytes:
    require(None if shutil.which(tool) else f"{tool} is not installed: apt-get install {tool}")
    return subprocess.run([tool, "-qc", *flags], input=data, capture_output=True, check=True).stdout


#: DATA, as a tool packs it.
packed_data = functools.cache(packed)


@functools.cache
def by_tool(tool: str, data: bytes) -> bytes | None:
    """What the tool makes of it; None if it refuses. gzip says 2 for a warning."""
    done = subprocess.run([tool, "-dc"], input=data, capture_output=True)
    takes = done.returncode == 0 or (tool == "gzip" and done.returncode == 2)
    return done.stdout if takes else None


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("behind", BEHIND)
def test_what_stands_behind_the_data_is_taken_as_the_tool_takes_it(
    scripted: Scripted, way: Way, tool: str, behind: str
) -> None:
    data = packed_data(tool) + BEHIND[behind]
    expected = by_tool(tool, data)
    ref, _ = scripted.image(data, chunk=10_000)
    if expected is None:
        with pytest.raises(CompressionError):
            way.get(scripted.broker, ref, decompress=tool)
        way.assert_nothing_came(len(DATA))
    else:
        assert_that(way.get(scripted.broker, ref, decompress=tool)[0], Equals(expected))


@pytest.mark.parametrize("tool", ["gzip", "bzip2"])
def test_a_warning_says_that_appended_data_was_ignored(
    caplog: pytest.LogCaptureFixture, tool: str
) -> None:
    caplog.set_level(logging.WARNING, "imagebroker")
    list(Unpacker("the image", tool).unpacked([packed(tool), b"appended by a build script"]))
    assert_that(caplog.text, Contains("appended"))


@pytest.mark.parametrize("tool", ["gzip", "bzip2"])
def test_a_second_member_that_is_cut_in_its_header_is_no_appended_data(tool: str) -> None:
    whole = packed(tool)
    for stop in range(1, 10):
        with pytest.raises(CompressionError):
            list(Unpacker("the image", tool).unpacked([whole, whole[:stop]]))


@pytest.mark.parametrize(
    "flags",
    [("--long",), ("--ultra", "-22"), ("--ultra", "-20"), ("-19", "--long=27")],
    ids=" ".join,
)
def test_every_window_that_zstd_reads_without_an_option_is_read(flags: tuple[str, ...]) -> None:
    # The window is that of the data: it takes 128 MiB of it to be 128 MiB wide.
    data = bytes(132 * 1024 * 1024) + DATA
    unpacked = Unpacker("the image", "zstd").unpacked([packed("zstd", *flags, data=data)])
    assert_that(sum(map(len, unpacked)), Equals(len(data)))


def test_the_widest_window_of_xz_within_the_limit_is_read() -> None:
    unpacked = Unpacker("the image", "xz").unpacked([packed("xz", "--lzma2=dict=128MiB")])
    assert_that(b"".join(map(bytes, unpacked)), Equals(DATA))
