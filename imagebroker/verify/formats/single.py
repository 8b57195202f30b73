"""Refuses content that is valid in two formats at once."""

from __future__ import annotations

from imagebroker.exceptions import FormatError
from imagebroker.verify.formats import second_opinion, signatures
from imagebroker.verify.formats.spans import HEAD, Piece, Reads, the_end, up_to

#: Short content is padded to the length that the checks expect.
_PADDING = b"\0"


def nothing_else(name: str) -> Reads[bytes]:
    """The head of an image of the format `name`, after a check for other formats in it.

    :raises FormatError: it is another format as well.
    """
    head = (yield from up_to(0, HEAD)).ljust(HEAD, _PADDING)
    others = signatures.at_the_start(head)
    if signatures.is_iso(head):
        others.add("iso")
    if signatures.has_boot_signature(head):
        others.add("gpt")
    others |= second_opinion.recognised(head)
    others.discard(name)
    if name == "iso":
        others.discard("gpt")  # an ISO that also boots from a USB stick
    if others:
        raise several(name, *others)
    return head


def nothing_behind(name: str) -> Reads[Piece]:
    """The end of an image of the format `name`. :raises FormatError: it has a VHD footer."""
    end = yield from the_end()
    check_no_footer(name, end)
    return end


def check_no_footer(name: str, end: Piece) -> None:
    """:raises FormatError: an image of the format `name` ends with a VHD footer."""
    if signatures.footer_of_vhd(end.data):
        raise several(name, "vhd")


def several(*names: str) -> FormatError:
    """The error for content with several formats."""
    shown = " and ".join(sorted(set(names)))
    return FormatError(
        f"the content is {shown} at once",
        hint="do not use it: different programs would see different disks",
        found=shown,
    )
