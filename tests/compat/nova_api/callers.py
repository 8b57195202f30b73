"""Nova's callers, and the data of an image."""

from __future__ import annotations

from oslo_context.context import RequestContext

DATA = bytes(range(256)) * 1000
MISSING = "00000000-0000-4000-8000-000000000000"
ALICE = RequestContext(user_id="alice", project_id="red", is_admin=False)
BOB = RequestContext(user_id="bob", project_id="blue", is_admin=False)
ADMIN = RequestContext(user_id="root", project_id="admin", is_admin=True)


class Collector:
    """An object with `write` and nothing else."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def write(self, chunk: bytes) -> None:
        self.chunks.append(chunk)


class VmwareHandle:
    """What oslo.vmware's have in common: `seek` takes one argument, and does nothing."""

    def tell(self) -> int:
        return 0

    def fileno(self) -> int:
        raise OSError

    def seek(self, offset: int) -> None:
        pass
