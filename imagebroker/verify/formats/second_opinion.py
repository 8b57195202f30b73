"""The result of oslo.utils' format inspector: OpenStack's own check for unsafe images.

Our readers are stricter. Using it as well means that everything its maintainers learn to recognise
or refuse is refused here, too, once it is installed. It is imported at first use: that takes some
60 ms, and plain disks do not need it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from imagebroker.exceptions import FormatError


def recognised(head: bytes) -> set[str]:
    """The formats that it recognises at the beginning of the content, by its own names."""
    found = set()
    for name, kind in _formats().items():
        if name == "raw":
            continue
        try:
            inspector = kind()
            inspector.eat_chunk(head)
            if inspector.format_match:
                found.add(name)
        except Exception:  # noqa: S112 - how it reports another format
            continue
    return found


def require_safe(name: str, chunks: Iterable[bytes]) -> None:
    """:raises FormatError: it knows the format `name`, and considers this image unsafe."""
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
            hint="if you trust the image, convert it with qemu-img",
            found=name,
        ) from error


def _formats() -> dict[str, Any]:
    try:
        from oslo_utils.imageutils import format_inspector
    except ImportError as error:
        raise FormatError(
            f"oslo.utils' inspector of images cannot be imported: {error}",
            hint="pip install 'oslo.utils[image-inspection]'",
        ) from error
    return dict(format_inspector.ALL_FORMATS)
