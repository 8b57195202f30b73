"""`imagebroker.compat.nova.API` on the embedded store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import imagebroker
from imagebroker.compat.nova import API
from tests.compat import exceptions
from tests.compat.nova_api.callers import ALICE, DATA


@pytest.fixture
def broker(make_broker: Callable[[str], imagebroker.Broker], tmp_path: Path) -> imagebroker.Broker:
    return make_broker(
        f"""
        [imagebroker]
        enabled_schemes = file
        [backend:file]
        store_dir = {tmp_path}/store
        """
    )


@pytest.fixture
def api(broker: imagebroker.Broker) -> API:
    return API(broker, exceptions)


@pytest.fixture
def image_id(api: API) -> str:
    """A raw image with the bytes DATA."""
    info = {"name": "disk", "disk_format": "raw", "container_format": "bare"}
    return str(api.create(ALICE, info, DATA)["id"])
