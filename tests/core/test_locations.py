"""Locations that may be read directly, before the backend itself."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

import imagebroker
from imagebroker.exceptions import ChecksumMismatch, ImageNotFound, TransferError
from imagebroker.plugin import Image, ImageRef, Location
from tests.distributions import install
from tests.scripted import IMAGES, Script, ScriptedBackend

UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
WRONG = b"x" * len(DATA)


class LocatedBackend(ScriptedBackend):
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


@pytest.mark.parametrize(
    "broken",
    [Script(WRONG), Script(DATA[:-1]), Script(DATA + b"x"), Script(DATA, breaks=[(5000, None)]),
     Script(DATA, breaks=[(5000, ValueError("a bug"))]), Script(b"")],
)  # fmt: skip
def test_what_a_broken_location_sent_is_dropped_and_the_backend_is_asked_from_the_beginning(
    broken: Script, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    locate(broken=broken)
    done = broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(done.source, Equals(f"located:{UUID}"))
    assert_that(IMAGES[UUID].reads, Equals([0]))


def test_the_error_of_the_backend_itself_is_the_callers(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    locate(broken=Script(WRONG))
    IMAGES[UUID].open_error = ImageNotFound("gone meanwhile")
    with pytest.raises(ImageNotFound):
        broker.download(None, f"located:{UUID}", tmp_path / "image")
    assert_that((tmp_path / "image").exists(), Is(False))


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


def test_a_reader_continues_from_the_next_place_and_hands_out_each_byte_once(
    broker: imagebroker.Broker,
) -> None:
    locate(cut=Script(DATA, breaks=[(5000, None)]))
    with broker.open(None, f"located:{UUID}") as reader:
        assert_that(reader.read(), Equals(DATA))
    target = io.BytesIO()
    locate(cut=Script(DATA, breaks=[(5000, None)]))
    broker.download(None, f"located:{UUID}", target)
    assert_that(target.getvalue(), Equals(DATA))


def test_a_reader_of_a_location_with_other_bytes_never_ends_well(
    broker: imagebroker.Broker,
) -> None:
    locate(wrong=Script(WRONG))
    with broker.open(None, f"located:{UUID}") as reader, pytest.raises(ChecksumMismatch):
        reader.read()
