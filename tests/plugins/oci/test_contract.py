"""The oci backend keeps the contract: the kit against docker-registry."""

from __future__ import annotations

import base64
import json
import uuid

import pytest
import testtools
from imagebroker_oci import OciBackend

from imagebroker.testing import BackendContract
from tests.plugins.oci.conftest import Repository
from tests.plugins.oci.layouts import archive, push_container, push_kubeswift
from tests.servers.registry import Registry


class TestOci(BackendContract, testtools.TestCase):
    """Over http with tokens, where the kit can lie."""

    server: Registry
    patience, stall_timeout = 30.0, 2.0

    @pytest.fixture(autouse=True)
    def _server(self, token_registry: Registry) -> None:
        self.server = token_registry

    def setUp(self) -> None:
        super().setUp()
        self.repository = f"kit/{uuid.uuid4().hex}"

    def make_backend(self) -> OciBackend:
        place = f"{self.server.address}/{self.repository}"
        options = self.server.options(create_in=place)
        return OciBackend(self.make_host(OciBackend, **options))

    def publish(self, data: bytes) -> str:
        repository, tag = f"{self.repository}-published-{uuid.uuid4().hex}", uuid.uuid4().hex
        self.server.push_disk(repository, tag, data)
        return self.server.ref(repository, tag)

    def where(self, ref: str) -> tuple[str, str]:
        repository, _, tag = ref.partition(f"{self.server.address}/")[2].rpartition(":")
        return repository, tag

    def replace(self, ref: str, data: bytes) -> None:
        self.server.push_disk(*self.where(ref), data)

    def take_away(self, ref: str) -> None:
        self.server.remove(*self.where(ref))

    def forbid(self, ref: str) -> None:
        denied = self.server.tokens.denied  # type: ignore[union-attr]
        denied.add(self.where(ref)[0])

    def publish_sparse(self, size: int) -> str:
        repository, tag = f"{self.repository}-sparse", uuid.uuid4().hex
        layer = self.server.plant_sparse(repository, size, self.SPARSE_END)
        self.server.push(repository, tag, layer)
        return self.server.ref(repository, tag)


class TestOciWithTls(TestOci):
    """With a password, over TLS."""

    connect_timeout = 2.0
    forbid = BackendContract.forbid  # left out: htpasswd lets its users do everything

    @pytest.fixture(autouse=True)
    def _server(self, basic_registry: Registry) -> None:
        self.server = basic_registry


class TestContainerDisks(TestOci):
    """Files in layers of container images."""

    # Left out: 4 GiB would be packed and unpacked; and here nothing is forbidden.
    publish_sparse = BackendContract.publish_sparse

    @pytest.fixture(autouse=True)
    def _server(self, registry: Registry) -> None:
        self.server = registry

    forbid = BackendContract.forbid

    def push(self, repository: str, tag: str, data: bytes) -> None:
        layer = archive([("disk/disk.img", data)])
        push_container(Repository(self.server, repository), tag, layer)

    def publish(self, data: bytes) -> str:
        repository, tag = f"{self.repository}-published-{uuid.uuid4().hex}", uuid.uuid4().hex
        self.push(repository, tag, data)
        return self.server.ref(repository, tag)

    def replace(self, ref: str, data: bytes) -> None:
        self.push(*self.where(ref), data)


class TestChunks(TestContainerDisks):
    """Disks in chunks, as KubeSwift pushes them."""

    def push(self, repository: str, tag: str, data: bytes) -> None:
        size = 1024 * 1024
        parts = [(at, data[at : at + size]) for at in range(0, len(data), size)]
        chunks = [(at, part) for at, part in parts if part.strip(b"\0")]
        push_kubeswift(Repository(self.server, repository), tag, len(data), chunks)

    def publish_sparse(self, size: int) -> str:
        repository, tag = f"{self.repository}-sparse", uuid.uuid4().hex
        chunk = size - len(self.SPARSE_END), self.SPARSE_END
        push_kubeswift(Repository(self.server, repository), tag, size, [chunk])
        return self.server.ref(repository, tag)


def test_a_pull_secret_is_what_docker_login_writes(basic_registry: Registry) -> None:
    found = json.loads(basic_registry.pull_secret().read_text())["auths"]
    assert base64.b64decode(found[basic_registry.address]["auth"]).startswith(b"broker:")
