"""How the check behaves: chunks, time, memory, errors, files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any, NoReturn

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, IsInstance, LessThan

from imagebroker.exceptions import FormatError
from imagebroker.verify.disk_format import VERIFIABLE, FormatCheck, inspect_file
from tests.verify import specimens
from tests.verify.judging import ANYTHING, cut, judged, of_file, pieces, refusal, verdict
from tests.verify.specimens import ACCEPTED, NEVER

pytestmark = pytest.mark.usefixtures("qemu_img")

MARKS = [
    b"", b"QFI\xfb\0\0\0\3", b"KDMV\1\0\0\0", b"COWD", b"conectix", b"vhdxfile", b"LUKS\xba\xbe\0\1",
    b"QED\0", b"WithoutFreeSpace", b"WithouFreSpacExt", b"Bochs Virtual HD Image", b"version=1\n",
    b"#!/bin/sh\n#V2.0 Format\n", b"\x1f\x8b", b"<html>",
]  # fmt: skip


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 511, 512, 513, 34815, 34816, 34817])
def test_short_content_gets_a_verdict_and_no_crash(length: int) -> None:
    for mark in MARKS:
        for filler in (b"\0", b"\xff", b"#", b"\n"):
            data = mark[:length].ljust(length, filler)
            for declared in (None, *VERIFIABLE):
                verdict(data, declared)


def test_nothing_is_raw_and_nothing_else() -> None:
    for declared in (None, "raw", "ami"):
        said = verdict(b"", declared)
        assert_that(said, Equals({"disk_format": "raw", "virtual_size": 0}))
        assert_that(judged([], declared), Equals(said))
        assert_that(judged([b"", b""], declared), Equals(said))
    for declared in ("qcow2", "iso", "vmdk"):
        refusal(b"", declared)


EVERYTHING = {**{name: make for name, (_, make) in ACCEPTED.items()}, **NEVER}


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_verdict_does_not_depend_on_how_the_stream_is_cut(name: str) -> None:
    data = EVERYTHING[name]()
    expected = verdict(data)
    for length in (4096, 65536, 1024 * 1024, 511, 513, 7919):
        assert_that(judged(pieces(data, length)), Equals(expected))
    # Byte by byte where headers are, and a little further.
    for begin in (0, 32 * 1024, 64 * 1024):
        end = begin + 3000
        cuts = [data[:begin], *pieces(data[begin:end], 1), data[end:]]
        assert_that(judged(cuts), Equals(expected))
    assert_that(judged([data[:-3000], *pieces(data[-3000:], 1)]), Equals(expected))


@pytest.mark.parametrize("name", ["qcow2", "vmdk with a footer", "vhd", "vdi", "iso", "a kernel"])
def test_the_verdict_is_the_same_with_a_header_split_at_every_offset(name: str) -> None:
    data = EVERYTHING[name]()
    expected = verdict(data)
    for place in (*range(700), *range(32760, 32800), *range(34800, 34832)):
        assert_that(judged(cut(data, [place])), Equals(expected))


def test_the_verdict_is_the_same_for_bytes_bytearrays_and_views() -> None:
    data = specimens.real("qcow2")
    for kind in (bytes, bytearray, memoryview):
        assert_that(judged([kind(data)]), Equals(verdict(data)))


def test_a_vhdx_is_judged_alike_when_its_distant_tables_are_split() -> None:
    data, at = specimens.real("vhdx"), specimens.VHDX_METADATA_AT
    expected = verdict(data)
    for table in (0x30000, 0x40000, *range(at, at + 65537, 16384), at + 65544, at + 65552):
        for place in range(table - 3, table + 40):
            assert_that(judged(cut(data, [place, place + 1])), Equals(expected))


@pytest.mark.parametrize(
    ("declared", "name"),
    [("raw", "qcow2"), ("qcow2", "raw"), ("iso", "vdi"), ("vmdk", "vhd"), (None, "qed")],
)
def test_a_lie_ends_the_stream_at_its_first_sector(declared: str | None, name: str) -> None:
    data = EVERYTHING[name]()
    check = FormatCheck(ANYTHING, declared, 100 * 1024**3)
    check.feed(data[:511])
    with pytest.raises(FormatError) as first:
        check.feed(data[511:512])
    with pytest.raises(FormatError) as again:  # it does not come back to life
        check.feed(data[512:])
    assert_that(again.value, Equals(first.value))
    with pytest.raises(FormatError) as at_the_end:
        check.evidence()
    assert_that(at_the_end.value, Equals(first.value))


@pytest.mark.parametrize("name", ["qcow2 with a backing file", "qcow2 with a data file"])
def test_an_unsafe_feature_ends_the_stream_at_its_first_sector(name: str) -> None:
    check = FormatCheck(ANYTHING, "qcow2", None)
    with pytest.raises(FormatError):
        check.feed(NEVER[name]()[:512])


def test_a_raw_image_declared_iso_ends_where_the_iso_would_begin() -> None:
    check = FormatCheck(ANYTHING, "iso", None)
    check.feed(bytes(34 * 1024 - 1))
    with pytest.raises(FormatError):
        check.feed(b"\0")


def test_metadata_beyond_a_known_end_are_refused_at_once() -> None:
    image = specimens.real("vhdx")
    entry = image.index(bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e"), 0x30000)
    image = specimens.patched(image, entry + 16, "<Q", 2**40)
    check = FormatCheck(ANYTHING, None, 2**30)
    with pytest.raises(FormatError, match="ends before byte"):
        check.feed(image[: 0x40000])  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [AttributeError("x"), ValueError("x"), MemoryError(), RecursionError(), KeyError("x"), OSError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_the_inspector_raises_is_a_refusal(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace_inspector(monkeypatch, "qcow2", error, matches=True)
    assert_that(refusal(specimens.real("qcow2")), Contains(type(error).__name__))


def test_a_format_that_a_newer_inspector_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_inspector(monkeypatch, "new", None, matches=True)
    assert_that(refusal(specimens.real("qcow2")), Contains("new and qcow2 at once"))
    assert_that(refusal(specimens.mbr(), "raw"), Contains("new and raw at once"))


def _replace_inspector(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Exception | None, *, matches: bool
) -> None:
    from oslo_utils.imageutils import format_inspector

    class Inspector(format_inspector.RawFileInspector):  # type: ignore[misc]
        format_match = matches

        def safety_check(self) -> NoReturn:
            raise error or AssertionError("it was not asked")

    monkeypatch.setitem(format_inspector.ALL_FORMATS, name, Inspector)


def test_the_inspector_is_imported_only_for_content_that_it_may_know() -> None:
    script = """
