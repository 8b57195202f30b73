"""A repository in a registry, and brokers that read from it and store in it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imagebroker_oci import OciBackend
from imagebroker_oci.options import OPTIONS

import imagebroker
from imagebroker.model.reference import ImageRef, in_form, parse
from imagebroker.plugin import BackendHost, Options
from imagebroker.policy.addresses import Policy, networks
from tests.servers.registry import Registry


class Repository:
    """A repository in a registry."""

    def __init__(self, server: Registry, name: str) -> None:
        self.server, self.name = server, name

    def ref(self, tag: str) -> str:
        return self.server.ref(self.name, tag)

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        return self.server.push_blob(self.name, data, media_type, **more)

    def push(self, tag: str, *layers: dict[str, Any], **more: Any) -> dict[str, Any]:
        return self.server.push(self.name, tag, *layers, **more)

    def push_disk(self, tag: str, data: bytes, *arguments: Any, **more: Any) -> dict[str, Any]:
        return self.server.push_disk(self.name, tag, data, *arguments, **more)


class Library(Repository):
    """A repository that no other test uses, and brokers for it."""

    def __init__(
        self, server: Registry, make: Callable[..., imagebroker.Broker], folder: Path
    ) -> None:
        super().__init__(server, f"test/{uuid.uuid4().hex}")
        self.make, self.folder = make, folder

    def config(self, **options: Any) -> str:
        place = f"{self.server.address}/{self.name}"
        every = self.server.options(
            create_in=place, part_size=1, allowed_networks="127.0.0.0/8"
        ) | options  # fmt: skip
        lines = "".join(f"{name} = {value}\n" for name, value in every.items() if value is not None)
        return (
            "[imagebroker]\nenabled_schemes = oci, file\ndefault_backend = oci\nretry_backoff = 0\n"
            f"[backend:oci]\n{lines}"
        )

    def broker(self, **options: Any) -> imagebroker.Broker:
        return self.make(self.config(**options))

    def backend(self) -> OciBackend:
        """One without a broker."""
        values = {option.dest: option.default for option in OPTIONS} | self.server.options()
        policy = Policy(allowed_networks=networks(["127.0.0.0/8"]))
        return OciBackend(BackendHost("oci", Options(values), policy=policy))

    def parsed(self, ref: str) -> ImageRef:
        return in_form(parse(ref), OciBackend.ref_form)

    def downloaded(self, ref: str, **options: Any) -> bytes:
        dest = self.folder / f"dest-{uuid.uuid4().hex}"
        self.broker(**options).download(None, ref, dest)
        return dest.read_bytes()


@pytest.fixture
def repository(
    registry: Registry, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> Library:
    return Library(registry, make_broker, tmp_path)


@pytest.fixture
def token_repository(
    token_registry: Registry, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> Library:
    return Library(token_registry, make_broker, tmp_path)


@pytest.fixture
def basic_repository(
    basic_registry: Registry, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> Library:
    return Library(basic_registry, make_broker, tmp_path)
