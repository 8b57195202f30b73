"""All checks of one image: the requirements as a value, and the checks that run over the bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from imagebroker.backends.backend import Buffer, Options
from imagebroker.exceptions import (
    ChecksumMismatch,
    ConfigError,
    FormatError,
    ImageBrokerError,
    InvalidImageRef,
)
from imagebroker.model.algorithms import STRONG
from imagebroker.model.image import Image
from imagebroker.model.upload_data import Hasher
from imagebroker.redaction import redact
from imagebroker.verify.checksum import Checksum, Checksums, ExtraDigests, new_hash
from imagebroker.verify.disk_format import VERIFIABLE, FormatCheck, FormatPolicy, inspect_file
from imagebroker.verify.pages import ENOUGH, PageCheck, check_no_page, hint_about
from imagebroker.verify.signature import Signature

#: Container formats that wrap a disk: the data does not have the declared disk format.
_WRAPPERS = frozenset({"ova", "docker", "compressed"})


@dataclass(frozen=True)
class Required:
    """All checks that the bytes of one image must pass. Each attempt begins with `start`."""

    ref: str
    checksums: tuple[Checksum, ...] = ()
    signature: Signature | None = None
    #: None: the content is not inspected.
    formats: FormatPolicy | None = None
    #: The `disk_format` that the content must have; None: any allowed one.
    declared: str | None = None
    #: The server may send a web page or other text instead of the image.
    may_be_page: bool = False
    #: The caller or a record has a digest of the bytes: if they are text, text is wanted.
    wanted: bool = False
    #: Digests that are computed as well, for others.
    extra_digests: ExtraDigests | None = None

    @property
    def covers_all(self) -> bool:
        """Whether a check covers all bytes: truncation and mixed versions would be detected."""
        return bool(self.checksums) or self.signature is not None

    @property
    def proves_all(self) -> bool:
        """Whether that also detects an attack: then bytes of several sources can be combined."""
        return self.signature is not None or any(c.algorithm in STRONG for c in self.checksums)

    def start(self, size: int | None, new: Callable[[str], Hasher] = new_hash) -> Checks:
        """New checks for `size` bytes (None: unknown); `new` makes the hash of an algorithm."""
        return Checks(self, size, new)

    def inspected(self, fd: int, size: int) -> dict[str, Any]:
        """The evidence about a complete file, from only the bytes that decide about its format.

        :raises FormatError: it is not an acceptable image. :raises OSError: it cannot be read.
        """
        with self.named():
            if self.may_be_page and not self.wanted:
                check_no_page(os.pread(fd, ENOUGH, 0), whole=size <= ENOUGH)
            if self.formats is None:
                return {}
            return inspect_file(fd, size, self.formats, self.declared)

    def without_formats(self) -> Required:
        """The same for content that `inspected` has checked already."""
        return replace(self, formats=None, may_be_page=False)

    def check_declared(self) -> None:
        """:raises FormatError: the declared format is never acceptable."""
        if self.formats is not None:
            with self.named():
                self.formats.check_declared(self.declared)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Adds the ref to the text of a FormatError, and to its hint how to turn the check off."""
        try:
            yield
        except FormatError as error:
            said = vars(error).copy()
            if self.formats is not None and self.formats.optional:
                hints = error.hint, "to accept it anyway, pass --no-check-format"
                said["hint"] = "; ".join(filter(None, hints))
            raise FormatError(f"{self.ref}: {error}", **said) from error


def format_policy(
    core: Options, allowed: Sequence[str] | None, *, optional: bool = False
) -> FormatPolicy | None:
    """The policy for the content; None: do not inspect it.

    `core`: the options in `[imagebroker]`; `allowed`: formats that the call allows instead;
    `optional`: whether the caller can turn the check off.

    :raises ConfigError, InvalidImageRef: a format is not one that can be verified.
    """
    configured = tuple(core.allowed_formats)
    _check_names(configured, ConfigError, "[imagebroker] allowed_formats")
    if allowed is not None:
        names = (allowed,) if isinstance(allowed, str) else tuple(allowed)
        _check_names(names or ("",), InvalidImageRef, "allowed_formats")
        return FormatPolicy(names, core.max_virtual_size)
    if configured or core.inspect_formats:
        return FormatPolicy(configured or None, core.max_virtual_size, optional)
    return None


