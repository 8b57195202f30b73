"""A bucket on Swift's S3 API, and brokers that store in it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import imagebroker
from tests.servers.swift import Swift


class Bucket:
    """A bucket that no other test uses, with a client of boto3's own as the other side."""

    def __init__(self, server: Swift, make_broker: Callable[..., imagebroker.Broker]) -> None:
        self.server, self._make = server, make_broker
        self.name = f"test-{uuid.uuid4().hex}"
        self.client = server.client()
        self.client.create_bucket(Bucket=self.name)

    def config(self, **options: Any) -> str:
        every = self.server.options(create_in=f"{self.name}/images", part_size=5) | options
        lines = "".join(f"{name} = {value}\n" for name, value in every.items())
        return (
            "[imagebroker]\nenabled_schemes = s3, file\ndefault_backend = s3\nretry_backoff = 0\n"
            f"[backend:s3]\n{lines}"
        )

    def broker(self, **options: Any) -> imagebroker.Broker:
        return self._make(self.config(**options))

    def head(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.head_object(Bucket=self.name, Key=f"images/{name}")
        return found

    def uploads(self) -> list[Any]:
        """Those that were begun and not ended."""
        return list(self.client.list_multipart_uploads(Bucket=self.name).get("Uploads") or ())


@pytest.fixture
def bucket(swift: Swift, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path) -> Bucket:
    pytest.importorskip("boto3")
    return Bucket(swift, make_broker)
