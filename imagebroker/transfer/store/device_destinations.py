"""A block device as the destination of a download."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.transfer.fetch.events import Checked, Events
from imagebroker.transfer.fetch.fetch import Fetch
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.store.block_device import BlockDevice
from imagebroker.transfer.store.destinations import Destination, InAnyOrder, InOrder, written


class OnDevice(InAnyOrder[BlockDevice]):
    """A block device, which is read back before the image on it can be taken for one."""

    #: What was verified; empty before.
    _evidence: Mapping[str, Any] = MappingProxyType({})

    def receive(self, fetch: Fetch, in_order: InOrder) -> Events:
        with closing(super().receive(fetch, in_order)) as events:
            for event in events:
                if isinstance(event, Checked):
                    self._evidence = event.evidence
                yield event

    def commit(self) -> None:
        self._storage.commit(self._evidence, partial(_waiting, self._watch))


class OnDeviceInOrder(Destination):
    """A block device that what is in a compressed image goes to."""

    def __init__(self, device: BlockDevice, path: Path, watch: Watch) -> None:
        self._device, self.path, self._watch = device, path, watch
        self._hasher = device.new_hash("sha256")

    @property
    def size(self) -> int:
        return self._device.size

    def receive(self, fetch: Fetch, in_order: InOrder) -> Events:
        content = in_order(fetch)
        self._device.preallocate(content.size or 0)
        return written(content, self._append)

    def _append(self, chunk: Buffer) -> None:
        self._hasher.update(chunk)
        self._device.append(chunk)

    def rewind(self) -> bool:
        self._hasher = self._device.new_hash("sha256")
        self._device.rewind()
        return True

    def commit(self) -> None:
        evidence = {"sha256": self._hasher.hexdigest()}
        self._device.commit(evidence, partial(_waiting, self._watch))


def _waiting(watch: Watch) -> None:
    """Between two steps of a verification: look at the caller's wishes, tell of the progress."""
    watch.check()
    watch.report("verify")