def _check_names(names: Sequence[object], kind: type[ImageBrokerError], where: str) -> None:
    for name in names:
        if not isinstance(name, str) or name not in VERIFIABLE:
            raise kind(
                f"{where}: {redact(name, 40)!r} is not a format that can be verified",
                hint=f"use one or more of {', '.join(sorted(VERIFIABLE))}",
            )


def declared_format(image: Image) -> str | None:
    """The format that the data of an image must have, according to its record."""
    if image.container_format in _WRAPPERS:
        return "raw"  # an archive: it must not be a disk image itself
    return image.disk_format


class ContentCheck:
    """The content checks of one attempt: feed it the stored bytes, in order."""

    def __init__(self, required: Required, size: int | None) -> None:
        """:raises FormatError: the declared format is never acceptable."""
        self._required = required
        self._page = PageCheck(wanted=required.wanted) if required.may_be_page else None
        self._format: FormatCheck | None = None
        if required.formats is not None:
            with required.named():
                self._format = FormatCheck(required.formats, required.declared, size)

    def feed(self, chunk: Buffer) -> None:
        """:raises FormatError: the bytes so far show that the content is not acceptable."""
        with self._required.named():
            if self._page is not None:
                self._page.feed(chunk)
            if self._format is not None:
                self._format.feed(chunk)

    @property
    def unsettled(self) -> bool:
        """Whether the next bytes may show that this is a web page, not an image."""
        page = self._page
        return page is not None and not page.decided and not self._required.wanted

    @property
    def page(self) -> str | None:
        """The kind of text that the server sent instead of an image, if it did."""
        return None if self._page is None else self._page.found

    def evidence(self) -> dict[str, Any]:
        """Call it after the last byte. :raises FormatError: it is not an acceptable image."""
        with self._required.named():
            if self._page is not None:
                self._page.end()
            return {} if self._format is None else self._format.evidence()


def upload_check(
    image: Image, formats: FormatPolicy | None
) -> Callable[[int | None], ContentCheck] | None:
    """Checks for data to be stored as `image`: the same as in a download of it.

    :raises FormatError: the declared format is never acceptable.
    """
    if formats is None:
        return None
    required = Required("the data", formats=formats, declared=declared_format(image))
    required.check_declared()
    return partial(ContentCheck, required)


class Checks:
    """All checks of one attempt: feed it the stored bytes, in order, then call `evidence`."""

    def __init__(
        self, required: Required, size: int | None, new: Callable[[str], Hasher] = new_hash
    ) -> None:
        self._required = required
        self._content = ContentCheck(required, size)
        self._signature = required.signature.start() if required.signature is not None else None
        self._checksums = Checksums(required.checksums, required.extra_digests, new)

    def feed(self, chunk: Buffer) -> None:
        """:raises FormatError: the bytes so far show that the content is not acceptable."""
        self._content.feed(chunk)
        if self._signature is not None:
            self._signature.feed(chunk)
        self._checksums.feed(chunk)

    @property
    def unsettled(self) -> bool:
        """Whether the next bytes may show that this is a web page, not an image."""
        return self._content.unsettled

    def snapshot(self) -> tuple[int, dict[str, str]] | None:
        """The number of bytes hashed recently, and their digests; None at the first call."""
        return self._checksums.snapshot()

    def prefix(self) -> dict[str, str]:
        """Digests of everything fed so far; feeding can continue."""
        return self._checksums.prefix()

    def evidence(self) -> dict[str, Any]:
        """The evidence: digests, formats, and the checks that passed. Call it once.

        :raises VerificationError: a checksum, the signature or the format is wrong.
        """
        evidence = self._content.evidence()
        # Before the checksums: after a bad signature, no other location must be tried.
        if self._signature is not None:
            evidence |= self._signature.evidence()
        try:
            evidence |= self._checksums.evidence(self._required.ref)
        except ChecksumMismatch as error:
            if (found := self._content.page) is not None:
                error.hint = f"the server sent {found}: {hint_about(found)}"
            raise
        if self._signature is not None:
            evidence["checked_against"] += (f"signature {self._required.signature}",)
        return evidence

    def close(self) -> None:
        self._checksums.close()
        if self._signature is not None:
            self._signature.close()
