"""A broker whose images are in memory, for the unit tests of services."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from imagebroker.backends.backend import ImageBackend
from imagebroker.config.settings import Settings
from imagebroker.model.image import Image
from imagebroker.model.reference import ImageRef, RefForm, parse
from imagebroker.testing.fakes.fixed_registry import FixedBroker, make_config
from imagebroker.testing.fakes.memory import MemoryBackend, Shelf, Stored, key_of, with_data

#: Which refs each name has, for the schemes of the same name and those beside it.
FORMS: Mapping[str, tuple[RefForm, tuple[str, ...]]] = {
    "file": (RefForm(id=True, path=True), ()),
    "glance": (RefForm(id=True), ()),
    "http": (RefForm(host=True, port=True, path=True, query=True, opaque_path=True), ("https",)),
    "scp": (RefForm(user=True, host=True, port=True, path=True), ()),
}


class FakeBroker(FixedBroker):
    """The real broker in all but its backends: every image is in memory, nothing is configured.

    ::

        broker = FakeBroker()
        image = broker.add(b"the bytes of an image", name="cirros")
        broker.add(b"others", "https://example.org/x.qcow2")
        broker.fail("https://example.org/x.qcow2", TransferError("cut"), after=3)
        service_under_test(broker)

    Bare ids belong to `glance`. Retries, checks, destinations, progress and errors are those of the
    real one.
    """

    def __init__(self, forms: Mapping[str, RefForm] | None = None, **core: Any) -> None:
        """`forms`: further schemes and their refs. `core`: options of `[imagebroker]`."""
        known = {**FORMS, **{name: (form, ()) for name, form in (forms or {}).items()}}
        self.shelf = Shelf()
        classes: dict[str, type[ImageBackend]] = {}
        for name, (form, further) in known.items():
            attributes = {"name": name, "ref_form": form, "api_version": 1, "shelf": self.shelf}
            cls = type(f"Fake{name.title()}", (MemoryBackend,), attributes)
            classes |= dict.fromkeys((name, *further), cls)
        values = {"default_backend": "glance", "retry_backoff": 0, "fsync": False, **core}
        super().__init__(Settings(make_config(classes, values, {})), classes)

    def add(self, data: bytes | None, ref: str | None = None, **fields: Any) -> Image:
        """Add an image with these bytes, at `ref` or with a new id in `glance`; return its record.

        `fields` are those of `Image`; None for `data` makes a record that has no bytes yet.
        """
        parsed = self.resolve(ref or f"glance:{fields.pop('id', None) or uuid.uuid4()}").ref
        common: dict[str, Any] = {"status": "queued", "created_at": datetime.now(UTC)}
        image = Image(ref=parsed.text, id=parsed.id, **{**common, **fields})
        stored = with_data(image, data)
        if "status" in fields:
            stored = replace(stored, status=fields["status"])
        self.shelf.put(key_of(parsed), Stored(stored, data))
        return stored

    def fail(self, ref: str | ImageRef, error: Exception, after: int | None = None) -> None:
        """Let the next opening of an image fail, or the next reading of it after so many bytes."""
        stored = self.shelf.find(key_of(self.resolve(parse(ref)).ref))
        if after is None:
            stored.open_error = error
        else:
            stored.breaks = after, error

    def data(self, ref: str | ImageRef) -> bytes | None:
        """The bytes of an image."""
        return self.shelf.find(key_of(self.resolve(parse(ref)).ref)).data
