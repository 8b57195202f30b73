"""The s3 backend keeps the contract: the kit against Swift's S3 API, with every hook."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import testtools

from imagebroker.testing import BackendContract
from tests.servers.swift import GUEST, GUEST_KEY, Swift

pytest.importorskip("boto3")
from imagebroker_s3 import S3Backend

MIB = 1024 * 1024


class TestS3(BackendContract, testtools.TestCase):
    """Over http, where the kit can lie; as a user who has what ACLs allow."""

    server: Swift
    patience, stall_timeout = 30.0, 2.0

    @pytest.fixture(autouse=True)
    def _server(self, swift: Swift) -> None:
        self.server = swift

    def setUp(self) -> None:
        super().setUp()
        self.client, self.admin = self.server.client(), self.server.user()
        self.bucket = self.make_bucket("kit.")

    def make_bucket(self, prefix: str) -> str:
        """One that the backend's keys may use; and the one in which Swift keeps parts."""
        name = f"{prefix}{uuid.uuid4().hex}"
        for each in (name, f"{name}+segments"):
            self.admin.call("PUT", each, X_Container_Read=GUEST, X_Container_Write=GUEST)
        return name

    def make_backend(self) -> S3Backend:
        options = self.server.options(
            access_key=GUEST, secret_key=GUEST_KEY, create_in=f"{self.bucket}/images"
        )
        return S3Backend(self.make_host(S3Backend, **options))

    def publish(self, data: bytes) -> str:
        bucket, key = self.make_bucket("published."), f"a//{uuid.uuid4().hex}.img"
        self.client.put_object(Bucket=bucket, Key=key, Body=data)
        return f"s3://{bucket}/{key}"

    def forbid(self, ref: str) -> None:
        bucket = self.where(ref)["Bucket"]
        self.admin.call("POST", bucket, X_Container_Read="", X_Container_Write="")

    def publish_sparse(self, size: int) -> str:
        """A large object of Swift's that names one segment of zeros again and again."""
        bucket, piece = self.make_bucket("sparse."), 64 * MIB
        self.admin.call("PUT", f"{bucket}/zeros", bytes(piece))
        whole, rest = divmod(size - len(self.SPARSE_END), piece)
        self.admin.call("PUT", f"{bucket}/end", bytes(rest) + self.SPARSE_END)
        segments = [f"{bucket}/zeros"] * whole + [f"{bucket}/end"]
        self.admin.make_static(f"{bucket}/sparse.img", segments)
        return f"s3://{bucket}/sparse.img"

    def where(self, ref: str) -> dict[str, Any]:
        bucket, _, key = ref.partition("://")[2].partition("/")
        return {"Bucket": bucket, "Key": key}

    def replace(self, ref: str, data: bytes) -> None:
        self.client.put_object(**self.where(ref), Body=data)

    def take_away(self, ref: str) -> None:
        self.client.delete_object(**self.where(ref))
