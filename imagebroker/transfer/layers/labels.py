"""Labels of cache entries: refs and names, shown when the cache is listed.

They are stored in an extended attribute of each entry, and decide nothing.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

from imagebroker.model.image import Image
from imagebroker.redaction import redact

_ATTRIBUTE = "user.imagebroker.labels"
#: Of each kind; the newest stay.
_MAX_LABELS = 8
_LONGEST = 200
#: Bytes that every file system has for an attribute.
_ROOM = 3500

Labels = tuple[tuple[str, ...], tuple[str, ...]]


def read(directory: int, name: str) -> Labels:
    """The refs and names of an entry; none where the file system has no extended attributes."""
    try:
        refs, names = json.loads(os.getxattr(_path(directory, name), _ATTRIBUTE))
        return tuple(map(str, refs)), tuple(map(str, names))
    except (OSError, ValueError, TypeError, RecursionError):
        return (), ()


def add(directory: int, name: str, image: Image | None) -> None:
    """Add those of an image with this content."""
    if image is None:
        return
    before = refs, names = read(directory, name)
    refs = _with(refs, image.ref.partition("?")[0])  # a query may sign it
    names = _with(names, image.name)
    text = json.dumps([refs, names]).encode()
    if (refs, names) != before and len(text) <= _ROOM:
        with suppress(OSError):
            os.setxattr(_path(directory, name), _ATTRIBUTE, text)


def _with(known: tuple[str, ...], new: str | None) -> tuple[str, ...]:
    shown = redact(new or "", _LONGEST)
    return known if not shown or shown in known else (*known[1 - _MAX_LABELS :], shown)


def _path(directory: int, name: str) -> str:
    return f"/proc/self/fd/{directory}/{name}"
