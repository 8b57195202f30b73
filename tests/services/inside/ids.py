"""Ids of images in the tests of services."""

from __future__ import annotations

import re
import uuid
from typing import Any

_WORD = re.compile(r"[\w. <>-]{1,80}")


class Ids:
    """Glance's ids are UUIDs; those of tests are anything. Here, each of these has a UUID."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def known(self, image_id: Any) -> Any:
        """The UUID of what a test calls an image; anything else as it is."""
        text = str(image_id)
        try:
            return str(uuid.UUID(text))
        except ValueError:
            if not _WORD.fullmatch(text):
                return image_id
        made = str(uuid.uuid5(uuid.NAMESPACE_OID, text))
        self._found[made] = image_id
        return made

    def original(self, ref: Any) -> Any:
        """What the test calls it."""
        return self.name(str(ref.id))

    def name(self, known: object) -> Any:
        """The same, for what may be no id."""
        return self._found.get(str(known), known)
