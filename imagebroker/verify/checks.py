"""All checks of one image: what must hold as a value, and running it over the stored bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from imagebroker.backend import Buffer, Options
from imagebroker.exceptions import ConfigError, FormatError, ImageBrokerError, InvalidImageRef
from imagebroker.image import Image
from imagebroker.redaction import redact
from imagebroker.verify.checksum import STRONG, Checksum, Checksums
from imagebroker.verify.disk_format import VERIFIABLE, FormatCheck, FormatPolicy, inspect_file
from imagebroker.verify.signature import Signature

#: Containers that wrap a disk: the bytes are not of the format that the record declares.
_WRAPPERS = frozenset({"ova", "docker", "compressed"})


@dataclass(frozen=True)
class Required:
    """What must hold for the bytes of one image. Each attempt begins with `start`."""

    ref: str
    checksums: tuple[Checksum, ...] = ()
    signature: Signature | None = None
    #: None: nobody looks at the content.
    formats: FormatPolicy | None = None
    #: The `disk_format` that the content must have; None: any that is allowed.
    declared: str | None = None

    @property
    def covers_all(self) -> bool:
        """Whether something proves the bytes as a whole: a cut or a splice would be found."""
        return bool(self.checksums) or self.signature is not None

    @property
    def proves_all(self) -> bool:
        """Whether it would be found too if somebody meant to deceive: bytes of several places may
        be put together."""
        return self.signature is not None or any(c.algorithm in STRONG for c in self.checksums)

    def start(self, size: int | None) -> Checks:
        """Checks for `size` bytes (None: unknown), fed with nothing yet."""
        return Checks(self, size)

    def inspected(self, fd: int, size: int) -> dict[str, Any]:
        """What is known about a whole file from its decisive bytes alone.

        :raises FormatError: it is no acceptable image. :raises OSError: it cannot be read.
        """
        if self.formats is None:
            return {}
        with _named(self.ref):
            return inspect_file(fd, size, self.formats, self.declared)

    def without_formats(self) -> Required:
        """The same, for what `inspected` has seen already."""
        return replace(self, formats=None)


def format_policy(core: Options, allowed: Sequence[str] | None) -> FormatPolicy | None:
    """What the content may be; None where nobody is to look.

    `core`: the options in `[imagebroker]`; `allowed`: formats that a call allows instead.

    :raises ConfigError, InvalidImageRef: a format is none that could be verified.
    """
    configured = tuple(core.allowed_formats)
    _check_names(configured, ConfigError, "[imagebroker] allowed_formats")
    if allowed is not None:
        names = (allowed,) if isinstance(allowed, str) else tuple(allowed)
        _check_names(names or ("",), InvalidImageRef, "allowed_formats")
        return FormatPolicy(names, core.max_virtual_size)
    if configured or core.inspect_formats:
        return FormatPolicy(configured or None, core.max_virtual_size)
    return None


def _check_names(names: Sequence[object], kind: type[ImageBrokerError], where: str) -> None:
    for name in names:
        if not isinstance(name, str) or name not in VERIFIABLE:
            raise kind(
                f"{where}: {redact(name, 40)!r} is no format that can be verified",
                hint=f"name some of {', '.join(sorted(VERIFIABLE))}",
            )


def declared_format(image: Image) -> str | None:
    """What the bytes of an image have to be, according to its record."""
    if image.container_format in _WRAPPERS:
        return "raw"  # an archive: were it an image by itself, somebody lied
    return image.disk_format


class Checks:
    """The checks of one attempt: feed it what is stored, in order; `evidence` passes judgement."""

    def __init__(self, required: Required, size: int | None) -> None:
        self._required = required
        self._format: FormatCheck | None = None
        if required.formats is not None:
            with _named(required.ref):
                self._format = FormatCheck(required.formats, required.declared, size)
        self._signature = required.signature.start() if required.signature is not None else None
        self._checksums = Checksums(required.checksums)

    def feed(self, chunk: Buffer) -> None:
        """:raises FormatError: the bytes so far are enough to refuse the content."""
        if self._format is not None:
            with _named(self._required.ref):
                self._format.feed(chunk)
        if self._signature is not None:
            self._signature.feed(chunk)
        self._checksums.feed(chunk)

    def snapshot(self) -> tuple[int, dict[str, str]] | None:
        """How many bytes were hashed a moment ago, and their digests; None if nobody asked."""
        return self._checksums.snapshot()

    def prefix(self) -> dict[str, str]:
        """Digests of what was fed until now; feeding may go on."""
        return self._checksums.prefix()

    def evidence(self) -> dict[str, Any]:
        """What was computed, and against what it was checked. To be asked for once.

        :raises VerificationError: a checksum, the signature or the format is not as it must be.
        """
        evidence: dict[str, Any] = {}
        if self._format is not None:
            with _named(self._required.ref):
                evidence |= self._format.evidence()
        # Before the checksums: where both are wrong, no other location may be tried.
        if self._signature is not None:
            evidence |= self._signature.evidence()
        evidence |= self._checksums.evidence(self._required.ref)
        if self._signature is not None:
            evidence["checked_against"] += (f"signature {self._required.signature}",)
        return evidence

    def close(self) -> None:
        self._checksums.close()
        if self._signature is not None:
            self._signature.close()


@contextmanager
def _named(ref: str) -> Iterator[None]:
    """Whoever judges the content does not know whose it is."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{ref}: {error}", **vars(error)) from error
