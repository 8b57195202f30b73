"""The rbd backend keeps the contract: the kit against a real Ceph cluster."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import ClassVar

import pytest
import testtools
from imagebroker_rbd import RbdBackend

from imagebroker.plugin import Buffer, Context, Image, ImageRef, ImageSource
from imagebroker.testing import BackendContract
from tests.servers.ceph import Ceph, Stopper


class StoppedRead(ImageSource):
    """A source of the backend, in which the OSD stops where a test wants it."""

    def __init__(self, source: ImageSource, stopper: Stopper) -> None:
        self.source, self._stopper = source, stopper
        self.image = source.image
        self.seekable, self.parallel_reads = source.seekable, source.parallel_reads

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        after = self._stopper.taken()
        if after is None:
            yield from self.source.read(start, stop)
            return
        # What is read ahead arrives before the OSD stops.
        given = 0
        try:
            for chunk in self.source.read(start, stop):
                given += len(chunk)
                if given >= after - 4 * len(chunk):
                    self._stopper.stop()
                yield chunk
        finally:
            self._stopper.end()

    def close(self) -> None:
        self.source.close()


class StoppingBackend(RbdBackend):
    """The backend itself; `stopper` is the test's."""

    api_version = 1
    stopper: ClassVar[Stopper]

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return StoppedRead(super().open(context, ref), self.stopper)

    def clone(self, context: Context, image: Image, source: ImageSource) -> Image | None:
        return super().clone(context, image, getattr(source, "source", source))


class TestRbd(BackendContract, testtools.TestCase):
    server: Ceph
    # For the connection and for one operation: the kit waits as long for a stopped OSD.
    patience, stall_timeout, grace = 40.0, 2.0, 4.0

    @pytest.fixture(autouse=True)
    def _server(self, ceph: Ceph) -> None:
        self.server = ceph

    def setUp(self) -> None:
        super().setUp()
        StoppingBackend.stopper = Stopper(self.server)
        self.addCleanup(self.server.resume, "osd")
        self.user = self.server.add_user(f"kit-{uuid.uuid4().hex}", self.server.pool)

    def make_backend(self) -> RbdBackend:
        # With more, all of a small image may be here before the OSD stops.
        options = self.server.options(**self.user, parallel_operations=2)
        return StoppingBackend(self.make_host(StoppingBackend, **options))

    def publish(self, data: bytes) -> str:
        name = f"kit-{uuid.uuid4().hex}"
        self.server.write(name, data)
        self.addCleanup(self.take_away, f"rbd://{self.server.pool}/{name}@snap")
        return f"rbd://{self.server.pool}/{name}@snap"

    def publish_sparse(self, size: int) -> str:
        name = f"kit-{uuid.uuid4().hex}"
        end = self.SPARSE_END
        self.server.write(name, end, size=size, at=size - len(end))
        return f"rbd://{self.server.pool}/{name}@snap"

    def missing_ref(self) -> str:
        return f"rbd://{self.server.pool}/kit-{uuid.uuid4().hex}@snap"

    def replace(self, ref: str, data: bytes) -> None:
        self.take_away(ref)
        self.server.write(_name(ref), data)

    def take_away(self, ref: str) -> None:
        if _name(ref) in self.server.names():
            self.server.remove(_name(ref))

    def forbid(self, ref: str) -> None:
        self.server.restrict(self.user["user"], "another-pool")

    def cut_after(self, ref: str, size: int) -> None:
        # Ceph's library mends connections by itself. What breaks a read is an OSD that does not
        # answer in time.
        StoppingBackend.stopper.arm(size)

    def stall_after(self, ref: str, size: int) -> None:
        StoppingBackend.stopper.arm(size)


def _name(ref: str) -> str:
    return ref.rpartition("/")[2].partition("@")[0]
