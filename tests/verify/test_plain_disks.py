"""Disks that refer to no file of the host are acceptable, whatever their first sector looks like."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from tests.servers.fixtures import require
from tests.verify import disks
from tests.verify.differential import qemu_objects_to
from tests.verify.judging import of_file
from tests.verify.specimens import real

pytestmark = pytest.mark.usefixtures("qemu_img")


@pytest.fixture(autouse=True)
def tools() -> None:
    require(disks.missing())


@pytest.mark.promise("security-3")
@pytest.mark.parametrize("name", disks.PLAIN)
def test_a_disk_that_refers_to_no_file_is_raw(name: str, tmp_path: Path) -> None:
    path = disks.PLAIN[name](tmp_path)
    expected = {"disk_format": "raw", "virtual_size": path.stat().st_size}
    for declared in (None, "raw"):
        assert_that(of_file(path, declared), Equals(expected))
    assert_that(qemu_objects_to(path, expected), Is(None))


@pytest.mark.promise("security-3")
@pytest.mark.parametrize("name", ["GPT with a hybrid MBR", "NTFS", "floppy that boots"])
def test_what_qemu_would_take_for_an_image_is_refused_with_such_a_sector_too(
    name: str, tmp_path: Path
) -> None:
    path = disks.PLAIN[name](tmp_path)
    for mark in (real("qcow2")[:104], b"KDMV\1\0\0\0", b"# Disk DescriptorFile\nversion=1\n"):
        with path.open("r+b") as file:
            file.write(mark)
        for declared in (None, "raw", "qcow2", "vmdk"):
            assert_that(type(of_file(path, declared)), Is(str))


def test_an_iso_that_boots_from_a_usb_stick_is_an_iso(tmp_path: Path) -> None:
    path = disks.hybrid_iso(tmp_path)
    expected = {"disk_format": "iso", "virtual_size": path.stat().st_size}
    for declared in (None, "iso"):
        assert_that(of_file(path, declared), Equals(expected))
    assert_that(of_file(path, "raw"), Contains("the content is iso"))


@pytest.mark.promise("security-3")
def test_luks1_is_luks_and_luks2_is_nothing_that_can_be_verified(tmp_path: Path) -> None:
    first = of_file(disks.luks(tmp_path, 1))
    assert isinstance(first, dict)
    assert_that(first["disk_format"], Equals("luks"))
    second = disks.luks(tmp_path, 2)
    for declared in (None, "luks"):
        assert_that(of_file(second, declared), Contains("has version 2"))
    assert_that(of_file(second, "raw"), Contains("is luks"))


class TestFixedVhd:
    """A plain disk with a footer: what Azure takes."""

    @pytest.mark.parametrize("name", ["GPT", "MBR with boot code", "ext4", "NTFS", "floppy"])
    def test_it_is_a_vhd_of_the_size_of_its_disk(self, name: str, tmp_path: Path) -> None:
        disk = disks.PLAIN[name](tmp_path)
        path = disks.fixed_vhd(tmp_path, disk)
        assert_that(path.stat().st_size, Equals(disk.stat().st_size + 512))
        expected = {"disk_format": "vhd", "virtual_size": disk.stat().st_size}
        for declared in (None, "vhd"):
            assert_that(of_file(path, declared), Equals(expected))
        assert_that(qemu_objects_to(path, expected), Is(None))

    def test_its_size_may_be_that_of_its_geometry(self, tmp_path: Path) -> None:
        path = disks.fixed_vhd(tmp_path, disks.PLAIN["GPT"](tmp_path), "force_size=off")
        size = path.stat().st_size - 512
        assert_that(of_file(path), Equals({"disk_format": "vhd", "virtual_size": size}))

    def test_it_is_not_raw_where_raw_is_declared(self, tmp_path: Path) -> None:
        path = disks.fixed_vhd(tmp_path, disks.PLAIN["GPT"](tmp_path))
        for declared in ("raw", "ami", "iso", "qcow2"):
            assert_that(type(of_file(path, declared)), Is(str))
        assert_that(of_file(path, "raw"), Contains("footer of a vhd"))

    def test_a_disk_without_footer_is_none(self, tmp_path: Path) -> None:
        path = disks.PLAIN["GPT"](tmp_path)
        assert_that(of_file(path, "vhd"), Contains("is not vhd"))

    @pytest.mark.parametrize("at", [8, 16, 48, 56, 60, 64, 500])
    def test_a_footer_that_is_damaged_is_refused(self, at: int, tmp_path: Path) -> None:
        path = disks.fixed_vhd(tmp_path, disks.PLAIN["MBR with boot code"](tmp_path))
        with path.open("r+b") as file:
            file.seek(at - 512, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        for declared in (None, "vhd", "raw"):
            assert_that(type(of_file(path, declared)), Is(str))

    def test_a_footer_of_another_disk_is_refused(self, tmp_path: Path) -> None:
        path = disks.fixed_vhd(tmp_path, disks.PLAIN["GPT"](tmp_path))
        content = path.read_bytes()
        for other in (content[:1024] + content, content[512:], real("vhd"), content + b"\0"):
            path.write_bytes(other[: len(other) // 2] + content[-512:])
            for declared in (None, "vhd", "raw"):
                assert_that(type(of_file(path, declared)), Is(str))

    def test_an_image_with_a_header_is_not_made_plain_by_a_footer(self, tmp_path: Path) -> None:
        path = disks.fixed_vhd(tmp_path, disks.PLAIN["floppy"](tmp_path))
        for name in ("qcow2", "vmdk", "vdi", "qed", "qcow2 with a data file"):
            with path.open("r+b") as file:
                file.write(real(name)[:512])
            for declared in (None, "vhd", "raw", "qcow2"):
                assert_that(type(of_file(path, declared)), Is(str))
