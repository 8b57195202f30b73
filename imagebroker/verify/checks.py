"""All checks of one image: what must hold as a value, and running it over the stored bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
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
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.verify.checksum import STRONG, Checksum, Checksums
from imagebroker.verify.disk_format import VERIFIABLE, FormatCheck, FormatPolicy, inspect_file
from imagebroker.verify.pages import ENOUGH, PageCheck, check_no_page, hint_about
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
    #: Whoever sends the bytes may send a web page or another text in their place.
    may_be_page: bool = False
    #: The caller or a record has said which bytes they are: if that is text, then it is wanted.
    wanted: bool = False

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
        with self.named():
            if self.may_be_page and not self.wanted:
                check_no_page(os.pread(fd, ENOUGH, 0), whole=size <= ENOUGH)
            if self.formats is None:
                return {}
            return inspect_file(fd, size, self.formats, self.declared)

    def without_formats(self) -> Required:
        """The same, for what `inspected` has seen already."""
        return replace(self, formats=None, may_be_page=False)

    def check_declared(self) -> None:
        """:raises FormatError: no content could be what is declared, and acceptable."""
        if self.formats is not None:
            with self.named():
                self.formats.check_declared(self.declared)

    def named(self) -> AbstractContextManager[None]:
        """Whoever judges the content does not know whose it is, nor who may do without."""
        return named(self.ref, self.formats)


def format_policy(
    core: Options, allowed: Sequence[str] | None, *, optional: bool = False
) -> FormatPolicy | None:
    """What the content may be; None where nobody is to look.

    `core`: the options in `[imagebroker]`; `allowed`: formats that a call allows instead;
    `optional`: whether the call could do without.

    :raises ConfigError, InvalidImageRef: a format is none that could be verified.
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
                f"{where}: {redact(name, 40)!r} is no format that can be verified",
                hint=f"name some of {', '.join(sorted(VERIFIABLE))}",
            )


def declared_format(image: Image) -> str | None:
    """What the bytes of an image have to be, according to its record."""
    if image.container_format in _WRAPPERS:
        return "raw"  # an archive: were it an image by itself, somebody lied
    return image.disk_format


class ContentCheck:
    """What the content of one attempt is: feed it what is stored, in order."""

    def __init__(self, required: Required, size: int | None) -> None:
        """:raises FormatError: nothing that is declared like this would be acceptable."""
        self._required = required
        self._page = PageCheck() if required.may_be_page else None
        self._format: FormatCheck | None = None
        if required.formats is not None:
            with required.named():
                self._format = FormatCheck(required.formats, required.declared, size)

    def feed(self, chunk: Buffer) -> None:
        """:raises FormatError: the bytes so far are enough to refuse the content."""
        with self._required.named():
            if self._page is not None:
                self._page.feed(chunk)
                self._check_page(self._page)
            if self._format is not None:
                self._format.feed(chunk)

    def _check_page(self, page: PageCheck) -> None:
        if not self._required.wanted:
            page.check()

    @property
    def unsettled(self) -> bool:
        """Whether the next bytes may show that none of them belong to an image."""
        page = self._page
        return page is not None and not page.decided and not self._required.wanted

    @property
    def page(self) -> str | None:
        """What was sent in place of an image, if it looks so."""
        return None if self._page is None else self._page.found

    def evidence(self) -> dict[str, Any]:
        """After the last byte. :raises FormatError: it is no acceptable image."""
        with self._required.named():
            if self._page is not None:
                self._page.end()
                self._check_page(self._page)
            return {} if self._format is None else self._format.evidence()


def upload_check(
    image: Image, formats: FormatPolicy | None
) -> Callable[[int | None], ContentCheck] | None:
    """What judges the data that is to be stored as `image`, as a download of it would be judged.

    :raises FormatError: no data could be what is declared.
    """
    if formats is None:
        return None
    required = Required("the data", formats=formats, declared=declared_format(image))
    required.check_declared()
    return partial(ContentCheck, required)


class Checks:
    """The checks of one attempt: feed it what is stored, in order; `evidence` passes judgement."""

    def __init__(self, required: Required, size: int | None) -> None:
        self._required = required
        self._content = ContentCheck(required, size)
        self._signature = required.signature.start() if required.signature is not None else None
        self._checksums = Checksums(required.checksums)

    def feed(self, chunk: Buffer) -> None:
        """:raises FormatError: the bytes so far are enough to refuse the content."""
        self._content.feed(chunk)
        if self._signature is not None:
            self._signature.feed(chunk)
        self._checksums.feed(chunk)

    @property
    def unsettled(self) -> bool:
        """Whether the next bytes may show that none of them belong to an image."""
        return self._content.unsettled

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
        evidence = self._content.evidence()
        # Before the checksums: where both are wrong, no other location may be tried.
        if self._signature is not None:
            evidence |= self._signature.evidence()
        evidence |= self._checked_digests()
        if self._signature is not None:
            evidence["checked_against"] += (f"signature {self._required.signature}",)
        return evidence

    def _checked_digests(self) -> dict[str, Any]:
        try:
            return self._checksums.evidence(self._required.ref)
        except ChecksumMismatch as error:
            if (found := self._content.page) is not None:
                error.hint = f"the server sent {found}: {hint_about(found)}"
            raise

    def close(self) -> None:
        self._checksums.close()
        if self._signature is not None:
            self._signature.close()


@contextmanager
def named(subject: str, policy: FormatPolicy | None) -> Iterator[None]:
    """Errors say what they are about, and how to do without the check where the caller may."""
    try:
        yield
    except FormatError as error:
        said = vars(error).copy()
        if policy is not None and policy.optional:
            hints = error.hint, "if that is what you want: --no-check-format"
            said["hint"] = "; ".join(filter(None, hints))
        raise FormatError(f"{subject}: {error}", **said) from error
