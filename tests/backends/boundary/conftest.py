"""A backend that notes what it was called with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import imagebroker
from tests.backends.boundary.probe import RecordingBackend
from tests.distributions import install


@pytest.fixture
def recording(on_path: Path, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    """A broker whose default backend records its calls."""
    name = f"{RecordingBackend.__module__}:RecordingBackend"
    install(on_path, "imagebroker-recording", {"recording": name})
    for store in (RecordingBackend.made, RecordingBackend.calls, RecordingBackend.answers):
        store.clear()
    return make_broker("""
        [imagebroker]
        enabled_schemes = recording
        default_backend = recording
        [backend:recording]
        colour = blue
        [backend:recording:east]
        depth = 7
        endpoint = https://east.example/images
        """)
