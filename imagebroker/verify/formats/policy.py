"""Which formats are acceptable, and which match the declared one."""

from __future__ import annotations

from dataclasses import dataclass

from imagebroker.exceptions import FormatError
from imagebroker.redaction import redact

#: Names of `disk_format` whose content is a plain disk, or part of one.
PLAIN = frozenset({"raw", "ami", "aki", "ari", "gpt", "mbr"})
#: Names of `disk_format` that can be verified.
VERIFIABLE = frozenset({*PLAIN, "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "luks"})


@dataclass(frozen=True)
class FormatPolicy:
    """The disk images that this deployment, or one call, accepts."""

    #: Names of `disk_format`; None: all that can be verified. `raw` includes disks with a
    #: partition table, and everything that is not recognised.
    allowed_formats: tuple[str, ...] | None = None
    #: Maximum size in bytes of the disk that a guest sees.
    max_virtual_size: int = 64 * 1024**4
    #: Whether the caller can turn the check off: errors then say how.
    optional: bool = False

    def check_declared(self, declared: str | None) -> None:
        """Check before the first byte. :raises FormatError: no content would be acceptable."""
        if declared is None:
            return
        if declared not in VERIFIABLE:
            raise FormatError(
                f"the disk format {redact(declared, 40)!r} cannot be verified",
                hint=f"use one of {', '.join(sorted(VERIFIABLE))}",
                declared=declared,
            )
        if self.allowed_formats is not None and not self.allows(_content(declared), declared):
            raise self._not_allowed(declared, declared)

    def check_found(self, found: str, declared: str | None) -> None:
        """:raises FormatError: the format `found` is not the declared one, or not allowed."""
        if declared is not None and _content(declared) != found:
            raise FormatError(
                f"the content is {found}, but the image is declared as {declared}",
                hint="do not use it; if the content is right, correct the image's disk_format",
                declared=declared,
                found=found,
            )
        if not self.allows(found, declared):
            raise self._not_allowed(found, declared)

    def allows(self, found: str, declared: str | None) -> bool:
        """Whether content of the format `found`, declared as `declared`, is allowed."""
        if self.allowed_formats is None:
            return True
        if declared in self.allowed_formats or found in self.allowed_formats:
            return True
        return found == "raw" and not {"gpt", "mbr"}.isdisjoint(self.allowed_formats)

    def _not_allowed(self, found: str, declared: str | None) -> FormatError:
        allowed = ", ".join(self.allowed_formats or ()) or "none"
        return FormatError(
            f"the disk format {found} is not allowed",
            hint=f"use one of the allowed formats, or extend allowed_formats (now: {allowed})",
            declared=declared,
            found=found,
        )

    def check_virtual_size(self, size: int) -> None:
        """:raises FormatError: the virtual disk is larger than allowed."""
        if size > self.max_virtual_size:
            raise FormatError(
                f"the virtual disk has {size} bytes, more than the {self.max_virtual_size} allowed",
                hint="to allow it, raise max_virtual_size",
                virtual_size=size,
            )


def _content(name: str) -> str:
    """The format that content declared as `name` must have."""
    # ami, aki and ari are not formats: any plain content matches them.
    return "raw" if name in PLAIN else name
