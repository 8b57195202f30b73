"""Locations that may be read directly, before the backend itself."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, Is, MatchesStructure

import imagebroker
from imagebroker.exceptions import (
    BackendError,
    ChecksumMismatch,
    FormatError,
    ImageChanged,
    ImageNotFound,
    SignatureError,
    TransferError,
    VerificationError,
)
from imagebroker.plugin import Image, ImageRef, Location
from tests.distributions import install
from tests.scripted import IMAGES, RecordBackend, Script

UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
WRONG = b"x" * len(DATA)


class LocatedBackend(RecordBackend):
    """Images with ids, whose records name locations."""

    name = "located"
    locations: list[str] = []
    checksums: dict[str, str] = {}

    def get(self, context: Any, ref: ImageRef, **flags: bool) -> Image:
        return Image(
            ref=ref.text,
            id=ref.id,
            name="the record",
            size=len(DATA),
            checksums=self.checksums,
            locations=tuple(Location(url, {"mountpoint": "/"}) for url in self.locations),
        )


@pytest.fixture
def broker(on_path: Path, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    """The backend has the image too; its locations are `scripted:` refs."""
    schemes = {
        "located": f"{__name__}:LocatedBackend",
        "scripted": "tests.scripted:ScriptedBackend",
    }
    install(on_path, "imagebroker-located", schemes)
    IMAGES.clear()
    IMAGES[UUID] = Script(DATA)
    LocatedBackend.locations, LocatedBackend.checksums = [], {"sha256": SHA256}
    return make_broker(
        "[imagebroker]\nenabled_schemes = located, scripted\nretries = 0\nretry_backoff = 0\n"
        "direct_url_schemes = scripted\n"
    )


def locate(**scripts: Script) -> list[Script]:
    """Publish images of the scripted backend, and name them as the locations, in order."""
    IMAGES.update({f"/{name}": script for name, script in scripts.items()})
    LocatedBackend.locations = [f"scripted://host/{name}" for name in scripts]
    return list(scripts.values())


@pytest.mark.promise("locations")
def test_the_first_location_that_works_is_read_and_the_backend_is_not(
    broker: imagebroker.Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead, good, last = locate(
        dead=Script(DATA, open_error=TransferError("no route")),
        good=Script(DATA),
        last=Script(DATA),
    )
    LocatedBackend.locations = [
        "ftp://host/x", "file:///etc/passwd", "nonsense", *LocatedBackend.locations,
    ]  # fmt: skip
    done = broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(done.source, Equals("scripted://host/good"))
    assert_that(done.image.name, Equals("the record"))
    assert_that(done.evidence["checked_against"], Equals(("sha256 of the record",)))
    assert_that([s.opened for s in (dead, good, last, IMAGES[UUID])], Equals([1, 1, 0, 0]))
    assert_that(caplog.text, Contains("scripted://host/dead failed"))


def cut(**how: Any) -> Script:
    """A location whose connection breaks in the middle, each time."""
    return Script(DATA, breaks=[(5000, None)] * 10, **how)


@pytest.mark.promise("locations")
@pytest.mark.parametrize(
    "broken",
    [Script(WRONG), Script(DATA[:-1]), Script(DATA + b"x"), Script(b""),
     Script(DATA, breaks=[(5000, ImageChanged("another"))]),
     Script(DATA, breaks=[(5000, VerificationError("a web page"))])],
)  # fmt: skip
def test_what_a_location_sent_that_is_wrong_is_dropped_and_the_backend_asked_from_the_beginning(
    broken: Script, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    locate(broken=broken)
    done = broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(done.source, Equals(f"located:{UUID}"))
    assert_that(done.served, Equals({f"located:{UUID}": len(DATA)}))
    assert_that(IMAGES[UUID].reads, Equals([0]))


@pytest.mark.promise("locations")
@pytest.mark.parametrize("error", [None, ValueError("a bug"), BackendError("503")])
def test_where_a_location_breaks_the_next_place_goes_on_at_the_missing_byte(
    error: Exception | None, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    (broken,) = locate(broken=Script(DATA, breaks=[(5000, error)] * 9))
    done = broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that((broken.reads, IMAGES[UUID].reads), Equals(([0], [5000])))
    assert_that(
        done,
        MatchesStructure.byEquality(
            source=f"located:{UUID}",
            served={"scripted://host/broken": 5000, f"located:{UUID}": len(DATA) - 5000},
            resumed_from=5000,
            attempts=2,
        ),
    )


def test_through_several_locations_that_break_no_byte_is_read_twice(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    dead, first, second, third = locate(
        dead=Script(DATA, open_error=TransferError("no route")),
        first=Script(DATA, breaks=[(3000, None)]),
        second=Script(DATA, version="v7", breaks=[(4500, None)]),
        third=Script(DATA, breaks=[(9000, None)]),
    )
    done = broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    reads = [each.reads for each in (dead, first, second, third, IMAGES[UUID])]
    assert_that(reads, Equals([[], [0], [3000], [4500], [9000]]))
    assert_that(sum(done.served.values()), Equals(len(DATA)))
    assert_that(done.attempts, Equals(5))


def test_the_failures_of_one_place_do_not_count_against_the_next(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    locate(broken=cut())
    IMAGES[UUID].breaks = [(7000, None)]
    broker.download(None, f"located:{UUID}", tmp_path / "image", retries=1)
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that((IMAGES[UUID].reads, IMAGES[UUID].opened), Equals(([5000, 7000], 1)))


def test_a_location_that_cannot_begin_in_the_middle_begins_again(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    _, whole = locate(broken=cut(), whole=Script(DATA, seekable=False))
    done = broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(whole.reads, Equals([0]))
    assert_that(done.served, Equals({"scripted://host/whole": len(DATA)}))


@pytest.mark.promise("locations")
def test_if_what_several_places_sent_does_not_fit_together_the_backend_is_asked_for_all_of_it(
    broker: imagebroker.Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    locate(lying=Script(WRONG, breaks=[(5000, None)]))
    done = broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(IMAGES[UUID].reads, Equals([5000, 0]))
    assert_that(done.served, Equals({f"located:{UUID}": len(DATA)}))
    assert_that((done.resumed_from, done.attempts), Equals((None, 3)))
    assert_that(caplog.text, Contains("asking the backend itself"))


def test_a_wrong_checksum_of_the_backend_itself_ends_it(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    locate(lying=Script(WRONG))
    IMAGES[UUID].data = WRONG
    with pytest.raises(ChecksumMismatch):
        broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that(IMAGES[UUID].reads, Equals([0]))
    assert_that([p.name for p in tmp_path.iterdir() if p.name.endswith("image")], Equals([]))
    assert_that(list(tmp_path.glob(".image*")), Equals([]))


@pytest.mark.promise("locations")
@pytest.mark.parametrize("final", [SignatureError("bad"), FormatError("unsafe")])
def test_a_bad_signature_or_an_unsafe_format_ends_it_wherever_it_came_from(
    final: Exception, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    locate(unsafe=Script(DATA, breaks=[(5000, final)]))
    with pytest.raises(type(final)):
        broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that(IMAGES[UUID].opened, Equals(0))


def test_under_a_weak_checksum_bytes_of_two_places_are_never_joined(
    broker: imagebroker.Broker, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    locate(broken=cut())
    LocatedBackend.checksums = {}
    weak = make_broker(
        "[imagebroker]\nenabled_schemes = located, scripted\nretries = 0\nallow_md5 = true\n"
        "direct_url_schemes = scripted\n"
    )
    digest = hashlib.md5(DATA).hexdigest()
    weak.download(None, f"located:{UUID}", tmp_path / "image", checksum=f"md5:{digest}")
    assert_that(IMAGES[UUID].reads, Equals([0]))


def test_a_local_file_among_the_locations_that_is_damaged_is_replaced_by_the_backend(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    (tmp_path / "local").write_bytes(WRONG)
    locate(local=Script(WRONG, local_path=tmp_path / "local"))
    done = broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(done.source, Equals(f"located:{UUID}"))
    (tmp_path / "local").unlink()
    done = broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that(done.source, Equals(f"located:{UUID}"))


def test_what_a_location_sent_is_kept_for_a_later_process_and_proven_by_the_digest_of_the_whole(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    (location,) = locate(location=Script(DATA, version="v7", breaks=[(5000, None)]))
    IMAGES[UUID].open_error = TransferError("no route")
    dest = tmp_path / "image"
    with pytest.raises(TransferError):
        broker.download(None, f"located:{UUID}", dest, keep_partial=True)
    location.data, location.breaks, location.reads = WRONG, [], []
    IMAGES[UUID].open_error = None
    done = broker.download(None, f"located:{UUID}", dest)
    assert_that(dest.read_bytes(), Equals(DATA))
    assert_that((location.reads, IMAGES[UUID].reads), Equals(([5000], [0])))
    assert_that(done.evidence["checked_against"], Equals(("sha256 of the record",)))


def test_the_error_of_the_backend_itself_is_the_callers(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    locate(broken=Script(WRONG))
    IMAGES[UUID].open_error = ImageNotFound("gone meanwhile")
    with pytest.raises(ImageNotFound):
        broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").exists(), Is(False))


@pytest.mark.promise("security-28")
@pytest.mark.parametrize("checksums", [{}, {"md5": "0" * 32}])
def test_without_a_strong_checksum_no_location_is_read(
    checksums: dict[str, str], broker: imagebroker.Broker, tmp_path: Path
) -> None:
    (location,) = locate(location=Script(WRONG))
    LocatedBackend.checksums = checksums
    broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(location.opened, Equals(0))


def test_without_permission_no_location_is_read(
    broker: imagebroker.Broker, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    (location,) = locate(location=Script(DATA))
    strict = make_broker("[imagebroker]\nenabled_schemes = located, scripted\n")
    strict.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that(location.opened, Equals(0))


def test_a_reader_goes_on_at_the_next_place_and_hands_out_each_byte_once(
    broker: imagebroker.Broker,
) -> None:
    locate(cut=cut())
    with broker.open(None, f"located:{UUID}") as reader:
        assert_that(reader.read(), Equals(DATA))
    target = io.BytesIO()
    locate(cut=cut())
    done = broker.download(None, f"located:{UUID}", target)
    assert_that(target.getvalue(), Equals(DATA))
    assert_that(IMAGES[UUID].reads, Equals([5000, 5000]))
    assert_that(done.served, Equals({"scripted://host/cut": 5000, done.source: len(DATA) - 5000}))


def test_a_reader_begins_again_where_the_next_place_cannot_go_on_and_compares_what_it_had(
    broker: imagebroker.Broker,
) -> None:
    IMAGES[UUID].seekable = False
    locate(cut=cut())
    with broker.open(None, f"located:{UUID}") as reader:
        assert_that(reader.read(), Equals(DATA))
    assert_that(IMAGES[UUID].reads, Equals([0]))
    locate(wrong=Script(WRONG, breaks=[(5000, None)]))
    with broker.open(None, f"located:{UUID}") as reader, pytest.raises(ImageChanged):
        reader.read()


def test_a_file_object_that_can_go_back_gets_the_bytes_of_the_backend_instead_of_wrong_ones(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    locate(wrong=Script(WRONG))
    target = io.BytesIO(b"before" + b"old" * 9000)
    target.seek(6)
    done = broker.download(None, f"located:{UUID}", target)
    assert_that(target.getvalue()[: 6 + len(DATA)], Equals(b"before" + DATA))
    assert_that(done.served, Equals({f"located:{UUID}": len(DATA)}))
    assert_that(done.attempts, Equals(2))
    IMAGES[UUID].data = WRONG
    target = io.BytesIO(b"before")
    target.seek(6)
    with pytest.raises(ChecksumMismatch):
        broker.download(None, f"located:{UUID}", target)
    assert_that(target.getvalue(), Equals(b"before"))


def test_a_pipe_that_received_wrong_bytes_ends_with_the_error(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    locate(wrong=Script(WRONG))
    read, write = os.pipe()
    with open(read, "rb"), open(write, "wb") as pipe, pytest.raises(ChecksumMismatch) as caught:
        broker.download(None, f"located:{UUID}", pipe)
    assert_that(caught.value.bytes_written, GreaterThan(0))
    assert_that(IMAGES[UUID].reads, Equals([]))


@pytest.mark.promise("security-27")
def test_a_reader_of_a_location_with_other_bytes_never_ends_well(
    broker: imagebroker.Broker,
) -> None:
    locate(wrong=Script(WRONG))
    with broker.open(None, f"located:{UUID}") as reader, pytest.raises(ChecksumMismatch):
        reader.read()
