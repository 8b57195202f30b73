"""The s3 backend keeps the contract: the kit against Swift's S3 API."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import testtools

from imagebroker.testing import BackendContract
from tests.servers.swift import Swift

pytest.importorskip("boto3")
from imagebroker_s3 import S3Backend


class TestS3(BackendContract, testtools.TestCase):
    """Over http, where the kit can lie."""

    server: Swift
    patience, stall_timeout = 30.0, 2.0

    @pytest.fixture(autouse=True)
    def _server(self, swift: Swift) -> None:
        self.server = swift

    def setUp(self) -> None:
        super().setUp()
        self.bucket = f"kit.{uuid.uuid4().hex}"
        self.client = self.server.client()
        self.client.create_bucket(Bucket=self.bucket)

    def make_backend(self) -> S3Backend:
        options = self.server.options(create_in=f"{self.bucket}/images")
        return S3Backend(self.make_host(S3Backend, **options))

    def publish(self, data: bytes) -> str:
        key = f"published//{uuid.uuid4().hex}.img"
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"s3://{self.bucket}/{key}"

    def where(self, ref: str) -> dict[str, Any]:
        bucket, _, key = ref.partition("://")[2].partition("/")
        return {"Bucket": bucket, "Key": key}

    def replace(self, ref: str, data: bytes) -> None:
        self.client.put_object(**self.where(ref), Body=data)

    def take_away(self, ref: str) -> None:
        self.client.delete_object(**self.where(ref))
