"""The http backend keeps the contract: the kit against nginx."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import testtools
from imagebroker_http import HttpBackend

from imagebroker.testing import BackendContract
from tests.servers.nginx import Nginx

_numbers = itertools.count()


class TestHttp(BackendContract, testtools.TestCase):
    """Over http, where the kit can lie."""

    stall_timeout = 2.0
    nginx: Nginx

    @pytest.fixture(autouse=True)
    def _server(self, nginx: Nginx) -> None:
        self.nginx = nginx

    def make_backend(self) -> HttpBackend:
        return HttpBackend(self.make_host(HttpBackend, ca_file=str(self.nginx.ca_file)))

    def publish(self, data: bytes) -> str:
        path = self.nginx.root / f"contract-{next(_numbers)}.img"
        path.write_bytes(data)
        self.addCleanup(self.remove, path)
        return self.url(path.name)

    def url(self, name: str) -> str:
        return self.nginx.url(name)

    def file(self, ref: str) -> Path:
        return self.nginx.root / ref.rpartition("/")[2]

    def remove(self, path: Path) -> None:
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)

    def replace(self, ref: str, data: bytes) -> None:
        new = self.nginx.root / "contract-new"
        new.write_bytes(data)
        # nginx makes its ETags of size and second: within one second two files share them.
        later = int(self.file(ref).stat().st_mtime) + 1
        os.utime(new, (later, later))
        os.replace(new, self.file(ref))

    def forbid(self, ref: str) -> None:
        self.take_away(ref)
        self.file(ref).mkdir()  # whose content nginx does not show: 403

    def take_away(self, ref: str) -> None:
        self.file(ref).unlink()

    def publish_sparse(self, size: int) -> str:
        ref = self.publish(b"")
        with self.file(ref).open("r+b") as file:
            file.seek(size - len(self.SPARSE_END))
            file.write(self.SPARSE_END)
        return ref


class TestHttps(TestHttp):
    """The same over TLS."""

    connect_timeout = 1.0

    def url(self, name: str) -> str:
        return f"{self.nginx.https_url}/{name}"


class TestHttpWithoutRanges(TestHttp):
    """A server that knows no ranges."""

    publish_sparse = BackendContract.publish_sparse  # left out: all of it would be read

    def url(self, name: str) -> str:
        return self.nginx.url(name, prefix="norange")
