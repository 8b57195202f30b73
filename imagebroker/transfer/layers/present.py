"""The destination may be the image already: then the backend is asked once, and nothing is fetched.

What proves it is never the time of a file. Either a strong digest, or a signature, is required of
the image, and holds for the bytes of the file; or an earlier download noted at the file which
version of which resource it stored, and the digest of its bytes: the backend still names that
version, and the bytes still have that digest. In both cases every byte is read, and all checks of a
download run over it.

The note is an extended attribute. It comes into place and goes with the file, in one step; where
the file system has none, only a required digest can prove anything.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

from imagebroker.exceptions import Cancelled, ImageBrokerError, TransferTimeout
from imagebroker.model.image import Image
from imagebroker.system.file_state import FileState
from imagebroker.transfer.fetch.candidates import insecurity
from imagebroker.transfer.layers.entitlement import Entitlement
from imagebroker.transfer.store.directory import close
from imagebroker.transfer.store.part_file import PartFile
from imagebroker.transfer.transfer import Transfer
from imagebroker.verify.checks import Required
from imagebroker.verify.checksum import DEFAULT, STRONG, Checksum

_ATTRIBUTE = "user.imagebroker"
_LONGEST = 3072
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Note:
    """What a download stored at a path."""

    #: Of what: the ref without the signature in its query, as a digest.
    resource: str
    version: str
    #: sha256 of the bytes that are stored.
    stored: str
    #: Digests of what arrived, by algorithm: of the compressed data where it was unpacked.
    digests: Mapping[str, str]
    #: How it was unpacked; None: it was not.
    unpacked: str | None = None

    def write(self, fd: int) -> None:
        text = json.dumps(asdict(self)).encode()
        if len(text) <= _LONGEST:
            with suppress(OSError):  # this file system has no such attributes, or no room
                os.setxattr(fd, _ATTRIBUTE, text)

    @classmethod
    def read(cls, fd: int) -> Note | None:
        """None if there is none that can be understood."""
        try:
            note = cls(**json.loads(os.getxattr(fd, _ATTRIBUTE)))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        texts = (note.resource, note.version, note.stored, note.unpacked or "")
        right = isinstance(note.digests, dict) and all(isinstance(each, str) for each in texts)
        return note if right else None


class Found(NamedTuple):
    """The destination is the image."""

    size: int
    image: Image
    evidence: dict[str, Any]


class Presence(Protocol):
    """What is at the destination of one call."""

    def find(self, transfer: Transfer) -> Found | None:
        """The image, if it is there already."""

    def note(self, image: Image, evidence: Mapping[str, Any]) -> None:
        """The image is about to be put in place."""


class Unknown:
    """A destination that cannot be looked at."""

    def find(self, transfer: Transfer) -> Found | None:
        return None

    def note(self, image: Image, evidence: Mapping[str, Any]) -> None:
        pass


UNKNOWN = Unknown()


class PresentAtPath:
    """A path, as far as it can be looked at."""

    def __init__(self, part: PartFile, entitlement: Entitlement, unpacked: str | None) -> None:
        self._part, self._entitlement, self._unpacked = part, entitlement, unpacked

    def find(self, transfer: Transfer) -> Found | None:
        """:raises Cancelled, TransferTimeout: of the caller and the deadline."""
        fd = self._part.open_present()
        if fd < 0:
            return None
        try:
            return self._look(fd, transfer)
        except (Cancelled, TransferTimeout):
            raise
        except (ImageBrokerError, OSError):
            return None  # it is something else, or the transfer says what is wrong
        finally:
            close(fd)

    def _look(self, fd: int, transfer: Transfer) -> Found | None:
        there, note, demands = os.fstat(fd), Note.read(fd), transfer.demands
        if not stat.S_ISREG(there.st_mode) or there.st_uid != os.geteuid():
            return None  # another user may write to it at any time
        digest = demands.served is None or any(c.algorithm in STRONG for c in demands.checksums)
        if note is None and (not digest or self._unpacked is not None):
            return None  # nothing could prove it: the backend need not be asked
        image = self._entitlement.ask()
        if image is None:
            return None
        required = transfer.arriving.for_image(demands.record or image, transfer.watch.check)
        known = note if note is not None and self._is_of(note, image) else None
        checks = self._checks(required, known, transfer)
        if checks is None or (self._unpacked is None and image.size not in (None, there.st_size)):
            return None
        evidence = _read(fd, there.st_size, checks, transfer)
        if self._part.keep_present(fd):
            return Found(there.st_size, demands.record or image, evidence)
        return None

    def _is_of(self, note: Note, image: Image) -> bool:
        """Whether it says that the file was made of what the backend has now."""
        return (
            note.resource == self._entitlement.resource.unsigned
            and note.unpacked == self._unpacked
            and image.version is not None
            and note.version == image.version
        )

    def _checks(self, required: Required, note: Note | None, transfer: Transfer) -> Required | None:
        """What must hold for the bytes of the file; None if nothing proves it."""
        if self._unpacked is None and required.proves_all:
            return required
        if note is None:
            return None
        remembered = Checksum(DEFAULT, note.stored, "the version stored before")
        if self._unpacked is None:
            return replace(required, checksums=(*required.checksums, remembered))
        # What is required is required of the compressed data, which is not here any more.
        held = all(note.digests.get(c.algorithm) == c.digest for c in required.checksums)
        if required.signature is not None or not held:
            return None
        formats = transfer.demands.formats
        return replace(required, checksums=(remembered,), formats=formats, declared=None)

    def note(self, image: Image, evidence: Mapping[str, Any]) -> None:
        stored = evidence.get(DEFAULT if self._unpacked is None else "decompressed_sha256")
        if image.version is None or not isinstance(stored, str):
            return
        digests = {name: evidence[name] for name in STRONG if name in evidence}
        resource = self._entitlement.resource.unsigned
        Note(resource, image.version, stored, digests, self._unpacked).write(self._part.fileno())


def _read(fd: int, size: int, required: Required, transfer: Transfer) -> dict[str, Any]:
    """The evidence over all bytes of a file. :raises VerificationError: they are others."""
    watch, position = transfer.watch, 0
    state = FileState.of(fd)
    with closing(required.start(size)) as checks:
        while chunk := os.pread(fd, _CHUNK, position):
            watch.check()
            watch.report("verify")
            checks.feed(chunk)
            position += len(chunk)
        evidence = checks.evidence()
    state.check_same(fd, required.ref)
    return evidence | insecurity(transfer.candidates, {})
