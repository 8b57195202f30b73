"""The destination may be the image already: then the backend is asked, and nothing is fetched.

What proves it is never the time of a file. Either a strong digest, or a signature, is required of
the image, and holds for the bytes of the file; or an earlier download noted at the file which
version of which resource it stored, and the digest of its bytes: the backend still names that
version, and the bytes still have that digest. In both cases every byte is read, and all checks of a
download run over it.

The note is an extended attribute. It comes into place and goes with the file, in one step; where
the file system has none, only a required digest can prove anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

from imagebroker.exceptions import Cancelled, ImageBrokerError, ImageChanged, TransferTimeout
from imagebroker.model.algorithms import STRONG
from imagebroker.model.image import Image
from imagebroker.system.file_state import FileState
from imagebroker.system.forks import close
from imagebroker.transfer.fetch.candidates import insecurity
from imagebroker.transfer.fetch.fetch import Fetch
from imagebroker.transfer.layers.entitlement import Entitlement
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.store.part_file import PartFile
from imagebroker.transfer.transfer import Transfer
from imagebroker.verify.checks import Required
from imagebroker.verify.checksum import DEFAULT, Checksum

_ATTRIBUTE = "user.imagebroker"
_LONGEST = 3072
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Note:
    """A note of what a download has stored at a path."""

    #: Of what: the ref without the signature in its query, as a digest.
    resource: str
    version: str
    #: The digest of the bytes that are stored.
    stored: str
    #: Digests of what arrived, by algorithm: of the compressed data where it was unpacked.
    digests: Mapping[str, str]
    #: How it was unpacked; None: it was not.
    unpacked: str | None = None
    #: That of `stored`.
    algorithm: str = DEFAULT
    #: The format of the image that a disk was taken out of.
    converted_from: str | None = None

    def write(self, fd: int) -> None:
        text = json.dumps(asdict(self)).encode()
        if len(text) <= _LONGEST:
            with suppress(OSError):  # this file system has no such attributes, or no room
                os.setxattr(fd, _ATTRIBUTE, text)

    @classmethod
    def read(cls, fd: int) -> Note | None:
        """The note of an open file; None if it is missing or invalid."""
        try:
            note = cls(**json.loads(os.getxattr(fd, _ATTRIBUTE)))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        texts = (note.resource, note.version, note.stored, note.unpacked or "",
                 note.converted_from or "")  # fmt: skip
        right = isinstance(note.digests, dict) and all(isinstance(each, str) for each in texts)
        right = right and note.algorithm in STRONG
        return note if right else None


@dataclass(frozen=True)
class Unpacking:
    """The processing of an image before it is stored."""

    #: As a note says it.
    how: str
    #: What evidence calls the digest of what is stored.
    digest: str
    #: Whether a disk was taken out of it: what that disk contains is not checked.
    is_disk: bool = False


class Found(NamedTuple):
    """The destination is the image."""

    size: int
    image: Image
    evidence: dict[str, Any]


class Presence(Protocol):
    """The destination of one call, as it is before."""

    def find(self, transfer: Transfer) -> Found | None:
        """The image, if what is known before the backend is asked tells that it may be there."""

    def find_record(self, fetch: Fetch, transfer: Transfer) -> Found | None:
        """The image, if the record of what was opened tells that it is there.

        :raises DestinationError: something else is there, and must not be replaced.
        """

    def refuse_other(self) -> None:
        """Called if another file is there. :raises DestinationError: it must not be replaced."""

    def note(self, image: Image, evidence: Mapping[str, Any]) -> None:
        """The image is about to be put in place."""


class Unknown:
    """A destination that cannot be examined."""

    def find(self, transfer: Transfer) -> Found | None:
        return None

    def find_record(self, fetch: Fetch, transfer: Transfer) -> Found | None:
        return None

    def refuse_other(self) -> None:
        pass

    def note(self, image: Image, evidence: Mapping[str, Any]) -> None:
        pass


UNKNOWN = Unknown()


class PresentAtPath:
    """A path, as far as it can be examined.

    Where nothing could prove the file to be the image, the backend is asked no more often than for
    a path at which there is nothing.
    """

    def __init__(
        self, part: PartFile, entitlement: Entitlement, unpacked: Unpacking | None
    ) -> None:
        self._part, self._entitlement, self._unpacked = part, entitlement, unpacked

    def find(self, transfer: Transfer) -> Found | None:
        """:raises Cancelled, TransferTimeout: of the caller and the deadline."""
        return self._looked(lambda fd: self._by_digest(fd, transfer))

    def find_record(self, fetch: Fetch, transfer: Transfer) -> Found | None:
        """:raises Cancelled, TransferTimeout: of the caller and the deadline."""
        found = self._of_record(fetch, transfer)
        if found is None:
            self._part.refuse_other()
        return found

    def refuse_other(self) -> None:
        self._part.refuse_other()

    def _of_record(self, fetch: Fetch, transfer: Transfer) -> Found | None:
        record = transfer.demands.served is None  # else the bytes of it are on their way already
        if not record or self._unpacked is not None or not fetch.required.proves_all:
            return None
        return self._looked(lambda fd: self._by_record(fd, fetch, transfer))

    def _looked(self, look: Callable[[int], Found | None]) -> Found | None:
        fd = self._part.open_present()
        if fd < 0:
            return None
        try:
            there = os.fstat(fd)
            # Another user could change it at any time.
            mine = stat.S_ISREG(there.st_mode) and there.st_uid == os.geteuid()
            if not mine:
                return None
            state = FileState.of(fd)
            found = look(fd)
            state.check_same(fd, os.fsdecode(self._part.path))
            return found
        except (Cancelled, TransferTimeout):
            raise
        except (ImageBrokerError, OSError):
            return None  # it is something else, or the transfer says what is wrong
        finally:
            close(fd)

    def _by_digest(self, fd: int, transfer: Transfer) -> Found | None:
        """The image, if a digest of the caller's or of the note at the file proves its bytes."""
        note, size = Note.read(fd), os.fstat(fd).st_size
        strong = (c for c in transfer.demands.checksums if c.algorithm in STRONG)
        wanted = {each.algorithm: each.digest for each in strong}
        if self._unpacked is None and wanted:
            if note is not None and any(
                note.digests.get(name, digest) != digest for name, digest in wanted.items()
            ):
                return None  # an earlier version
        elif note is None or not self._is_own(note):
            return None
        else:
            wanted = {note.algorithm: note.stored}
        digests = _digests(fd, wanted, transfer.watch)
        if digests != wanted:
            return None
        known = note if note is not None and self._is_own(note) else None
        image = self._entitlement.ask(None if known is None else known.version)
        if image is None:
            return None
        if self._unpacked is None and image.size not in (None, size):
            return None
        required = transfer.demands.for_image(
            transfer.demands.record or image, transfer.watch.check
        )
        if self._unpacked is not None or not required.proves_all:
            known = known if known is not None and self._is_of(known, image) else None
            required = self._proven(required, known, transfer) or required
            if known is None or required.signature is not None:
                return None
        evidence = _evidence(fd, size, required, digests, transfer)
        if self._unpacked is not None and known is not None:
            evidence |= self._shown(self._unpacked, known, size)
        return self._kept(fd, size, image, evidence, transfer)

    def _by_record(self, fd: int, fetch: Fetch, transfer: Transfer) -> Found | None:
        size = os.fstat(fd).st_size
        if fetch.image.size not in (None, size):
            return None
        evidence = _read(fd, size, fetch.required, transfer)
        if self._entitlement.ask() is None:
            return None
        return self._kept(fd, size, fetch.image, evidence, transfer)

    def _kept(
        self, fd: int, size: int, image: Image, evidence: dict[str, Any], transfer: Transfer
    ) -> Found | None:
        if not self._part.keep_present(fd):
            return None
        evidence |= insecurity(transfer.candidates, {})
        return Found(size, transfer.demands.record or image, evidence)

    def _shown(self, unpacked: Unpacking, note: Note, size: int) -> dict[str, Any]:
        """As the download said that stored it: the digests are those of the image."""
        found: dict[str, Any] = dict(note.digests)
        if note.stored != note.digests.get(note.algorithm):  # else it was not compressed
            found[unpacked.digest] = note.stored
        if unpacked.is_disk:
            found |= {"disk_format": "raw", "virtual_size": size}
            found |= {"converted_from": note.converted_from}
        return found

    def _is_own(self, note: Note) -> bool:
        """Whether it is about what is wanted of the image, in some version."""
        how = None if self._unpacked is None else self._unpacked.how
        return note.resource == self._entitlement.resource.unsigned and note.unpacked == how

    def _is_of(self, note: Note, image: Image) -> bool:
        """Whether it says that the file was made of what the backend has now."""
        return self._is_own(note) and image.version is not None and note.version == image.version

    def _proven(self, required: Required, note: Note | None, transfer: Transfer) -> Required | None:
        """The checks for the bytes of a file that the note proves; None if it does not."""
        if note is None:
            return None
        stored = Checksum(note.algorithm, note.stored, "the earlier download")
        if self._unpacked is None:
            return replace(required, checksums=(*required.checksums, stored))
        # What is required is required of the compressed data, which is not here any more.
        if any(note.digests.get(c.algorithm) != c.digest for c in required.checksums):
            raise ImageChanged(f"{required.ref}: another digest is required")
        formats = transfer.formats
        if self._unpacked.is_disk:
            if formats is not None:
                formats.check_declared(note.converted_from)
            formats = None
        return replace(required, checksums=(stored,), formats=formats, declared=None)

    def note(self, image: Image, evidence: Mapping[str, Any]) -> None:
        digests = {name: evidence[name] for name in (DEFAULT, *STRONG) if name in evidence}
        algorithm, digest = next(iter(digests.items()), (DEFAULT, None))
        unpacked = self._unpacked
        if unpacked is not None and unpacked.digest in evidence:
            algorithm, digest = DEFAULT, evidence[unpacked.digest]
        if image.version is None or digest is None:
            return
        resource = self._entitlement.resource.unsigned
        how = None if unpacked is None else unpacked.how
        note = Note(
            resource, image.version, digest, digests, how, algorithm,
            evidence.get("converted_from"),
        )  # fmt: skip
        note.write(self._part.fileno())


