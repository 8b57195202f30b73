"""A Glance of a few lines with one image."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugins.glance_stub import OneImage, Stub


@pytest.fixture
def glance() -> Iterator[tuple[Stub, OneImage]]:
    image = OneImage()
    with Stub(image) as stub:
        yield stub, image
