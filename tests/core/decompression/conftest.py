"""A test of decompression is run for each way to the bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import imagebroker
from tests.core.decompression.packing import PACKED, UUID, LocatedBackend
from tests.distributions import install
from tests.scripted import IMAGES, Script
from tests.verify.ways import WAYS, Way


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


@pytest.fixture
def located(on_path: Path, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    schemes = {
        "located": f"{LocatedBackend.__module__}:LocatedBackend",
        "scripted": "tests.scripted:ScriptedBackend",
    }
    install(on_path, "imagebroker-located", schemes)
    IMAGES.clear()
    IMAGES[UUID] = Script(PACKED)
    return make_broker(
        "[imagebroker]\nenabled_schemes = located, scripted\nretries = 0\nretry_backoff = 0\n"
        "direct_url_schemes = scripted\n"
    )
