"""An upload: into an image of another name, which gets its own when it is complete."""

from __future__ import annotations

import contextlib
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from imagebroker.plugin import (
    BackendHost,
    Conflict,
    Image,
    ImageBrokerError,
    ImageData,
    QuotaExceeded,
    TransferTimeout,
)
from imagebroker_rbd.client import Cluster
from imagebroker_rbd.errors import translated
from imagebroker_rbd.image_state import user_snapshots
from imagebroker_rbd.names import UPLOAD, Place
from imagebroker_rbd.operations import OpenImage, Operation
from imagebroker_rbd.records import key_of, text_of
from imagebroker_rbd.removal import remove

MIB = 1024 * 1024
#: Blocks of zeros are not written.
_BLOCK = 64 * 1024
_ZEROS = bytes(_BLOCK)
#: How far an image of unknown size grows at least.
_STEP = 1024 * MIB


class Upload:
    """One new image."""

    def __init__(
        self,
        cluster: Cluster,
        host: BackendHost,
        place: Place,
        image: Image,
        data: ImageData | None = None,
        parent: Place | None = None,
    ) -> None:
        """With the bytes of `data`, or with those of the snapshot `parent`, as a clone.

        :param place: the snapshot that is to be made.
        """
        self._cluster, self._options = cluster, host.options
        self._place, self._image, self._data = place, image, data
        self._subject = place.uri(host)
        self._doing = f"cannot store {self._subject}"
        self._temporary = replace(place, image=f"{UPLOAD}{uuid.uuid4()}", snapshot=None)
        self._under_way: deque[Operation] = deque()
        self._parent = parent
        self._size = (data.size if data is not None else None) or 0

    def run(self) -> None:
        """Store all of it, or nothing."""
        self._check_room()
        with self._cluster.pool(self._place.pool, self._place.namespace) as pool:
            self._check_name(pool)
            self._begin(pool)
            try:
                with self._cluster.open(self._temporary, self._subject, writable=True) as opened:
                    if self._data is not None:
                        self._fill(opened, self._data)
                    self._seal(opened)
                with translated(self._doing):
                    self._cluster.rbd.rename(pool, self._temporary.image, self._place.image)
            except BaseException as error:
                self._clean_up()
                if isinstance(error, TransferTimeout) and (full := self._full()):
                    raise full from error
                raise

    def _begin(self, pool: Any) -> None:
        new, parent = self._temporary.image, self._parent
        if parent is None:
            with translated(self._doing):
                self._cluster.rbd.create(pool, new, self._size, old_format=False)
            return
        with (
            self._cluster.pool(parent.pool, parent.namespace) as theirs,
            translated(self._doing),
        ):
            self._cluster.rbd.clone(theirs, parent.image, parent.snapshot, pool, new)

    def _check_room(self) -> None:
        if self._size and (full := self._full(self._size)):
            raise full

    def _full(self, size: int = 1) -> QuotaExceeded | None:
        """The error if the pool has no room: a write to a full pool is not refused, but waits."""
        pool = self._place.pool
        try:
            answer = self._cluster.command(self._doing, "df", detail="detail")
            found = next(each["stats"] for each in answer["pools"] if each["name"] == pool)
            free, quota = int(found["max_avail"]), int(found.get("quota_bytes", 0))
            stored = int(found["stored"])
        except (ImageBrokerError, StopIteration, KeyError, TypeError, ValueError):
            return None  # this user may not ask, or nobody answers
        if quota and quota - stored < size:
            return QuotaExceeded(
                f"{self._doing}: the pool {pool} has {stored} of {quota} bytes, its quota",
                hint=f"delete something, or raise the quota: ceph osd pool set-quota {pool} "
                "max_bytes NUMBER",
            )
        if not free:
            return QuotaExceeded(
                f"{self._doing}: the pool {pool} is full",
                hint="delete something, or add disks to the cluster",
            )
        return None

    def _check_name(self, pool: object) -> None:
        with translated(self._doing):
            names = self._cluster.rbd.list(pool)
        if self._place.image in names:
            raise self._exists()

    def _exists(self) -> Conflict:
        return Conflict(
            f"there is an image {self._place.image} in the pool {self._place.pool} already",
            hint="choose another name, or delete that image",
        )

    def _fill(self, opened: OpenImage, data: ImageData) -> None:
        offset = 0
        for chunk in self._chunks(data):
            self._grow(opened, offset + len(chunk))
            for begin, end in _filled(chunk):
                self._write(opened, chunk[begin:end], offset + begin)
            offset += len(chunk)
        while self._under_way:
            self._await(opened)
        opened.call(self._doing, "flush")
        if offset != self._size:
            opened.call(self._doing, "resize", offset)

    def _chunks(self, data: ImageData) -> Iterator[bytes]:
        """The data in pieces of one operation, which begin at multiples of their size."""
        size = self._options.chunk_size * MIB
        held = bytearray()
        for chunk in data:
            held += chunk
            while len(held) >= size:
                yield bytes(held[:size])
                del held[:size]
        if held:
            yield bytes(held)

    def _grow(self, opened: OpenImage, end: int) -> None:
        if end <= self._size:
            return
        while self._under_way:
            self._await(opened)
        self._size = max(end, 2 * self._size, _STEP)
        opened.call(self._doing, "resize", self._size)

    def _write(self, opened: OpenImage, data: bytes, offset: int) -> None:
        while len(self._under_way) >= self._options.parallel_operations:
            self._await(opened)
        self._under_way.append(opened.start_write(data, offset))

    def _await(self, opened: OpenImage) -> None:
        opened.wait(self._under_way.popleft(), self._doing)

    def _seal(self, opened: OpenImage) -> None:
        """Make the snapshot, protect it from being removed under a clone, and note the record."""
        name = self._place.snapshot or ""
        opened.call(self._doing, "create_snap", name)
        opened.call(self._doing, "protect_snap", name)
        made = next(s for s in user_snapshots(opened, self._doing) if s["name"] == name)
        checksums = self._image.checksums if self._data is None else self._data.checksums
        text = text_of(replace(self._image, checksums=checksums), whole_image=True)
        opened.call(self._doing, "metadata_set", key_of(made["id"]), text)

    def _clean_up(self) -> None:
        # What cannot be removed now is removed by `purge`.
        with contextlib.suppress(Exception):
            remove(self._cluster, self._temporary, self._subject)


def _filled(chunk: bytes) -> Iterator[tuple[int, int]]:
    """Where a chunk has more than zeros."""
    begin: int | None = None
    for at in range(0, len(chunk), _BLOCK):
        block = chunk[at : at + _BLOCK]
        if block == _ZEROS[: len(block)]:
            if begin is not None:
                yield begin, at
            begin = None
        elif begin is None:
            begin = at
    if begin is not None:
        yield begin, len(chunk)
