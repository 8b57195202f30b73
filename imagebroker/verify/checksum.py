"""Checksums: which are required of a transfer, and computing them behind the writes."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
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
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.verify.behind import Behind

#: Algorithms that prove content, with the hex digits of their digests.
STRONG = {
    "sha512": 128, "sha256": 64, "sha384": 96, "sha3_512": 128, "sha3_256": 64, "blake2b": 128,
}  # fmt: skip
#: Algorithms that prove nothing against an attacker (CVE-2015-8234).
WEAK = {"md5": 32, "sha1": 40}
#: What is computed where nothing is required.
DEFAULT = "sha256"


_URL = re.compile(r"([a-z][a-z0-9+.-]{0,31})://")


def is_url(checksum: object) -> bool:
    """Whether a caller's `checksum` is the URL of such a file, and no digest."""
    match = _URL.match(checksum) if isinstance(checksum, str) else None
    return match is not None and match[1] not in (*STRONG, *WEAK)


@dataclass(frozen=True)
class Checksum:
    """A digest that the stored bytes must have, and who demands it."""

    algorithm: str
    digest: str
    origin: str

    def __str__(self) -> str:
        return f"{self.algorithm} of {self.origin}"


def parse_checksum(text: object, *, allow_weak: bool = False) -> Checksum:
    """The caller's `"sha256:<hex>"`.

    :raises InvalidImageRef: malformed, or an unknown algorithm.
    :raises PolicyViolation: md5 or sha1, where the deployment does not allow it.
    """
    match = (
        re.fullmatch(r"([a-z0-9_]{1,16}):([0-9a-fA-F]{1,256})", text)
        if isinstance(text, str)
        else None
    )
    digits = {**STRONG, **WEAK}.get(match[1]) if match else None
    if match is None or digits != len(match[2]):
        raise InvalidImageRef(
            f"{redact(text, 160)!r} is not a checksum",
            hint=f"write ALGORITHM:HEX with one of {', '.join(STRONG)}, such as sha256:<64 digits>",
        )
    if match[1] in WEAK and not allow_weak:
        raise PolicyViolation(
            f"the checksum is {match[1]}, which proves nothing",
            hint="pass sha256 or sha512, or set allow_md5 in [imagebroker]",
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
    """All that must hold: what the caller and the ref demand, and what the record promises.

    `served`: what the record's checksums are, where they come with the bytes from whoever sends
    them. They must hold, and satisfy no requirement.

    :raises ChecksumMissing: `require`, and there is nothing strong.
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
            hint="give the digest with --checksum, or take the image without one: "
            "--no-require-checksum, or require_checksum = false where the config file requires it",
        )
    for checksum in found:
        _new(checksum.algorithm)  # an algorithm that this host lacks must fail before any byte
    return tuple(dict.fromkeys(found))


def _of_record(image: Image, *, strict: bool) -> Checksum | None:
    """The record's best digest: a strong one before md5, whatever md5 says."""
    named = {name: value for name, value in image.checksums.items() if name not in WEAK}
    for algorithm in STRONG:
        if algorithm in named:
            return _checked(image, algorithm, named[algorithm])
    if named and strict:
        raise VerificationError(
            f"the record of {image.ref} has a checksum of the unknown kind "
            f"{redact(next(iter(named)), 40)!r}",
            hint="correct the record, or give the digest with --checksum",
        )
    for algorithm in WEAK:
        if image.checksums.get(algorithm):
            return _checked(image, algorithm, image.checksums[algorithm])
    return None


def _checked(image: Image, algorithm: str, digest: Any) -> Checksum:
    digits = {**STRONG, **WEAK}[algorithm]
    if not isinstance(digest, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", digest):
        raise VerificationError(
            f"the {algorithm} in the record of {image.ref} is {redact(digest, 40)!r}, "
            f"not {digits} hex digits",
            hint="correct the record",
        )
    return Checksum(algorithm, digest.lower(), "the record")


def _new(algorithm: str) -> Any:
    try:
        return hashlib.new(algorithm, usedforsecurity=algorithm not in WEAK)
    except ValueError as error:
        raise VerificationError(
            f"this host cannot compute {algorithm}: {error}",
            hint="pass a checksum of another algorithm, such as sha256",
        ) from error


class Digests:
    """Computes digests of bytes fed in order, behind the writes.

    Fed chunks must not be modified afterwards.
    """

    def __init__(self, algorithms: Sequence[str]) -> None:
        self._hashers = {name: _new(name) for name in dict.fromkeys(algorithms)}
        self._behind = Behind(self._update)
        self._hashed = 0
        self._snapshot_wanted = False
        self._snapshot: tuple[int, dict[str, str]] | None = None

    def feed(self, chunk: Buffer) -> None:
        self._behind.feed(chunk)

    def _update(self, chunk: Buffer) -> None:
        for hasher in self._hashers.values():
            hasher.update(chunk)
        self._hashed += len(chunk)
        if self._snapshot_wanted:
            self._snapshot_wanted = False
            self._snapshot = self._hashed, self._hexdigests()

    def _hexdigests(self) -> dict[str, str]:
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items()}

    def snapshot(self) -> tuple[int, dict[str, str]] | None:
        """Bytes hashed when this was last asked, and their digests; never waits for the thread."""
        taken, self._snapshot = self._snapshot, None
        self._snapshot_wanted = True
        return taken

    def values(self) -> dict[str, str]:
        """Algorithm to hex digest of all that was fed so far."""
        self._behind.wait()
        return self._hexdigests()

    def close(self) -> None:
        """End the thread; what is still waiting is not hashed."""
        self._behind.close()


class Checksums:
    """The checks of one attempt: feed it what is stored, in order; `evidence` passes judgement."""

    def __init__(self, required: Sequence[Checksum]) -> None:
        self._required = tuple(required)
        self._digests = Digests([c.algorithm for c in required] or [DEFAULT])

    def feed(self, chunk: Buffer) -> None:
        self._digests.feed(chunk)

    def snapshot(self) -> tuple[int, dict[str, str]] | None:
        """How many bytes were hashed a moment ago, and their digests; None if nobody asked."""
        return self._digests.snapshot()

    def prefix(self) -> dict[str, str]:
        """Digests of what was fed until now; feeding may go on."""
        return self._digests.values()

    def evidence(self, ref: str) -> dict[str, Any]:
        """What was computed, and against what it was checked.

        :raises ChecksumMismatch: a required digest differs.
        """
        computed = self._digests.values()
        for checksum in self._required:
            got = computed[checksum.algorithm]
            if not hmac.compare_digest(got, checksum.digest):
                raise ChecksumMismatch(
                    f"{ref}: the {checksum} is {checksum.digest}, and the bytes have {got}",
                    hint="the image is damaged, or not the one that was meant; nothing was stored",
                    algorithm=checksum.algorithm,
                    expected=checksum.digest,
                    computed=got,
                )
        return {**computed, "checked_against": tuple(str(c) for c in self._required)}

    def close(self) -> None:
        self._digests.close()
