"""A destination for the disk in an image: the image is stored beside it, verified, and converted.

Nothing reads an image before all of its checks have passed. What is plain already needs no
conversion: it is the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from imagebroker.backends.backend import Options
from imagebroker.exceptions import DestinationError, FormatError, InvalidImageRef
from imagebroker.model.algorithms import STRONG
from imagebroker.system.confined import Confinement, Program
from imagebroker.transfer.demands import Demands
from imagebroker.transfer.fetch.candidates import Candidate
from imagebroker.transfer.fetch.events import Checked, Events, LocalFile, Received, Stored
from imagebroker.transfer.fetch.fetch import Fetch
from imagebroker.transfer.layers.conversion import (
    Arrived,
    Converted,
    Disk,
    PlainDisk,
)
from imagebroker.transfer.layers.present import Found, Presence
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.qemu_img import DRIVERS
from imagebroker.transfer.qemu_img import Disk as DiskInImage
from imagebroker.transfer.store.clone import LocalImage
from imagebroker.transfer.store.destinations import AtPathInOrder, Destination, InOrder
from imagebroker.transfer.store.part_file import PartFile
from imagebroker.verify.checksum import DEFAULT
from imagebroker.verify.formats.policy import PLAIN
from imagebroker.verify.formats.signatures import at_the_start
from imagebroker.verify.formats.spans import SECTOR

#: What is a disk as it is.
_PLAIN = PLAIN | {"iso"}
#: Bytes of a cached image that are verified at once.
_STEP = 1 << 20


@dataclass(frozen=True)
class Conversion:
    """How images are converted here."""

    program: Program
    #: Seconds that one may take.
    seconds: float
    #: Where an image is stored until it is converted, if it is wanted on a device.
    directory: Path

    def scratch(self, device: Path) -> Path:
        """Where the image is stored that is to be converted onto a device."""
        name = hashlib.sha256(os.fsencode(os.path.abspath(device))).hexdigest()[:16]
        return self.directory / f"imagebroker-{name}"

    def converting(
        self, image: Destination, part: PartFile, disk: Destination, plain: Destination | None,
        watch: Watch,
    ) -> Converting:  # fmt: skip
        """As `Converting`. :raises DestinationError: what is stored cannot be read back."""
        if part.sequential:
            raise DestinationError(
                f"the file system of {part.shown!r} takes bytes in order only, and an image must "
                "be stored before it is converted",
                hint="convert it in a directory on a local file system, and copy it",
            )
        return Converting(image, part, disk, self, watch, plain=plain)

    def into(self, disk: PartFile, path: Path, watch: Watch) -> ConvertedPath:
        return ConvertedPath(self, disk, path, watch)


def conversion(core: Options, convert: str) -> Conversion:
    """As configured. :raises InvalidImageRef: `convert` is not `raw`."""
    if convert != "raw":
        raise InvalidImageRef(f"convert is {convert!r:.40}", hint="only raw is supported")
    confinement = Confinement(core.convert_memory, required=not core.convert_unconfined)
    program = Program("qemu-img", "qemu-utils", confinement)
    return Conversion(program, core.convert_timeout, Path(core.convert_dir))


class ConvertedPath(NamedTuple):
    """A path that the disk in an image goes to."""

    conversion: Conversion
    disk: PartFile
    path: Path
    watch: Watch

    def converting(self, image: Destination, part: PartFile) -> Converting:
        """`image`: stores the image in `part`, which has the same path."""
        disk = AtPathInOrder(self.disk, self.path)
        return self.conversion.converting(image, part, disk, None, self.watch)

    def presence(self, image: Presence, disk: Presence) -> ConvertedPresence:
        """`image`, `disk`: whether what is at the path is the one or the other."""
        return ConvertedPresence(image, disk)


class Converting(Destination):
    """An image on its way into a part file, and the disk in it on its way to where it is wanted."""

    def __init__(
        self, image: Destination, part: PartFile, disk: Destination, conversion: Conversion,
        watch: Watch, *, plain: Destination | None,
    ) -> None:  # fmt: skip
        """`image`: stores what arrives in `part`. `disk`: takes what is in it.

        `plain`: takes what is declared as a plain disk; None: `image` has the path of `disk`, and
        is what is wanted then.
        """
        self._image, self._file, self._disk = image, part, disk
        self._conversion, self._watch = conversion, watch
        self._plain, self._plain_in_place = plain, plain is None
        self.any_order, self.path = image.any_order, disk.path
        # Not where bytes come in order only: then it is what was in a compressed image.
        self.part = image.part
        self._in_use, self._private, self._is_checked = disk, False, False

    @property
    def size(self) -> int:
        return self._in_use.size

    def guarded(self, candidate: Candidate) -> Candidate:
        self._private = candidate.private
        return self._image.guarded(candidate)

    def first_missing(self, demands: Demands) -> int:
        return self._image.first_missing(demands)

    def receive(self, fetch: Fetch, in_order: InOrder) -> Events:
        if self._private and self.any_order:
            yield from self._from_the_cache(fetch, in_order)
            return
        if self._plain is not None and fetch.required.declared in _PLAIN:  # or it is refused
            self._in_use = self._plain
            yield from self._plain.receive(fetch, in_order)
            return
        evidence: dict[str, Any] = {}
        with closing(self._image.receive(fetch, in_order)) as events:
            for event in events:
                yield event
                if isinstance(event, Checked):
                    evidence = event.evidence
                elif isinstance(event, Stored) and event.position >= SECTOR:
                    self._look()
        self._file.set_size()
        arrived = Arrived(fetch.image, self._file.size, evidence)
        yield from self._converted(arrived, self._file.fileno(), in_order, fetch)

    def _look(self) -> None:
        """Fail at the first bytes of an image that cannot be converted here, not after its last."""
        if not self._is_checked:
            self._is_checked = True
            first = b"".join(self._file.read_back(0, SECTOR))
            if not at_the_start(first).isdisjoint(DRIVERS):
                self._conversion.program.check(self._watch.check)

    def _from_the_cache(self, fetch: Fetch, in_order: InOrder) -> Events:
        """The file in the cache is verified and read where it is."""
        with closing(fetch.events(None, mixed=False)) as events:
            for event in events:
                yield event
                if isinstance(event, LocalFile):
                    with closing(LocalImage(event.source)) as file:
                        yield Received(event.candidate, file.size)
                        evidence = self._verified(fetch, file)
                        yield Checked(evidence)
                        arrived = Arrived(fetch.image, file.size, evidence)
                        if self._plain_in_place and _is_plain(arrived):
                            file.clone_into(self._file, lambda done, moved: self._watch.check())
                        yield from self._converted(arrived, file.fd, in_order, fetch)
                    return

    def _verified(self, fetch: Fetch, file: LocalImage) -> dict[str, Any]:
        self._watch.total = file.size
        with closing(fetch.required.start(file.size)) as checks:
            for chunk in file.chunks(_STEP):
                checks.feed(chunk)
                self._watch.done += len(chunk)
                self._watch.check()
                self._watch.report("verify")
            file.check_unchanged()
            return checks.evidence()

    def _converted(self, arrived: Arrived, fd: int, in_order: InOrder, fetch: Fetch) -> Events:
        if _is_plain(arrived) and self._plain_in_place:
            self._in_use = self._image
            return
        if not STRONG.keys() & arrived.evidence.keys():  # a file of this host was cloned
            digest = self._hashed(fd, arrived.size)
            arrived = arrived._replace(evidence={DEFAULT: digest, **arrived.evidence})
        with self._opened(arrived, fd) as disk:
            content = Converted(arrived, disk, self._watch)
            yield from self._disk.receive(fetch, lambda fetch: content)

    def _hashed(self, fd: int, size: int) -> str:
        hasher = hashlib.new(DEFAULT)
        for at in range(0, size, _STEP):
            hasher.update(os.pread(fd, min(_STEP, size - at), at))
            self._watch.check()
            self._watch.report("verify")
        return hasher.hexdigest()

    @contextmanager
    def _opened(self, arrived: Arrived, fd: int) -> Iterator[Disk]:
        """:raises UnsupportedOperation, FormatError: it cannot be converted."""
        if _is_plain(arrived):
            yield PlainDisk(fd, arrived.size)
            return
        if arrived.kind not in DRIVERS:
            raise FormatError(
                f"{arrived.image.ref} is {arrived.kind}, which cannot be converted to raw",
                hint="download it without --convert",
                found=arrived.kind,
            )
        program, seconds = self._conversion.program, self._conversion.seconds
        program.check(self._watch.check)
        ref, check = arrived.image.ref, self._watch.check
        with closing(DiskInImage(program, ref, fd, arrived.kind, seconds, check)) as disk:
            if disk.size > arrived.evidence["virtual_size"]:
                raise FormatError(
                    f"qemu-img finds a disk of {disk.size} bytes in {ref}, not the "
                    f"{arrived.evidence['virtual_size']} in its header",
                    hint="do not use it",
                    found=arrived.kind,
                )
            yield disk

    def rewind(self) -> bool:
        self._in_use, self._is_checked = self._disk, False
        return self._image.rewind() and self._disk.rewind()

    def commit(self) -> None:
        self._in_use.commit()


class ConvertedPresence:
    """Up to date is a destination with the disk of the image, or the image itself, if plain."""

    def __init__(self, image: Presence, disk: Presence) -> None:
        self._image, self._disk = image, disk

    def find(self, transfer: Any) -> Found | None:
        return self._disk.find(transfer) or _plain(self._image.find(transfer))

    def find_record(self, fetch: Fetch, transfer: Any) -> Found | None:
        found = _plain(self._image.find_record(fetch, transfer))
        if found is None:
            self.refuse_other()
        return found

    def refuse_other(self) -> None:
        self._disk.refuse_other()

    def note(self, image: Any, evidence: Any) -> None:
        (self._disk if "raw_sha256" in evidence else self._image).note(image, evidence)


def _is_plain(arrived: Arrived) -> bool:
    return arrived.kind in _PLAIN


def _plain(found: Found | None) -> Found | None:
    return found if found is not None and found.evidence.get("disk_format") in _PLAIN else None