import sys
from imagebroker.verify.disk_format import FormatCheck, FormatPolicy
for content in (b"plain bytes" * 10_000, b"", bytes(100_000)):
    check = FormatCheck(FormatPolicy(), "raw", None)
    check.feed(content)
    check.evidence()
sys.exit("oslo_utils" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk with a footer", "vhdx"])
def test_feeding_costs_nothing_after_the_bytes_that_decide(name: str) -> None:
    head = ACCEPTED[name][1]()
    chunk = bytes(1024 * 1024)
    check = FormatCheck(ANYTHING, None, None)
    check.feed(head)
    began = time.process_time()
    for _ in range(4096):  # 4 GiB
        check.feed(chunk)
    assert_that(time.process_time() - began, LessThan(0.5))


def test_memory_does_not_grow_with_the_image() -> None:
    verdict(specimens.real("qcow2"))
    for name in ("raw", "qcow2", "vhdx"):
        data = ACCEPTED[name][1]()
        more = bytes(512)
        tracemalloc.start()
        try:
            check = FormatCheck(ANYTHING, None, None)
            for chunk in pieces(data, 4096):
                check.feed(chunk)
            for _ in range(20_000):
                check.feed(more)
            assert_that(tracemalloc.get_traced_memory()[1], LessThan(700 * 1024))
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_file_gets_the_verdict_of_the_stream(name: str, tmp_path: Path) -> None:
    data = EVERYTHING[name]()
    path = tmp_path / "image"
    path.write_bytes(data)
    for declared in (None, "raw", "qcow2", ACCEPTED.get(name, ("raw",))[0]):
        assert_that(of_file(path, declared), Equals(verdict(data, declared)))


def test_of_a_sparse_terabyte_only_the_ends_are_read(tmp_path: Path) -> None:
    def read_so_far() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    path = tmp_path / "image"
    verdict(specimens.real("qcow2"))
    for name in ("raw", "qcow2", "vhdx", "luks", "a disk with a GPT"):
        path.write_bytes(ACCEPTED[name][1]())
        os.truncate(path, 2**40)
        before = read_so_far()
        assert_that(of_file(path), IsInstance(dict))
        assert_that(read_so_far() - before, LessThan(512 * 1024))


def test_a_file_that_cannot_be_read_is_no_matter_of_formats(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Is a directory"):
            inspect_file(fd, 4096, ANYTHING, None)
    finally:
        os.close(fd)


def test_a_file_that_shrinks_while_it_is_looked_at_is_judged_by_what_is_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "image"
    path.write_bytes(specimens.real("vdi"))
    fd = os.open(path, os.O_RDONLY)
    try:
        os.truncate(path, 100)
        with pytest.raises(FormatError):
            inspect_file(fd, 1024, ANYTHING, "vdi")
    finally:
        os.close(fd)


def test_the_evidence_is_the_callers_own() -> None:
    check = FormatCheck(ANYTHING, None, None)
    check.feed(b"x")
    evidence: dict[str, Any] = check.evidence()
    evidence["disk_format"] = "changed"
    assert_that(check.evidence()["disk_format"], Equals("raw"))
