"""The scp backend keeps the contract: the kit against OpenSSH."""

from __future__ import annotations

import itertools
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest
import testtools
from imagebroker_scp import ScpBackend

from imagebroker.testing import BackendContract
from tests.plugins.scp_peers import TESTED
from tests.servers.sshd import Sshd

_numbers = itertools.count()


class TestScp(BackendContract, testtools.TestCase):
    """Files over SFTP, in the directory that `endpoint` names."""

    stall_timeout = 3.0
    sshd: Sshd

    @pytest.fixture(autouse=True)
    def _server(self, sshd: Sshd) -> None:
        self.sshd = sshd

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def make_backend(self) -> ScpBackend:
        return ScpBackend(
            self.make_host(
                ScpBackend,
                known_hosts=str(self.sshd.known_hosts),
                identity_file=str(self.sshd.key),
                endpoint=[self.sshd.url(self.folder) + "/"],
            ),
            tested=TESTED,
        )

    def image_fields(self) -> dict[str, Any]:
        return {"name": f"kit-{uuid.uuid4().hex}.img"}  # SFTP keeps no other field

    def publish(self, data: bytes) -> str:
        path = self.folder / f"{next(_numbers)}.img"
        path.write_bytes(data)
        return self.sshd.url(path)

    def file(self, ref: str) -> Path:
        return self.folder / ref.rpartition("/")[2]

    def replace(self, ref: str, data: bytes) -> None:
        new = self.folder / "new"
        new.write_bytes(data)
        os.replace(new, self.file(ref))

    def take_away(self, ref: str) -> None:
        self.file(ref).unlink()

    def publish_sparse(self, size: int) -> str:
        ref = self.publish(b"")
        with self.file(ref).open("r+b") as file:
            file.seek(size - len(self.SPARSE_END))
            file.write(self.SPARSE_END)
        return ref
