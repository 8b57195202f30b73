"""A Glance of a few lines that stores images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugins.glance.stored_uploads import Store
from tests.plugins.glance_stub import Stub


@pytest.fixture
def store() -> Iterator[tuple[Stub, Store]]:
    images = Store()
    with Stub(images) as stub:
        yield stub, images
