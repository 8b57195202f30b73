"""Clause C39: the fields of a record that a backend declares are stored."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

from imagebroker.exceptions import UnsupportedOperation
from imagebroker.model.image import SETTABLE, Image
from imagebroker.testing.clauses.records import RecordClauses
from imagebroker.testing.hooks import random_bytes

_NEW: Mapping[str, Any] = {
    "visibility": "private", "protected": True, "tags": ("kit-a", "kit-b"),
    "min_disk": 3, "min_ram": 64, "properties": {"kit_first": "1", "kit_second": "a b/ü"},
}  # fmt: skip
_CHANGES: Mapping[str, Any] = {
    "protected": False, "hidden": True, "tags": ("kit-c",), "min_disk": 0, "min_ram": 128,
    "properties": {"kit_first": "2", "kit_second": "a b/ü"},
}  # fmt: skip


class StoredFieldClauses(RecordClauses):
    """C39."""

    def test_c39_declared_fields_are_there_after_create(self) -> None:
        """What a user said about an image would be lost without a word."""
        self.needs_verb("create")
        fields = {name: value for name, value in _NEW.items() if name in self._declared()}
        fields |= self._given_always()
        image = self.stored(random_bytes(1000), **fields)
        self.addCleanup(self._unprotect, image)
        self._check_record("create", fields, image)

    def test_c39_declared_fields_are_there_after_update(self) -> None:
        """A change would be lost without a word."""
        self.needs_verb("create", "update")
        fields = {name: value for name, value in _CHANGES.items() if name in self._declared()}
        if "name" in self._declared():
            fields["name"] = f"kit-{uuid.uuid4().hex}"
        if not fields:
            self.skipTest("no declared field is one that the kit changes")
        image = self.stored(random_bytes(1000))
        self.backend.update(self.context, self.ref(image.ref), fields, None, False)
        self._check_record("update", fields, image)

    def test_c39_a_field_that_is_not_declared_is_refused_through_a_broker(self) -> None:
        """`imagebroker create --tag gold` would succeed and lose the tag."""
        self.needs_verb("create")
        lost = sorted(set(_NEW) - self._declared())
        if not lost:
            self.skipTest("every field is declared, or none: then all of them must be stored")
        broker = self.broker()
        for name in lost:
            info = {**self.image_fields(), name: _NEW[name]}
            create = partial(broker.create, self.context, info, b"data", backend=self.cls.name)
            error = self.error_of(f"create with {name}", create)
            if not isinstance(error, UnsupportedOperation):
                self.fail(f"create with {name}, which is not stored, raises {error!r}")

    def _declared(self) -> set[str]:
        fields = self.cls.record_fields
        return set(SETTABLE if fields is None else fields)

    def _given_always(self) -> dict[str, Any]:
        """The fields that every image of the kit has, if they are stored."""
        return {name: value for name, value in self.image_fields().items()
                if name in self._declared()}  # fmt: skip

    def _check_record(self, verb: str, fields: Mapping[str, Any], image: Image) -> None:
        record = self.backend.get(self.context, self.ref(image.ref))
        for name, value in fields.items():
            found = getattr(record, name)
            if name == "properties":
                found = {key: found.get(key) for key in value}
            if name == "tags":
                found, value = sorted(found or ()), sorted(value)
            if found != value:
                self.fail(
                    f"{verb} with {name}={value!r} is accepted, and the record has {found!r}; name "
                    "in record_fields what the backend stores"
                )

    def _unprotect(self, image: Image) -> None:
        with contextlib.suppress(Exception):
            self.backend.update(
                self.context, self.ref(image.ref), {"protected": False}, None, False
            )
