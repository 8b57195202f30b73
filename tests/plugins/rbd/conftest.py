"""Brokers that work with a real Ceph cluster."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

import imagebroker
from tests.servers.ceph import Ceph, modules

modules()


class Images:
    """Images in the pool of the tests, and brokers that see them."""

    def __init__(self, server: Ceph, make_broker: Callable[..., imagebroker.Broker]) -> None:
        self.server, self._make = server, make_broker

    def config(self, core: str = "", more: str = "", **options: Any) -> str:
        every = self.server.options(**options)
        lines = "".join(f"{name} = {value}\n" for name, value in every.items())
        return (
            "[imagebroker]\nenabled_schemes = rbd, file\ndefault_backend = rbd\n"
            f"retry_backoff = 0\nretries = 0\n{core}\n[backend:rbd]\n{lines}\n{more}"
        )

    def broker(self, core: str = "", more: str = "", **options: Any) -> imagebroker.Broker:
        return self._make(self.config(core, more, **options))

    def publish(self, data: bytes, snapshot: str | None = "snap", **how: Any) -> str:
        """A new image of somebody else's; its name."""
        name = f"test-{uuid.uuid4().hex}"
        self.server.write(name, data, snapshot, **how)
        return name

    def ref(self, name: str, snapshot: str | None = "snap") -> str:
        return f"rbd://{self.server.pool}/{name}" + (f"@{snapshot}" if snapshot else "")

    def info(self, **fields: Any) -> dict[str, Any]:
        return {
            "name": f"test-{uuid.uuid4().hex}", "disk_format": "raw", "container_format": "bare",
            **fields,
        }  # fmt: skip


@pytest.fixture
def images(ceph: Ceph, make_broker: Callable[..., imagebroker.Broker]) -> Images:
    return Images(ceph, make_broker)
