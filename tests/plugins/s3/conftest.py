"""Buckets on several servers, and brokers that store in them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import imagebroker
from imagebroker.plugin import BackendHost, Options
from imagebroker.policy.addresses import Policy, networks
from tests.servers.moto import Moto
from tests.servers.radosgw import Radosgw
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


class OtherBucket:
    """The same on Ceph's S3 server or a stand-in of AWS."""

    def __init__(self, server: Any, make_broker: Callable[..., imagebroker.Broker]) -> None:
        self.server, self._make = server, make_broker
        self.name, self.client = f"test-{uuid.uuid4().hex}", server.client()
        self.url: str = server.url
        self.client.create_bucket(Bucket=self.name)

    def config(self, **options: Any) -> str:
        every = self.server.options(create_in=f"{self.name}/images", part_size=5) | options
        lines = "".join(f"{name} = {value}\n" for name, value in every.items())
        return (
            "[imagebroker]\nenabled_schemes = s3\ndefault_backend = s3\nretries = 0\n"
            f"[backend:s3]\n{lines}"
        )

    def broker(self, **options: Any) -> imagebroker.Broker:
        return self._make(self.config(**options))

    def ref(self, key: str) -> str:
        return f"s3://{self.name}/{key}"


@pytest.fixture(params=["radosgw", "moto"])
def other(
    request: pytest.FixtureRequest, make_broker: Callable[..., imagebroker.Broker]
) -> OtherBucket:
    return OtherBucket(request.getfixturevalue(request.param), make_broker)


@pytest.fixture
def of_ceph(radosgw: Radosgw, make_broker: Callable[..., imagebroker.Broker]) -> OtherBucket:
    return OtherBucket(radosgw, make_broker)


@pytest.fixture
def of_aws(moto: Moto, make_broker: Callable[..., imagebroker.Broker]) -> OtherBucket:
    return OtherBucket(moto, make_broker)


@pytest.fixture
def make_backend() -> Callable[..., Any]:
    """Makes backends without a broker, of some options."""
    pytest.importorskip("boto3")
    from imagebroker_s3 import S3Backend
    from imagebroker_s3.options import OPTIONS

    def make(*, personal: bool = False, **options: Any) -> Any:
        values = {option.dest: option.default for option in OPTIONS} | options
        policy = Policy(allowed_networks=networks(["127.0.0.0/8"]))
        return S3Backend(BackendHost("s3", Options(values), personal=personal, policy=policy))

    return make
