"""A container on Swift, and brokers that store in it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import imagebroker
from tests.servers.swift import Swift


class Container:
    """A container that no other test uses, and the other side of Swift's API."""

    def __init__(self, server: Swift, make_broker: Callable[..., imagebroker.Broker]) -> None:
        self.server, self.make = server, make_broker
        self.user = server.user()
        self.name = f"test-{uuid.uuid4().hex}"
        self.segments = f"{self.name}_segments"
        self.user.call("PUT", self.name)

    def config(self, **options: Any) -> str:
        every = self.server.swift_options(create_in=f"{self.name}/images", segment_size=1) | options
        lines = "".join(f"{name} = {value}\n" for name, value in every.items() if value is not None)
        return (
            "[imagebroker]\nenabled_schemes = swift, http, file\ndefault_backend = swift\n"
            f"retry_backoff = 0\n[backend:swift]\n{lines}"
        )

    def broker(self, **options: Any) -> imagebroker.Broker:
        return self.make(self.config(**options))

    def head(self, name: str) -> Mapping[str, str]:
        return self.user.call("HEAD", f"{self.name}/images/{name}").headers

    def segment_names(self) -> list[str]:
        return self.user.names(self.segments)

    def ref(self, key: str) -> str:
        return f"swift://{self.name}/{key}"


@pytest.fixture
def container(swift: Swift, make_broker: Callable[..., imagebroker.Broker]) -> Container:
    return Container(swift, make_broker)
