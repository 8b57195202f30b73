"""An image at a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.http.files import SIZE
from tests.servers.images import random_file
from tests.servers.nginx import Nginx


@pytest.fixture(scope="module")
def image(nginx: Nginx) -> Path:
    return random_file(nginx.root / "http.img", SIZE)


@pytest.fixture
def tls_files(nginx: Nginx) -> Path:
    return nginx.ca_file.parent
