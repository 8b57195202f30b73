"""What oslo.utils' format inspector says: OpenStack's own knowledge of unsafe images.

Our readers are stricter; asking it too means that whatever its maintainers learn to recognise or
to refuse is refused here as soon as it is installed. It is imported when first asked: that takes
some 60 ms, and plain bytes do not need it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from imagebroker.exceptions import FormatError


def recognised(head: bytes) -> set[str]:
    """The formats it takes the beginning of the content for, in its own names."""
    found = set()
    for name, kind in _formats().items():
        if name == "raw":
            continue
        try:
            inspector = kind()
            inspector.eat_chunk(head)
            if inspector.format_match:
                found.add(name)
        except Exception:  # noqa: S112 - its way to say that this is another format
            continue
    return found


def require_safe(name: str, chunks: Iterable[bytes]) -> None:
    """:raises FormatError: it knows the format `name`, and does not call this one safe."""
    kind = _formats().get(name)
    if kind is None:
        return
    try:
        inspector = kind()
        for chunk in chunks:
            inspector.eat_chunk(chunk)
        inspector.finish()
        inspector.safety_check()
    except Exception as error:
        failed = ", ".join(getattr(error, "failures", ())) or type(error).__name__
        raise FormatError(
            f"the {name} is not safe: oslo.utils' inspector refuses it ({failed})",
            hint="convert the image with qemu-img on a host where you trust it",
            found=name,
        ) from error


def _formats() -> dict[str, Any]:
    from oslo_utils.imageutils import format_inspector

    return dict(format_inspector.ALL_FORMATS)
