"""Checksums: which ones a transfer must match, and computing them in the background."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import (
    ChecksumMismatch,
    ChecksumMissing,
    InvalidImageRef,
    PolicyViolation,
    VerificationError,
)
from imagebroker.model.algorithms import DIGITS, STRONG, WEAK
from imagebroker.model.image import Image
from imagebroker.model.upload_data import Hasher
from imagebroker.redaction import redact
from imagebroker.system.worker import Worker

#: Computed if no checksum is required.
DEFAULT = "sha256"
#: Bytes that may wait for the thread that hashes, and below which it costs more than it saves.
_BACKLOG, _INLINE = 8 * 1024 * 1024, 1024 * 1024


_URL = re.compile(r"([a-z][a-z0-9+.-]{0,31})://")


def is_url(checksum: object) -> bool:
    """Whether a caller's `checksum` is the URL of a checksum file, not a digest."""
    match = _URL.match(checksum) if isinstance(checksum, str) else None
    return match is not None and match[1] not in DIGITS


@dataclass(frozen=True)
class Checksum:
    """A digest that the stored bytes must have, and where it comes from."""

    algorithm: str
    digest: str
    origin: str

    def __str__(self) -> str:
        return f"{self.algorithm} of {self.origin}"


def parse_checksum(text: object, *, allow_weak: bool = False) -> Checksum:
    """Parse the caller's `"sha256:<hex>"`.

    :raises InvalidImageRef: malformed, or an unknown algorithm.
    :raises PolicyViolation: md5 or sha1, which the deployment does not allow.
    """
    match = (
        re.fullmatch(r"([a-z0-9_]{1,16}):([0-9a-fA-F]{1,256})", text)
        if isinstance(text, str)
        else None
    )
    digits = DIGITS.get(match[1]) if match else None
    if match is None or digits != len(match[2]):
        raise InvalidImageRef(
            f"{redact(text, 160)!r} is not a checksum",
            hint="write it as ALGORITHM:HEX, such as sha256:<64 hex digits>, or the URL of a "
            f"checksum file, such as https://host/SHA256SUMS; algorithms: {', '.join(STRONG)}",
        )
    if match[1] in WEAK and not allow_weak:
        raise PolicyViolation(
            f"the checksum is {match[1]}, which can be forged",
            hint="pass a sha256 or sha512 checksum, or set allow_md5 in [imagebroker]",
        )
    return Checksum(match[1], match[2].lower(), "the caller")


def required_checksums(
    image: Image,
    demanded: Iterable[Checksum],
    *,
    require: bool,
    allow_weak: bool,
    served: str | None = None,
) -> tuple[Checksum, ...]:
    """All checksums to verify: those of the caller and the ref, and that of the record.

    `served`: a description of the record's checksums, if they come from the same server as the
    data. They are verified, but do not satisfy `require`.

    :raises ChecksumMissing: `require`, but there is no strong checksum.
    :raises VerificationError: the record's digest is malformed or of an unknown algorithm.
    """
    found = list(demanded)
    record = _of_record(image, strict=require and not found)
    usable = record is not None and (record.algorithm in STRONG or allow_weak)
    missing = require and not found and (served is not None or not usable)
    if record is not None and usable:
        found.append(record if served is None else replace(record, origin=served))
    if missing:
        weak = "" if record is None else f" but {record.algorithm if served is None else served}"
        raise ChecksumMissing(
            f"{image.ref} has no checksum{weak}, and this backend requires one",
            hint="pass the checksum with --checksum, or accept the image without one: "
            "--no-require-checksum, or require_checksum = false in the config file",
        )
    for checksum in found:
        new_hash(checksum.algorithm)  # an algorithm that this host lacks must fail before any byte
    return tuple(dict.fromkeys(found))


def _of_record(image: Image, *, strict: bool) -> Checksum | None:
    """The record's best digest: a strong one takes precedence over md5."""
    named = {name: value for name, value in image.checksums.items() if name not in WEAK}
    for algorithm in STRONG:
        if algorithm in named:
            return _checked(image, algorithm, named[algorithm])
    if named and strict:
        raise VerificationError(
            f"the record of {image.ref} has a checksum of the unknown algorithm "
            f"{redact(next(iter(named)), 40)!r}",
            hint="correct the record, or pass the checksum with --checksum",
        )
    for algorithm in WEAK:
        if image.checksums.get(algorithm):
            return _checked(image, algorithm, image.checksums[algorithm])
    return None


