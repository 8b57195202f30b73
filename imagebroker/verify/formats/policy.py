"""Which formats are acceptable, and what agrees with what a record declares."""

from __future__ import annotations

from dataclasses import dataclass

from imagebroker.exceptions import FormatError
from imagebroker.redaction import redact

#: Names of `disk_format` whose content is a plain disk, or a part of one.
PLAIN = frozenset({"raw", "ami", "aki", "ari", "gpt", "mbr"})
#: Names of `disk_format` that can be verified.
VERIFIABLE = frozenset({*PLAIN, "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "luks"})


@dataclass(frozen=True)
class FormatPolicy:
    """What disk images this deployment, or one call, accepts."""

    #: Names of `disk_format`; None: every one that can be verified. `raw` covers a disk with a
    #: partition table and whatever is not recognised at all.
    allowed_formats: tuple[str, ...] | None = None
    #: Bytes of the disk that a guest would see.
    max_virtual_size: int = 64 * 1024**4
    #: Whether the caller may do without: refusals then say how.
    optional: bool = False

    def check_declared(self, declared: str | None) -> None:
        """Before any byte is there. :raises FormatError: no content could be acceptable."""
        if declared is None:
            return
        if declared not in VERIFIABLE:
            raise FormatError(
                f"the disk format {redact(declared, 40)!r} cannot be verified",
                hint=f"those that can are {', '.join(sorted(VERIFIABLE))}",
                declared=declared,
            )
        if self.allowed_formats is not None and not self.allows(_content(declared), declared):
            raise self._not_allowed(declared, declared)

    def check_found(self, found: str, declared: str | None) -> None:
        """:raises FormatError: the content is `found`, which is not what is declared or allowed."""
        if declared is not None and _content(declared) != found:
            raise FormatError(
                f"the content is {found}, and the image is declared as {declared}",
                hint="do not use it; correct disk_format if the content is what was meant",
                declared=declared,
                found=found,
            )
        if not self.allows(found, declared):
            raise self._not_allowed(found, declared)

    def allows(self, found: str, declared: str | None) -> bool:
        """Whether content of the format `found` may be had where `declared` is the record's."""
        if self.allowed_formats is None:
            return True
        if declared in self.allowed_formats or found in self.allowed_formats:
            return True
        return found == "raw" and not {"gpt", "mbr"}.isdisjoint(self.allowed_formats)

    def _not_allowed(self, found: str, declared: str | None) -> FormatError:
        allowed = ", ".join(self.allowed_formats or ()) or "none"
        return FormatError(
            f"the disk format {found} is not allowed here",
            hint=f"allowed_formats is {allowed}",
            declared=declared,
            found=found,
        )

    def check_virtual_size(self, size: int) -> None:
        """:raises FormatError: the disk inside is larger than allowed."""
        if size > self.max_virtual_size:
            raise FormatError(
                f"the disk has {size} bytes, more than the {self.max_virtual_size} allowed",
                hint="max_virtual_size sets the limit",
                virtual_size=size,
            )


def _content(name: str) -> str:
    """What the content of something declared as `name` has to be."""
    # ami, aki and ari do not stand for a format: any plain content agrees with them.
    return "raw" if name in PLAIN else name
