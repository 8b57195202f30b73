"""Certificates for a server of a few lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.certificates import write_certificates


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificates(tmp_path_factory.mktemp("tls")).parent
