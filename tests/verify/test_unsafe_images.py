"""Images that would make a host read other files, or more than it has."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan

from imagebroker.verify.disk_format import VERIFIABLE
from imagebroker.verify.formats.vhdx import crc32c
from tests.verify import specimens
from tests.verify.judging import evidence, refusal, verdict
from tests.verify.specimens import DESCRIPTOR, VHDX_METADATA_AT, described, over, patched, real

pytestmark = pytest.mark.usefixtures("qemu_img")

SOUND = DESCRIPTOR.replace("monolithicFlat", "monolithicSparse").replace(
    'FLAT "/etc/passwd" 0', 'SPARSE "disk.vmdk"'
)


@pytest.mark.promise("security-1")
def test_a_qcow2_with_a_backing_file_is_refused() -> None:
    for offset in (1, 104, 2**63):
        data = patched(real("qcow2"), 8, ">Q", offset)
        assert_that(refusal(data, "qcow2"), Contains("backing file"))
        refusal(patched(real("qcow2 of version 2"), 8, ">Q", offset))


@pytest.mark.promise("security-2")
def test_a_qcow2_with_an_external_data_file_is_refused() -> None:
    assert_that(refusal(real("qcow2 with a data file"), "qcow2"), Contains("another file"))


def test_a_qcow2_that_only_names_a_data_file_is_refused() -> None:
    denied = patched(real("qcow2 with a data file"), 72, ">Q", 0)
    assert_that(refusal(denied, "qcow2"), Contains("names a data file"))
    assert_that(refusal(patched(real("qcow2"), 100, ">I", 72)), Contains("too short"))
    endless = patched(real("qcow2"), 112 + 4, ">I", 2**32 - 1)
    assert_that(refusal(endless, "qcow2"), Contains("exceed its header"))


@pytest.mark.parametrize("bit", range(64))
def test_a_qcow2_with_incompatible_features_that_are_not_known_is_refused(bit: int) -> None:
    said = verdict(patched(real("qcow2"), 72, ">Q", 1 << bit), "qcow2")
    assert_that(isinstance(said, dict), Equals(bit in (0, 1, 3)))


@pytest.mark.parametrize("version", [0, 1, 4, 5, 2**24, 2**32 - 1])
def test_a_qcow2_of_another_version_is_refused(version: int) -> None:
    data = patched(real("qcow2"), 4, ">I", version)
    for declared in (None, "qcow2", "raw"):
        refusal(data, declared)


def test_a_qcow2_shorter_than_a_sector_is_not_taken_for_raw() -> None:
    image = real("qcow2")
    for length in range(4, 512):
        for declared in (None, "raw", "qcow2"):
            refusal(image[:length], declared)
    refusal(b"QFI\xfb", "raw")


@pytest.mark.promise("security-4")
@pytest.mark.parametrize("padding", [0, 511, 512, 513, 4096, 34 * 1024, 65536, 3 * 2**20])
@pytest.mark.parametrize(
    "text",
    [
        DESCRIPTOR,
        "\ufeff" + DESCRIPTOR,
        "\n \n  # comment\n\n" + DESCRIPTOR,
        "# " + "long comment " * 200 + "\n" + DESCRIPTOR,
        DESCRIPTOR.replace("\n", "\r\n"),
        DESCRIPTOR.partition("\n")[2],
        DESCRIPTOR.replace("version", "VERSION").replace("createType", "CREATETYPE"),
        "version=1\n",
        "    \nversion=3\r\n",
        "#\nversion=2\ncreateType=\"custom\"\nRW 1 FLAT \"/dev/sda\" 0",
        'CID=1\ncreateType="vmfs"\nRW 1 VMFS "/etc/shadow"\n',
    ],
)  # fmt: skip
def test_a_vmdk_descriptor_is_refused_however_it_is_dressed_up(text: str, padding: int) -> None:
    data = text.encode().ljust(padding, b"\0")
    for declared in (None, "raw", "vmdk"):
        refusal(data, declared)


def test_text_that_is_no_descriptor_is_plain() -> None:
    for text in (
        "version of the image\n",
        "# a comment\nx=1\n",
        "createType is a word",
        "\n" * 600,
    ):
        evidence(text.encode(), "raw")


def test_a_vmdk_with_its_descriptor_in_itself_is_accepted() -> None:
    evidence(described(SOUND), "vmdk")
    evidence(described(SOUND.replace("\n", "\r\n")), "vmdk")
    evidence(described(SOUND.replace("Sparse", "SPARSE")), "vmdk")
    evidence(described(SOUND, sectors=128), "vmdk")


@pytest.mark.parametrize(
    "kind",
    ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "vmfs", "vmfsSparse", "custom",
     "seSparse", "fullDevice", "vmfsRaw", "partitionedDevice", "", "x" * 5000],
)  # fmt: skip
def test_a_vmdk_of_a_kind_that_is_not_one_file_is_refused(kind: str) -> None:
    refusal(described(SOUND.replace("monolithicSparse", kind)), "vmdk")


@pytest.mark.promise("security-4")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("disk.vmdk", "/etc/passwd"),
        ("disk.vmdk", "../disk.vmdk"),
        ("disk.vmdk", "nbd://host/disk"),
        ("disk.vmdk", "dir\\disk.vmdk"),
        ("SPARSE", "FLAT"),
        ("SPARSE", "VMFSSPARSE"),
        ("RW 8192", 'RW 1 SPARSE "other.vmdk"\nRW 8192'),
        ("RW 8192", "READ 8192"),
        ('RW 8192 SPARSE "disk.vmdk"', ""),
        ("parentCID=ffffffff", "parentCID=00000001"),
        ("parentCID=ffffffff", 'parentCID=ffffffff\nparentFileNameHint="/etc/passwd"'),
        ("# The Disk", '# parentFileNameHint="/etc/passwd"\n# The Disk'),
        ("# The Disk", '# createType="monolithicFlat"\n# The Disk'),
        ("CID=fffffffe", 'CID=fffffffe\nCREATETYPE="monolithicFlat"'),
        ('createType="monolithicSparse"', ""),
        ("# Extent description", "something unknown"),
        ("disk.vmdk", "d\u00efsk\\.vmdk"),
        ("# Extent description", '\u00a0RW 8192 FLAT "/etc/passwd" 0'),
    ],
)
def test_a_vmdk_whose_descriptor_leads_elsewhere_is_refused(old: str, new: str) -> None:
    assert_that(SOUND, Contains(old))
    refusal(described(SOUND.replace(old, new)), "vmdk")


def test_a_vmdk_descriptor_that_goes_on_behind_its_claimed_size_is_refused() -> None:
    # qemu reads twenty sectors whatever the header says.
    comment = "# " + "x" * (512 - len(SOUND) - 3) + "\n"
    longer = described(SOUND + comment + 'parentFileNameHint="/etc/passwd"\n')
    assert_that(refusal(patched(longer, 36, "<Q", 1), "vmdk"), Contains("without an end"))


@pytest.mark.parametrize(
    ("at", "layout", "value", "why"),
    [
        (4, "<I", 0, "version 0"),
        (4, "<I", 4, "version 4"),
        (12, "<Q", 0, "no size in its header"),
        (12, "<Q", 2**64 - 1, "more than the"),
        (12, "<Q", 2**55, "more than the"),
        (28, "<Q", 0, "sector 0, not 1"),
        (28, "<Q", 2, "sector 2, not 1"),
        (28, "<Q", 2**63, ", not 1"),
        (36, "<Q", 0, "descriptor of 0 sectors"),
        (36, "<Q", 129, "descriptor of 129 sectors"),
        (36, "<Q", 2**21, "descriptor of 2097152 sectors"),
        (36, "<Q", 2**64 - 1, "sectors; 1 to"),
        (56, "<Q", 2**64 - 1, "no footer"),
    ],
)
def test_a_vmdk_whose_header_is_out_of_range_is_refused(
    at: int, layout: str, value: int, why: str
) -> None:
    assert_that(refusal(patched(real("vmdk"), at, layout, value)), Contains(why))


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [
        (0, "<I", 1),  # counted from the footer's own sector: magic
        (4, "<I", 2),
        (8, "<I", 1),
        (12, "<Q", 2**40),
        (20, "<Q", 1),
        (28, "<Q", 30),
        (36, "<Q", 19),
        (44, "<I", 1),
        (56, "<Q", 2**64 - 1),
        (77, "<H", 7),
        (-512 + 8, "<I", 1),  # marker before it: length
        (-512 + 12, "<I", 2),
        (-1, "<B", 1),
        (512 + 8, "<I", 1),  # marker behind it
        (512 + 12, "<I", 3),
        (1023, "<B", 1),
    ],
)
def test_a_vmdk_whose_footer_differs_is_refused(at: int, layout: str, value: int) -> None:
    image = specimens.streamed_vmdk()
    footer = len(image) - 1024
    refusal(patched(image, footer + at, layout, value), "vmdk")


def test_a_vmdk_with_something_behind_its_footer_is_refused() -> None:
    for more in (b"\0", b"x" * 512, bytes(1536)):
        refusal(specimens.streamed_vmdk() + more, "vmdk")


def _vhd_footer() -> bytes:
    return real("vhd")[:512]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("qcow2 and MBR", lambda: over(real("qcow2"), 446, specimens.mbr()[446:512])),
        ("qcow2 and FAT", lambda: over(real("qcow2"), 510, b"\x55\xaa")),
        ("qcow2 and ISO", lambda: over(real("qcow2"), 32768, specimens.iso()[32768:34816])),
        ("qcow2 and VDI", lambda: over(real("qcow2"), 64, real("vdi")[64:68])),
        ("qcow2 and VHD", lambda: real("qcow2") + _vhd_footer()),
        ("vmdk and ISO", lambda: over(real("vmdk"), 32768, specimens.iso()[32768:34816])),
        ("vmdk and VDI", lambda: over(real("vmdk"), 64, real("vdi")[64:68])),
        ("vhd and MBR", lambda: over(real("vhd"), 446, specimens.mbr()[446:512])),
        ("vhdx and ISO", lambda: over(real("vhdx"), 32768, specimens.iso()[32768:34816])),
        ("luks and ISO", lambda: over(specimens.luks(), 32768, specimens.iso()[32768:34816])),
        ("vdi and ISO", lambda: over(real("vdi static"), 32768, specimens.iso()[32768:34816])),
        ("vdi and MBR", lambda: over(real("vdi static"), 510, b"\x55\xaa")),
        ("ISO and VHD", lambda: specimens.iso() + _vhd_footer()),
        ("GPT and VHD", lambda: specimens.gpt() + _vhd_footer()),
        ("raw and VHD", lambda: specimens.raw() + _vhd_footer()),
        ("raw and VHD of 511 bytes", lambda: specimens.raw() + _vhd_footer()[:511]),
        ("raw and qcow2 at 32 KiB", lambda: bytes(32768) + real("qcow2")),
        ("MBR and qcow2 at 32 KiB", lambda: over(specimens.mbr(), 32768, real("qcow2"))),
        ("raw and vmdk at 32 KiB", lambda: bytes(32768) + real("vmdk")),
        ("descriptor and ISO", lambda: over(DESCRIPTOR.encode(), 32768, specimens.iso()[32768:])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_content_that_is_two_images_at_once_is_refused(name: str, data: object) -> None:
    assert callable(data)
    for declared in (None, *VERIFIABLE):
        refusal(data(), declared)


def test_an_iso_with_a_partition_table_is_an_iso() -> None:
    for table in (specimens.mbr(512), specimens.gpt(1024)):
        both = over(specimens.iso(), 0, table)
        for declared in (None, "iso"):
            assert_that(evidence(both, declared)["disk_format"], Equals("iso"))
        refusal(both, "raw")


def test_an_iso_that_ends_inside_its_descriptor_is_refused() -> None:
    for length in (32774, 34815):
        for declared in (None, "iso", "raw"):
            refusal(specimens.iso()[:length], declared)
    evidence(specimens.iso()[:34816], "iso")


def test_a_vhd_that_is_not_dynamic_is_refused() -> None:
    for kind in (0, 2, 4, 5, 2**32 - 1):
        assert_that(
            refusal(patched(real("vhd"), 60, ">I", kind)), Contains("begins like a dynamic disk")
        )


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [
        (16, ">Q", 0),
        (16, ">Q", 511),
        (16, ">Q", 2**20),
        (16, ">Q", 2**64 - 1),
        (512, ">Q", 0),
        (512 + 16, ">Q", 2**63),
        (512 + 28, ">I", 0),
        (512 + 28, ">I", 1_000_000),
        (512 + 28, ">I", 2**31),
        (512 + 28, ">I", 2**32 - 1),
        (512 + 32, ">I", 0),
        (512 + 32, ">I", 3),
        (512 + 32, ">I", 256),
        (512 + 32, ">I", 2**21 + 512),
        (-512 + 48, ">Q", 1),
        (-512 + 60, ">I", 4),
    ],
)
def test_a_vhd_whose_tables_make_no_sense_is_refused(at: int, layout: str, value: int) -> None:
    image = real("vhd")
    refusal(patched(image, at % len(image), layout, value), "vhd")


@pytest.mark.parametrize(
    ("at", "layout", "values"),
    [
        (0x30000, "<4s", (b"none",)),
        (0x30008, "<I", (0,)),
        (0x30008, "<I", (2048,)),
        (0x30008, "<I", (2**31,)),
        (VHDX_METADATA_AT, "<8s", (b"nonsense",)),
        (VHDX_METADATA_AT + 10, "<H", (0,)),
        (VHDX_METADATA_AT + 10, "<H", (2048,)),
        (VHDX_METADATA_AT + 10, "<H", (2**16 - 1,)),
    ],
)
def test_a_vhdx_whose_tables_make_no_sense_is_refused(
    at: int, layout: str, values: tuple[int]
) -> None:
    refusal(patched(real("vhdx"), at, layout, *values), "vhdx")


def _vhdx_entry(image: bytes, guid: str, start: int) -> int:
    return image.index(bytes.fromhex(guid), start)


@pytest.mark.parametrize("offset", [0, 1, 65536, 2**20 - 1, 2**24, 2**40, 2**63, 2**64 - 1])
def test_a_vhdx_whose_metadata_lie_elsewhere_is_refused(offset: int) -> None:
    image = real("vhdx")
    entry = _vhdx_entry(image, "06a27c8b90479a4bb8fe575f050f886e", 0x30000)
    refusal(patched(image, entry + 16, "<Q", offset), "vhdx")


@pytest.mark.parametrize("guid", ["3767a1ca36fa434db3b633f0aa44e76b", "2442a52f1bcd7648b2115dbed83bf4b8"])  # fmt: skip
@pytest.mark.parametrize(
    ("at", "value"), [(16, 0), (16, 65535), (16, 2**20), (16, 2**32 - 1), (20, 0), (20, 2**31)]
)
def test_a_vhdx_whose_items_lie_elsewhere_is_refused(guid: str, at: int, value: int) -> None:
    image = real("vhdx")
    entry = _vhdx_entry(image, guid, VHDX_METADATA_AT)
    refusal(patched(image, entry + at, "<I", value), "vhdx")


def with_header(image: bytes, at: int, layout: str, value: int, *, sound: bool = True) -> bytes:
    """One of the two headers changed, its checksum right again unless told otherwise."""
    header = bytearray(image[at : at + 4096])
    struct.pack_into(layout, header, 48, value)
    if sound:
        header[4:8] = bytes(4)
        header[4:8] = crc32c(bytes(header)).to_bytes(4, "little")
    return over(image, at, bytes(header))


@pytest.mark.promise("security-1")
def test_a_vhdx_whose_log_would_change_it_is_refused() -> None:
    image = real("vhdx")
    sequences = {at: int.from_bytes(image[at + 8 : at + 16], "little") for at in (65536, 131072)}
    older, newer = sorted(sequences, key=lambda at: sequences[at])
    assert_that(refusal(with_header(image, newer, "<Q", 1), "vhdx"), Contains("log"))
    # A header that is older is nobody's, a newer one with a wrong checksum may be somebody's.
    verdict_of_old = verdict(with_header(image, older, "<Q", 1), "vhdx")
    assert_that(verdict_of_old, Equals(verdict(image, "vhdx")))
    broken = with_header(image, newer, "<Q", 1, sound=False)
    assert_that(refusal(broken, "vhdx"), Contains("log"))


def test_a_vhdx_without_a_valid_header_is_refused() -> None:
    image = real("vhdx")
    for damaged in (b"\xff" * 4, b"head" + bytes(4)):
        both = over(over(image, 65536, damaged), 131072, damaged)
        assert_that(refusal(both, "vhdx"), Contains("no valid header"))
    one = over(image, 65536, b"\xff" * 4)
    assert_that(verdict(one, "vhdx"), Equals(verdict(image, "vhdx")))


def test_the_checksum_of_castagnoli_is_that_of_its_definition() -> None:
    assert_that(crc32c(b"123456789"), Equals(0xE3069283))


def test_a_vhdx_with_a_parent_is_refused() -> None:
    image = real("vhdx")
    entry = _vhdx_entry(image, "3767a1ca36fa434db3b633f0aa44e76b", VHDX_METADATA_AT)
    item = VHDX_METADATA_AT + int.from_bytes(image[entry + 16 : entry + 20], "little")
    has_parent = patched(image, item + 4, "<I", 2)
    assert_that(refusal(has_parent, "vhdx"), Contains("parent"))
    locator = bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c")
    assert_that(refusal(over(image, entry + 32 * 2, locator), "vhdx"), Contains("parent"))
    twice = over(image, entry + 32 * 2, image[entry : entry + 32])
    assert_that(refusal(twice, "vhdx"), Contains("duplicate"))


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [
        (0x44, "<I", 0x00010000),
        (0x44, "<I", 0x00020001),
        (0x4C, "<I", 0),
        (0x4C, "<I", 3),
        (0x4C, "<I", 4),
        (0x154, "<I", 2**32 - 512),
        (0x170, "<Q", 2**63),
        (0x170, "<Q", 5 * 2**20),
        (0x180, "<I", 2**30),
        (0x180, "<I", 2**20),
        (0x180, "<I", 0),
        (0x1A8, "<I", 1),
        (0x1B8, "<I", 1),
    ],
)
def test_a_vdi_that_needs_another_or_makes_no_sense_is_refused(
    at: int, layout: str, value: int
) -> None:
    refusal(patched(real("vdi"), at, layout, value), "vdi")


def test_a_luks_header_without_its_data_is_refused() -> None:
    assert_that(refusal(patched(specimens.luks(), 104, ">I", 0)), Contains("without data"))
    refusal(patched(specimens.luks(), 104, ">I", 2**32 - 1))
    assert_that(refusal(specimens.luks()[:4096]), Contains("before its data begins"))


def test_headers_that_claim_gigabytes_cost_no_memory() -> None:
    verdict(real("vhdx"))  # imports what is imported only once
    claims = [
        patched(real("vhdx"), 0x30008, "<I", 2**31),
        patched(real("vhdx"), VHDX_METADATA_AT + 10, "<H", 2**16 - 1),
        patched(real("vhd"), 512 + 28, ">I", 2**32 - 1),
        patched(real("vmdk"), 36, "<Q", 2**21),
        patched(real("vdi"), 0x180, "<I", 2**30),
        patched(real("qcow2"), 100, ">I", 2**32 - 1),
    ]
    for data in claims:
        tracemalloc.start()
        try:
            verdict(data)
            assert_that(tracemalloc.get_traced_memory()[1], LessThan(1024 * 1024))
        finally:
            tracemalloc.stop()
