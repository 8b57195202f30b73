"""What is accepted, as what, and what policy and record have to say about it."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import FormatError
from imagebroker.verify.disk_format import PLAIN, VERIFIABLE, FormatCheck, FormatPolicy
from tests.verify import specimens
from tests.verify.judging import ANYTHING, evidence, refusal, verdict
from tests.verify.specimens import ACCEPTED, NEVER, over

pytestmark = pytest.mark.usefixtures("qemu_img")


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_sound_image_is_accepted_undeclared_and_as_what_it_is(name: str) -> None:
    right, make = ACCEPTED[name]
    data = make()
    for declared in (None, right):
        said = evidence(data, declared)
        assert_that(said["disk_format"], Equals(right))


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_image_declared_as_something_else_is_refused(name: str) -> None:
    right, make = ACCEPTED[name]
    data = make()
    agreeing = PLAIN if right == "raw" else {right}
    for declared in VERIFIABLE - agreeing:
        assert_that(refusal(data, declared), Contains(declared))


@pytest.mark.parametrize("name", NEVER)
def test_an_unsafe_or_unverifiable_image_is_refused_whatever_it_is_declared_as(name: str) -> None:
    data = NEVER[name]()
    for declared in (None, *VERIFIABLE):
        refusal(data, declared)


def test_the_size_of_the_disk_inside_is_evidence() -> None:
    for name in ("qcow2", "vmdk", "vdi", "vhdx", "vhd of the exact size", "vmdk with a footer"):
        said = evidence(ACCEPTED[name][1]())
        assert_that(said["virtual_size"], Equals(specimens.VIRTUAL))
    for name in ("raw", "iso", "tar", "a disk with an MBR"):
        data = ACCEPTED[name][1]()
        assert_that(evidence(data)["virtual_size"], Equals(len(data)))
    inside = verdict(specimens.luks(4711))
    assert_that(inside, Equals({"disk_format": "luks", "virtual_size": 4711}))


def test_half_a_sector_is_not_counted() -> None:
    for name, at, layout in (("qcow2", 24, ">Q"), ("vhd of the exact size", 48, ">Q")):
        data = specimens.patched(specimens.real(name), at, layout, specimens.VIRTUAL - 1)
        data = data if name == "qcow2" else data[:-512]  # the footer would say otherwise
        assert_that(evidence(data)["virtual_size"], Equals(specimens.VIRTUAL - 512))


def test_a_plain_disk_agrees_with_raw_ami_aki_and_ari() -> None:
    for make in (specimens.raw, specimens.mbr, specimens.gpt, specimens.fat):
        for declared in PLAIN:
            assert_that(evidence(make(), declared)["disk_format"], Equals("raw"))


def test_a_kernel_is_accepted_although_its_boot_sector_has_no_partitions() -> None:
    efi = specimens.over(specimens.kernel(), 0x202, b"none")
    for declared in (None, "raw", "aki", "ari"):
        evidence(efi, declared)
        evidence(specimens.kernel(), declared)


def test_a_partition_table_may_be_any() -> None:
    no_partitions = over(bytes(4096), 510, b"\x55\xaa")
    hybrid = over(specimens.gpt(), 446 + 16, specimens.mbr()[446:462])
    bad_boot_flag = specimens.mbr(boot=0x17)
    for data in (no_partitions, hybrid, bad_boot_flag, specimens.mbr(kind=0xEE, chs=b"\1\1\1")):
        for declared in (None, "raw"):
            assert_that(evidence(data, declared)["disk_format"], Equals("raw"))


def test_a_declared_format_that_nothing_can_verify_is_refused_before_the_first_byte() -> None:
    for declared in ("ploop", "vpc", "", "QCOW2", "raw\n", "x" * 10_000):
        with pytest.raises(FormatError) as caught:
            FormatCheck(ANYTHING, declared, None)
        assert_that(len(str(caught.value)) < 200, Equals(True))


def test_a_format_that_is_not_allowed_is_refused() -> None:
    only = FormatPolicy(allowed_formats=("qcow2", "iso"))
    evidence(specimens.real("qcow2"), policy=only)
    evidence(specimens.iso(), "iso", policy=only)
    for data in (specimens.raw(), specimens.mbr(), specimens.tar(), b"", specimens.real("vdi")):
        assert_that(refusal(data, policy=only), Contains("not allowed"))
    with pytest.raises(FormatError, match="not allowed"):
        FormatCheck(only, "raw", None)
    refusal(specimens.raw(), policy=FormatPolicy(allowed_formats=()))


def test_names_of_plain_content_allow_what_they_stand_for() -> None:
    kernels = FormatPolicy(allowed_formats=("aki", "ari"))
    evidence(specimens.kernel(), "aki", policy=kernels)
    refusal(specimens.kernel(), None, policy=kernels)
    refusal(specimens.kernel(), "ami", policy=kernels)
    for allowed in ("raw", "gpt", "mbr"):
        policy = FormatPolicy(allowed_formats=(allowed,))
        for declared in (None, "raw", "ami"):
            evidence(specimens.gpt(), declared, policy=policy)


def test_packed_content_is_plain_and_accepted_only_where_plain_content_is() -> None:
    only = FormatPolicy(allowed_formats=("qcow2",))
    for name in ("gzip", "xz", "tar", "dmg"):
        data = ACCEPTED[name][1]()
        evidence(data, "raw")
        refusal(data, policy=only)


@pytest.mark.parametrize(
    "name", ["qcow2", "vmdk", "vmdk with a footer", "vhd of the exact size", "vhdx", "vdi"]
)
def test_a_disk_larger_than_allowed_is_refused_however_small_its_file(name: str) -> None:
    data = ACCEPTED[name][1]()
    exact = FormatPolicy(max_virtual_size=specimens.VIRTUAL)
    evidence(data, policy=exact)
    less = FormatPolicy(max_virtual_size=specimens.VIRTUAL - 1)
    assert_that(refusal(data, policy=less), Contains("more than the"))


def test_a_vhd_counts_by_its_geometry_if_that_is_larger_than_its_size() -> None:
    data = specimens.patched(specimens.real("vhd"), 48, ">Q", 512)
    policy = FormatPolicy(max_virtual_size=specimens.VIRTUAL - 1)
    assert_that(refusal(data, policy=policy), Contains("more than the"))


def test_plain_content_ends_when_it_outgrows_the_limit() -> None:
    policy = FormatPolicy(max_virtual_size=100_000)
    check = FormatCheck(policy, None, None)
    check.feed(bytes(100_000))
    with pytest.raises(FormatError, match="more than the 100000 allowed"):
        check.feed(b"\0")
    check = FormatCheck(policy, "raw", 100_001)
    with pytest.raises(FormatError, match="100001 bytes"):
        check.feed(bytes(40_000))  # what is still to come is known to be too much
    for data in (bytes(100_001), specimens.iso(100_001), specimens.luks(100_001)):
        assert_that(refusal(data, policy=policy), Contains("more than the"))
    for data in (bytes(100_000), specimens.iso(100_000), specimens.luks(100_000)):
        evidence(data, policy=policy)


def test_the_refusal_says_what_was_declared_and_what_was_found() -> None:
    check = FormatCheck(ANYTHING, "raw", None)
    with pytest.raises(FormatError) as caught:
        check.feed(specimens.real("qcow2"))
    assert_that(
        (caught.value.declared, caught.value.found),  # type: ignore[attr-defined]
        Equals(("raw", "qcow2")),
    )
    assert_that(str(caught.value), Contains("qcow2"))
