"""moto: a stand-in of AWS. It checks no signature; what it has is what only AWS has else: objects
in archives, checksums of several kinds, ACLs.

tests/install-servers puts it into a virtual environment of its own.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from tests.servers.openstack_service import cache_directory
from tests.servers.process import HOST, Server, ServerProcess, accepts, free_ports, retried

#: Objects in one page of a list.
PAGE = 10
ACCESS_KEY, SECRET_KEY = "broker", "canary-of-moto-8817"


def _program() -> Path:
    return cache_directory() / "moto" / "bin" / "moto_server"


def missing() -> str | None:
    """What to install, in a sentence; None if it is there."""
    return None if _program().exists() else "install moto: tests/install-servers"


class Moto(Server):
    """Use it as a context manager."""

    region = "us-east-1"

    def __init__(self) -> None:
        super().__init__()
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def options(self, **others: Any) -> dict[str, Any]:
        """Those of an s3 backend."""
        keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
        return {"endpoint_url": self.url, **keys, **others}

    def client(self) -> Any:
        """A client of boto3's own, with its own connections: the other side. Always the same."""
        return self._client

    @functools.cached_property
    def _client(self) -> Any:
        import boto3

        return boto3.session.Session().client(
            "s3", endpoint_url=self.url, region_name=self.region,
            aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        )  # fmt: skip

    def _start(self) -> None:
        retried(self._launch)

    def _launch(self) -> None:
        (self.port,) = free_ports(1)
        self._process = ServerProcess(
            [_program(), "-H", HOST, "-p", str(self.port)], log=self.directory / "log",
            cwd=self.directory,
            env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)},
        )  # fmt: skip
        self._process.wait_until(lambda: accepts(self.port), seconds=60)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