def _digests(fd: int, wanted: Iterable[str], watch: Watch) -> dict[str, str]:
    """The digests of a file with these algorithms."""
    hashers = {name: hashlib.new(name) for name in wanted}
    for chunk in _chunks(fd, watch):
        for hasher in hashers.values():
            hasher.update(chunk)
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}


def _evidence(
    fd: int, size: int, required: Required, digests: Mapping[str, str], transfer: Transfer
) -> dict[str, Any]:
    """The evidence about a file with these digests. It is read again only if something is required
    that they do not tell.

    :raises VerificationError: the file is not what is required.
    """
    if required.signature is not None or any(
        digests.get(c.algorithm) != c.digest for c in required.checksums
    ):
        return _read(fd, size, required, transfer)
    found = required.inspected(fd, size)
    against = tuple(str(each) for each in required.checksums)
    return {**found, **digests, "checked_against": against}


def _read(fd: int, size: int, required: Required, transfer: Transfer) -> dict[str, Any]:
    """The evidence over all bytes of a file. :raises VerificationError: they are others."""
    with closing(required.start(size)) as checks:
        for chunk in _chunks(fd, transfer.watch):
            checks.feed(chunk)
        return checks.evidence()


def _chunks(fd: int, watch: Watch) -> Iterator[bytes]:
    position = 0
    while chunk := os.pread(fd, _CHUNK, position):
        watch.check()
        watch.report("verify")
        yield chunk
        position += len(chunk)
