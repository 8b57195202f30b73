"""The swift backend keeps the contract: the kit against Swift, with every hook."""

from __future__ import annotations

import uuid

import pytest
import testtools
from imagebroker_swift import SwiftBackend

from imagebroker.testing import BackendContract
from tests.servers.swift import GUEST, GUEST_KEY, Swift

MIB = 1024 * 1024


class TestSwift(BackendContract, testtools.TestCase):
    """As a user with what ACLs allow. Each published image has a container of its own."""

    server: Swift
    patience, stall_timeout = 30.0, 2.0

    @pytest.fixture(autouse=True)
    def _server(self, swift: Swift) -> None:
        self.server = swift

    def setUp(self) -> None:
        super().setUp()
        self.admin = self.server.user()
        self.container = self.make_container("kit.")
        self.admin.call("PUT", f"{self.container}_segments", **self.shared)

    shared = {"X_Container_Read": GUEST, "X_Container_Write": GUEST}

    def make_container(self, prefix: str) -> str:
        name = f"{prefix}{uuid.uuid4().hex}"
        self.admin.call("PUT", name, **self.shared)
        return name

    def make_backend(self) -> SwiftBackend:
        options = self.server.swift_options(
            username=GUEST, password=GUEST_KEY, create_in=f"{self.container}/images"
        )
        return SwiftBackend(self.make_host(SwiftBackend, **options))

    def publish(self, data: bytes) -> str:
        path = f"{self.make_container('published.')}/a//{uuid.uuid4().hex}.img"
        self.admin.call("PUT", path, data)
        return f"swift://{path}"

    def path(self, ref: str) -> str:
        return ref.removeprefix("swift://")

    def replace(self, ref: str, data: bytes) -> None:
        self.admin.call("PUT", self.path(ref), data)

    def take_away(self, ref: str) -> None:
        self.admin.call("DELETE", self.path(ref))

    def forbid(self, ref: str) -> None:
        container = self.path(ref).partition("/")[0]
        self.admin.call("POST", container, X_Container_Read="", X_Container_Write="")

    def publish_sparse(self, size: int) -> str:
        """A large object that names one segment of zeros again and again."""
        container, piece = self.make_container("sparse."), 64 * MIB
        self.admin.call("PUT", f"{container}/zeros", bytes(piece))
        whole, rest = divmod(size - len(self.SPARSE_END), piece)
        self.admin.call("PUT", f"{container}/end", bytes(rest) + self.SPARSE_END)
        segments = [f"{container}/zeros"] * whole + [f"{container}/end"]
        self.admin.make_static(f"{container}/sparse.img", segments)
        return f"swift://{container}/sparse.img"
