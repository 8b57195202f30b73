"""Which of a service's stores an image is read from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

import imagebroker
from imagebroker.plugin import Image, ImageRef, Location
from tests.core.test_locations import DATA, SHA256, UUID, LocatedBackend
from tests.distributions import install
from tests.scripted import IMAGES, Script

STORES: dict[str, Any] = {"near": {"store": "near"}, "far": {"store": "far"},
                          "old": {"backend": "old"}, "mute": {}, "odd": {"store": 7}}  # fmt: skip


class StoresBackend(LocatedBackend):
    """Its records name a location in each of several stores."""

    name = "inmany"

    def get(self, context: Any, ref: ImageRef, **flags: bool) -> Image:
        locations = tuple(Location(f"scripted://host/{n}", m) for n, m in STORES.items())
        return Image(ref=ref.text, id=ref.id, size=len(DATA), checksums={"sha256": SHA256},
                     locations=locations)  # fmt: skip


@pytest.fixture
def broker(on_path: Path, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    schemes = {
        "inmany": f"{__name__}:StoresBackend",
        "scripted": "tests.scripted:ScriptedBackend",
    }
    install(on_path, "imagebroker-inmany", schemes)
    IMAGES.clear()
    IMAGES.update({UUID: Script(DATA)} | {f"/{name}": Script(DATA) for name in STORES})
    return make_broker(
        "[imagebroker]\nenabled_schemes = inmany, scripted\nretries = 0\nretry_backoff = 0\n"
        "direct_url_schemes = scripted\n"
    )


@pytest.mark.promise("locations")
@pytest.mark.parametrize(
    ("prefer", "source", "store"),
    [
        ([], "near", "near"),
        (["far"], "far", "far"),
        (("nowhere", "old", "far"), "old", "old"),
        (["nowhere"], "near", "near"),
    ],
)
def test_the_callers_order_of_stores_is_that_of_the_locations(
    broker: imagebroker.Broker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    prefer: list[str],
    source: str,
    store: str,
) -> None:
    caplog.set_level(logging.INFO, logger="imagebroker.calls")
    done = broker.download(None, f"inmany:{UUID}", tmp_path / "image", prefer=prefer)
    assert_that(done.source, Equals(f"scripted://host/{source}"))
    assert_that(done.store, Equals(store))
    assert_that(caplog.text, Contains(f" store={store} "))
    with broker.open(None, f"inmany:{UUID}", prefer=prefer) as reader:
        assert_that(reader.read(), Equals(DATA))
    assert_that(IMAGES[f"/{source}"].opened, Equals(2))


def test_what_the_backend_itself_sends_is_of_no_store_that_is_known(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    for name in STORES:
        IMAGES[f"/{name}"].open_error = imagebroker.TransferError("away")
    done = broker.download(None, f"inmany:{UUID}", tmp_path / "image", prefer=["far"])
    assert_that((done.via, done.store), Equals(("backend", None)))


def test_a_name_alone_is_no_list_of_them(broker: imagebroker.Broker, tmp_path: Path) -> None:
    with pytest.raises(imagebroker.InvalidImageRef, match="list of the names"):
        broker.download(None, f"inmany:{UUID}", tmp_path / "image", prefer="far")


def test_a_location_whose_metadata_says_nothing_usable_is_of_no_store() -> None:
    assert_that(Location("x", STORES["mute"]).store, Is(None))
    assert_that(Location("x", STORES["odd"]).store, Is(None))