def _checked(image: Image, algorithm: str, digest: Any) -> Checksum:
    digits = DIGITS[algorithm]
    if not isinstance(digest, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", digest):
        raise VerificationError(
            f"the {algorithm} in the record of {image.ref} is {redact(digest, 40)!r}, "
            f"not {digits} hex digits",
            hint="correct the record",
        )
    return Checksum(algorithm, digest.lower(), "the record")


def new_hash(algorithm: str) -> Any:
    """:raises VerificationError: this host cannot compute it."""
    try:
        return hashlib.new(algorithm, usedforsecurity=algorithm not in WEAK)
    except ValueError as error:
        raise VerificationError(
            f"this host cannot compute {algorithm}: {error}",
            hint="pass a checksum of another algorithm, such as sha256",
        ) from error


def in_background(hash_chunk: Callable[[Buffer], object]) -> Worker[Buffer]:
    """Hashes chunks while the next ones are received and written.

    hashlib releases the GIL, so hashing takes no extra time as long as it is faster than the
    source. Chunks must not be modified after they were added.
    """
    return Worker(hash_chunk, "imagebroker-hash", size=len, backlog=_BACKLOG, inline=_INLINE)


#: Digests of a kind that `hashlib` does not know, by the name that they have in the evidence.
ExtraDigests = Mapping[str, Callable[[], Hasher]]


class Checksums:
    """The checksums of one attempt: feed it the stored bytes, in order, then call `evidence`."""

    def __init__(
        self, required: Sequence[Checksum], extra: ExtraDigests | None = None,
        new: Callable[[str], Hasher] = new_hash,
    ) -> None:  # fmt: skip
        """`extra`: computed as well; nothing is compared with them. `new`: makes the others."""
        self._required = tuple(required)
        self._extra = {name: make() for name, make in (extra or {}).items()}
        algorithms = [c.algorithm for c in required] or [DEFAULT]
        self._hashers = {name: new(name) for name in dict.fromkeys(algorithms)}
        self._worker = in_background(self._update)
        self._hashed = 0
        self._snapshot_wanted = False
        self._snapshot: tuple[int, dict[str, str]] | None = None

    def feed(self, chunk: Buffer) -> None:
        """Hash it, soon."""
        self._worker.add(chunk)

    def _update(self, chunk: Buffer) -> None:
        for hasher in (*self._hashers.values(), *self._extra.values()):
            hasher.update(chunk)
        self._hashed += len(chunk)
        if self._snapshot_wanted:
            self._snapshot_wanted = False
            self._snapshot = self._hashed, self._hexdigests()

    def _hexdigests(self) -> dict[str, str]:
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items()}

    def snapshot(self) -> tuple[int, dict[str, str]] | None:
        """The number of bytes hashed recently, and their digests; never waits, and is None if
        nothing was hashed since the last call."""
        taken, self._snapshot = self._snapshot, None
        self._snapshot_wanted = True
        return taken

    def prefix(self) -> dict[str, str]:
        """Algorithm to hex digest of everything fed so far; feeding can continue."""
        self._worker.wait()
        return self._hexdigests()

    def evidence(self, ref: str) -> dict[str, Any]:
        """The computed digests, and the checksums that they were compared with.

        :raises ChecksumMismatch: a required digest differs.
        """
        computed = self.prefix()
        for checksum in self._required:
            got = computed[checksum.algorithm]
            if not hmac.compare_digest(got, checksum.digest):
                raise ChecksumMismatch(
                    f"{ref}: the {checksum} is {checksum.digest}, but the data has {got}",
                    hint="check that this is the right checksum for this image; nothing was stored",
                    algorithm=checksum.algorithm,
                    expected=checksum.digest,
                    computed=got,
                )
        computed |= {name: hasher.hexdigest() for name, hasher in self._extra.items()}
        return {**computed, "checked_against": tuple(map(str, self._required))}

    def close(self) -> None:
        self._worker.close()
