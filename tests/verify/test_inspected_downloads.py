"""The content of images that are downloaded or read."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan, Not

import imagebroker
from imagebroker.exceptions import ConfigError, FormatError, InvalidImageRef, TransferError
from imagebroker.plugin import Image, ImageRef, Location
from tests.conftest import SMALL_AND_QUICK, Scripted
from tests.distributions import install
from tests.scripted import IMAGES, RecordBackend, Script
from tests.verify import specimens
from tests.verify.specimens import DESCRIPTOR, VIRTUAL, overlay, patched, raw, real
from tests.verify.ways import WAYS, Way

pytestmark = pytest.mark.usefixtures("qemu_img")

KIB, MIB, GIB = 1024, 1 << 20, 1 << 30


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


def declared(name: str | None, **other: Any) -> dict[str, Any]:
    return {"disk_format": name, **other}


@pytest.mark.promise("security-5")
@pytest.mark.parametrize(
    ("name", "format_", "virtual_size"),
    [
        ("qcow2", "qcow2", VIRTUAL), ("vmdk streamOptimized", "vmdk", VIRTUAL),
        ("vhdx", "vhdx", VIRTUAL), ("vdi", "vdi", VIRTUAL), ("raw", "raw", MIB),
        ("a disk with a GPT", "raw", MIB), ("iso", "iso", 64 * KIB),
    ],
)  # fmt: skip
def test_the_evidence_says_what_the_content_is(
    scripted: Scripted, way: Way, name: str, format_: str, virtual_size: int
) -> None:
    image = specimens.ACCEPTED[name][1]()
    for said in (None, format_):
        ref, _ = scripted.image(image, chunk=10_000, record=declared(said))
        data, evidence = way.get(scripted.broker, ref)
        assert_that(data[-len(image) :], Equals(image))
        found = {key: evidence[key] for key in ("disk_format", "virtual_size")}
        assert_that(found, Equals({"disk_format": format_, "virtual_size": virtual_size}))
        assert_that(evidence["sha256"], Equals(hashlib.sha256(image).hexdigest()))


#: Content that is refused without anybody asking for it, whatever is declared.
UNSAFE: dict[str, Callable[[], bytes]] = {
    "H13 backing file": lambda: overlay("qcow2"),
    "H13 data file": lambda: real("qcow2 with a data file"),
    "H13 unknown bit": lambda: patched(real("qcow2"), 72, ">Q", 1 << 40),
    "H13 version 1": lambda: patched(real("qcow2"), 4, ">I", 1),
    "H13 version 4": lambda: patched(real("qcow2"), 4, ">I", 4),
    "H15 200 bytes of qcow2": lambda: real("qcow2")[:200],
    "H16 descriptor": DESCRIPTOR.encode,
    "H16 descriptor with NULs": lambda: DESCRIPTOR.encode().ljust(3 * MIB, b"\0"),
    "H16 descriptor with a BOM": ("\ufeff" + DESCRIPTOR).encode,
    "H16 descriptor after blank lines": lambda: ("\n # x\n\n" + DESCRIPTOR).encode(),
    "H16 descriptor with CRLF": DESCRIPTOR.replace("\n", "\r\n").encode,
}


@pytest.mark.promise("security-1", "security-2", "security-4")
@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("said", [None, "raw", "qcow2", "vmdk"])
def test_what_would_make_a_host_read_other_files_is_refused(
    scripted: Scripted, way: Way, name: str, said: str | None
) -> None:
    image = UNSAFE[name]()
    ref, _ = scripted.image(image, chunk=64 * KIB, record=declared(said))
    with pytest.raises(FormatError) as caught:
        way.get(scripted.broker, ref)
    way.assert_nothing_came(len(image))
    assert_that((caught.value.retryable, bool(caught.value.hint)), Equals((False, True)))
    assert_that(str(caught.value), Contains(ref))


@pytest.mark.promise("security-3")
@pytest.mark.parametrize("name", ["qcow2", "vmdk", "vhd", "vdi", "luks", "iso"])
def test_content_that_is_not_the_raw_disk_that_was_declared_is_refused(
    scripted: Scripted, way: Way, name: str
) -> None:
    image = specimens.ACCEPTED[name][1]()
    ref, _ = scripted.image(image, chunk=4096, record=declared("raw"))
    with pytest.raises(FormatError):
        way.get(scripted.broker, ref)
    way.assert_nothing_came(len(image))


@pytest.mark.promise("security-3")
@pytest.mark.parametrize("said", ["qcow2", "vmdk", "vhd", "vhdx", "vdi", "luks"])
def test_a_raw_disk_that_was_declared_as_something_else_is_refused(
    scripted: Scripted, way: Way, said: str
) -> None:
    ref, _ = scripted.image(raw(), chunk=4096, record=declared(said))
    with pytest.raises(FormatError):
        way.get(scripted.broker, ref)
    way.assert_nothing_came(MIB)


def test_a_record_that_nothing_could_agree_with_is_refused_before_the_first_byte(
    scripted: Scripted, way: Way
) -> None:
    ref, script = scripted.image(raw(), record=declared("ploop"))
    with pytest.raises(FormatError, match="cannot be verified"):
        way.get(scripted.broker, ref)
    assert_that(script.reads, Equals([]))


class TestAllowed:
    @pytest.mark.promise("security-3")
    def test_the_formats_of_the_call(self, scripted: Scripted, way: Way) -> None:
        ref, script = scripted.image(real("qcow2"), chunk=64 * KIB)
        with pytest.raises(FormatError, match="is not allowed"):
            way.get(scripted.broker, ref, allowed_formats=["raw", "iso"])
        way.assert_nothing_came(len(script.data))
        way.get(scripted.broker, ref, allowed_formats=["raw", "qcow2"])

    def test_what_is_declared_and_not_allowed_is_not_even_read(
        self, scripted: Scripted, way: Way
    ) -> None:
        ref, script = scripted.image(raw(), record=declared("vmdk"))
        with pytest.raises(FormatError, match="is not allowed"):
            way.get(scripted.broker, ref, allowed_formats=["raw"])
        assert_that(script.reads, Equals([]))

    def test_the_formats_of_the_configuration(self, scripted: Scripted, way: Way) -> None:
        broker = scripted.configured("allowed_formats = raw, iso\ninspect_formats = false")
        ref, script = scripted.image(real("qcow2"), chunk=64 * KIB)
        with pytest.raises(FormatError, match="is not allowed"):
            way.get(broker, ref)
        way.assert_nothing_came(len(script.data))
        way.get(broker, ref, allowed_formats=["qcow2"])  # the call's stand in for them

    def test_a_name_that_is_none_is_refused(self, scripted: Scripted, way: Way) -> None:
        ref, script = scripted.image(raw())
        for wrong in (["qcow"], [], ["raw", None], "raw,qcow2"):
            with pytest.raises(InvalidImageRef, match="allowed_formats"):
                way.get(scripted.broker, ref, allowed_formats=wrong)
        assert_that(script.opened, Equals(0))
        with pytest.raises(ConfigError, match="allowed_formats"):
            scripted.configured("allowed_formats = raw, qcow")


class TestConfiguration:
    def test_without_inspection_nothing_is_looked_at_and_nothing_claimed(
        self, scripted: Scripted, way: Way
    ) -> None:
        broker = scripted.configured("inspect_formats = false")
        image = overlay("qcow2")
        ref, _ = scripted.image(image, chunk=64 * KIB, record=declared("raw"))
        data, evidence = way.get(broker, ref)
        assert_that(data, Equals(image))
        assert_that(evidence, Not(Contains("disk_format")))

    @pytest.mark.promise("security-17")
    def test_a_disk_larger_than_allowed_is_refused(self, scripted: Scripted, way: Way) -> None:
        broker = scripted.configured("max_virtual_size = 2M")
        for image in (real("qcow2"), raw(3 * MIB)):
            ref, _ = scripted.image(image, chunk=64 * KIB)
            with pytest.raises(FormatError, match="more than the"):
                way.get(broker, ref)
            way.assert_nothing_came(len(image))

    def test_64_tib_are_allowed_by_default_and_no_more(self, scripted: Scripted, way: Way) -> None:
        huge = patched(real("qcow2 with large clusters"), 24, ">Q", 1 << 47)
        ref, _ = scripted.image(huge, chunk=64 * KIB)
        with pytest.raises(FormatError):
            way.get(scripted.broker, ref)


@pytest.mark.parametrize("wrapper", ["ova", "docker", "compressed"])
def test_an_archive_is_none_of_the_disks_that_are_in_it(
    scripted: Scripted, way: Way, wrapper: str
) -> None:
    record = declared("vmdk", container_format=wrapper)
    ref, _ = scripted.image(specimens.tar(), record=record)
    assert_that(way.get(scripted.broker, ref)[1]["disk_format"], Equals("raw"))
    ref, _ = scripted.image(real("vmdk"), record=record, chunk=64 * KIB)
    with pytest.raises(FormatError):
        way.get(scripted.broker, ref)


class Endless:
    """100 GiB that nobody has in memory: a header, and zeros."""

    def __init__(self, header: bytes) -> None:
        self.header = header

    def __len__(self) -> int:
        return 100 * GIB

    def __getitem__(self, part: slice) -> bytes:
        return self.header[part].ljust(part.stop - part.start, b"\0")


@pytest.mark.promise("security-1")
@pytest.mark.parametrize("chunk", [512, 64 * KIB, MIB])
def test_the_chunk_that_decides_is_the_last_of_100_gib(
    scripted: Scripted, way: Way, chunk: int
) -> None:
    furthest = 0

    def note(offset: int) -> None:
        nonlocal furthest
        furthest = offset

    ref, script = scripted.image(
        b"", size=None, chunk=chunk, record=declared("raw"), before_chunk=note
    )
    script.data = Endless(real("qcow2")[:512])  # type: ignore[assignment]
    with pytest.raises(FormatError):
        way.get(scripted.broker, ref, allow_unknown_size=True)
    way.assert_nothing_came(chunk)
    assert_that(furthest, LessThan(16 * MIB))  # what the source had read ahead
    assert_that((script.reads, script.closed), Equals(([0], 1)))


@pytest.mark.parametrize("chunk", [1, 7, 511, 513])
def test_the_size_of_the_chunks_does_not_matter(scripted: Scripted, way: Way, chunk: int) -> None:
    image = overlay("qcow2")[: 20 * KIB]
    ref, _ = scripted.image(image, chunk=chunk)
    with pytest.raises(FormatError, match="backing file"):
        way.get(scripted.broker, ref)
    way.assert_nothing_came(513)


def test_what_only_the_end_shows_is_refused_before_the_end(scripted: Scripted, way: Way) -> None:
    footer = real("vhd fixed")[-512:]
    image = raw() + footer
    ref, _ = scripted.image(image, chunk=64 * KIB)
    with pytest.raises(FormatError):
        way.get(scripted.broker, ref)
    way.assert_nothing_came(len(image))


@pytest.mark.parametrize("seekable", [True, False])
def test_an_attempt_that_begins_again_is_inspected_by_itself(
    scripted: Scripted, way: Way, seekable: bool
) -> None:
    image = real("qcow2")
    breaks: list[Any] = [(200, None), (70_000, None), (0, None)]
    ref, _ = scripted.image(image, chunk=1000, seekable=seekable, breaks=breaks)
    data, evidence = way.get(scripted.broker, ref)
    assert_that(data, Equals(image))
    assert_that(evidence["disk_format"], Equals("qcow2"))


def test_what_an_earlier_process_left_is_inspected_with_the_rest(
    scripted: Scripted, tmp_path: Path
) -> None:
    image = real("qcow2")
    how: dict[str, Any] = {"retries": 0, "keep_partial": True}
    ref, _ = scripted.image(image, chunk=1000, version="v1", breaks=[(70_000, None)])
    with pytest.raises(TransferError):
        scripted.broker.download(None, ref, tmp_path / "image", **how)
    done = scripted.broker.download(None, ref, tmp_path / "image", **how)
    assert_that(done.resumed_from, Equals(70_000))
    assert_that(done.evidence["disk_format"], Equals("qcow2"))


@pytest.mark.parametrize("tuning", [SMALL_AND_QUICK], indirect=True, ids=["quick"])
def test_ranges_that_arrive_in_any_order_are_inspected_in_theirs(
    scripted: Scripted, tmp_path: Path
) -> None:
    image = real("qcow2") + bytes(68 * MIB)
    ref, script = scripted.image(
        image, chunk=1 << 17, parallel_reads=4, version="v1",
        before_chunk=lambda offset: threading.Event().wait(0.004),
    )  # fmt: skip
    done = scripted.broker.download(None, ref, tmp_path / "image")
    assert_that(done.evidence["virtual_size"], Equals(VIRTUAL))
    assert script.most_alive > 1


class TestLocalFile:
    """What the kernel cloned is looked at before it is anywhere."""

    @pytest.fixture
    def local(self, tmp_path: Path) -> Path:
        return tmp_path / "local"

    @pytest.mark.parametrize("checksum", [True, False])
    def test_the_evidence_says_what_the_content_is(
        self, scripted: Scripted, way: Way, local: Path, checksum: bool
    ) -> None:
        image = real("qcow2")
        digest = hashlib.sha256(image).hexdigest()
        local.write_bytes(image)
        checksums = {"sha256": digest} if checksum else {}
        ref, _ = scripted.image(
            image, local_path=local, record=declared("qcow2"), checksums=checksums
        )
        data, evidence = way.get(scripted.broker, ref)
        assert_that(data, Equals(image))
        assert_that((evidence["disk_format"], evidence["virtual_size"]), Equals(("qcow2", VIRTUAL)))
        if checksum:
            assert_that(evidence["sha256"], Equals(digest))

    @pytest.mark.promise("security-1")
    @pytest.mark.parametrize("name", UNSAFE)
    def test_what_would_make_a_host_read_other_files_is_refused(
        self, scripted: Scripted, way: Way, local: Path, name: str
    ) -> None:
        image = UNSAFE[name]()
        local.write_bytes(image)
        ref, _ = scripted.image(image, local_path=local)
        with pytest.raises(FormatError) as caught:
            way.get(scripted.broker, ref)
        way.assert_nothing_came(len(image))
        assert_that(str(caught.value), Contains(ref))

    @pytest.mark.parametrize("name", ["qcow2", "vhdx", "vdi"])
    def test_holes_at_its_end_belong_to_it(
        self, scripted: Scripted, way: Way, local: Path, name: str
    ) -> None:
        image = real(name).rstrip(b"\0")
        size = len(real(name)) + 8 * MIB
        with open(local, "wb") as file:
            file.write(image)
            file.truncate(size)
        ref, _ = scripted.image(image.ljust(size, b"\0"), local_path=local)
        data, evidence = way.get(scripted.broker, ref)
        assert_that(data, Equals(image.ljust(size, b"\0")))
        assert_that(evidence["disk_format"], Equals(name))


UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"


class ListedBackend(RecordBackend):
    """Images with ids, whose records name a location."""

    name = "listed"
    image = b""

    def get(self, context: Any, ref: ImageRef, **flags: bool) -> Image:
        digest = hashlib.sha256(self.image).hexdigest()
        return Image(
            ref=ref.text, id=ref.id, size=len(self.image), checksums={"sha256": digest},
            disk_format="raw", locations=(Location("scripted://host/location", {}),),
        )  # fmt: skip


@pytest.fixture
def listed(on_path: Path, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    """The backend has what the record says; what the location has is for each test to say."""
    schemes = {
        "listed": f"{__name__}:ListedBackend", "scripted": "tests.scripted:ScriptedBackend",
    }  # fmt: skip
    install(on_path, "imagebroker-listed", schemes)
    IMAGES.clear()
    ListedBackend.image = raw(len(real("qcow2")))
    IMAGES[UUID] = Script(ListedBackend.image, chunk=64 * KIB)
    return make_broker(
        "[imagebroker]\nenabled_schemes = listed, scripted\nretries = 0\n"
        "direct_url_schemes = scripted\n"
    )


@pytest.mark.promise("security-3")
def test_after_an_unsafe_location_nobody_else_is_asked(
    listed: imagebroker.Broker, way: Way
) -> None:
    IMAGES["/location"] = Script(real("qcow2"), chunk=64 * KIB)
    with pytest.raises(FormatError):
        way.get(listed, f"listed:{UUID}")
    way.assert_nothing_came(len(real("qcow2")))
    assert_that(IMAGES[UUID].opened, Equals(0))


def test_after_a_location_with_other_bytes_of_the_right_format_the_next_place_is_asked(
    listed: imagebroker.Broker, tmp_path: Path
) -> None:
    IMAGES["/location"] = Script(ListedBackend.image[:-1] + b"?", chunk=64 * KIB)
    done = listed.download(None, f"listed:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(ListedBackend.image))
    assert_that(done.source, Equals(f"listed:{UUID}"))
    assert_that(done.evidence["disk_format"], Equals("raw"))
