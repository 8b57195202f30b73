"""Clauses C19 to C24: records, and images that are stored, changed and removed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from imagebroker.backends.backend import ImageBackend
from imagebroker.exceptions import ImageBrokerError, ImageNotFound, UnsupportedOperation
from imagebroker.model.image import ACTIVE, Image, ImageQuery
from imagebroker.model.upload_data import ImageData
from imagebroker.testing.clauses.fault_injection import FaultInjection
from imagebroker.testing.faults.tcp_proxy import Fault
from imagebroker.testing.hooks import random_bytes

_SIZE = 200_000


class SourceBroke(Exception):
    """What the kit's own data raises."""


class _CountedData(ImageData):
    """Knows how often it was begun."""

    begun = 0

    def __iter__(self) -> Iterator[bytes]:
        self.begun += 1
        return super().__iter__()


class RecordClauses(FaultInjection):
    """C19 and C20."""

    def test_c19_get_says_what_open_says(self) -> None:
        """A service would plan with one size and get another."""
        data = random_bytes(10_000)
        ref = self.publish(data)
        opened = self.open(ref).image
        for flags in ({}, {"include_locations": True}, {"show_deleted": True}):
            record = self.in_time(
                "get", partial(self.backend.get, self.context, self.ref(ref), **flags)
            )
            if not isinstance(record, Image):
                self.fail(f"get returned {type(record).__name__}, not an Image")
            self.assertEqual(
                (opened.ref, opened.size, opened.version, dict(opened.checksums)),
                (record.ref, record.size, record.version, dict(record.checksums)),
                f"get({flags}) and open differ",
            )

    def test_c19_get_of_a_missing_image_is_not_found(self) -> None:
        """A service could not tell a wrong name from a broken server."""
        ref = self.ref(self.missing_ref())
        error = self.error_of("get", lambda: self.backend.get(self.context, ref))
        if not isinstance(error, ImageNotFound):
            self.fail(f"get of a missing image raises {type(error).__name__}: {error}")

    def test_c20_lists_hold_images_that_can_be_opened(self) -> None:
        """A user would be shown images that are not there, or the same one twice."""
        self.needs_verb("get_all")
        with contextlib.suppress(ImageBrokerError):  # lists what is there already
            self.stored(random_bytes(1000))
        listed = self.listed(limit=5)
        refs = [image.ref for image in listed]
        if len(set(refs)) != len(refs):
            self.fail(f"get_all yields an image twice: {refs}")
        for image in listed:
            if image.status not in (None, ACTIVE) or image.hidden:
                self.fail(f"get_all yields {image.ref}, which is {image.status} or hidden")
            self.broker(image.ref).resolve(image.ref)
        for limit in (0, 1):
            if len(found := self.listed(limit=limit)) > limit:
                self.fail(f"get_all yields {len(found)} images with limit={limit}")

    def listed(self, **query: Any) -> list[Image]:
        """What `get_all` yields."""
        images = self.in_time(
            "get_all", lambda: list(self.backend.get_all(self.context, ImageQuery(**query)))
        )
        for image in images:
            if not isinstance(image, Image):
                self.fail(f"get_all yields {type(image).__name__}, not an Image")
        return images

    def needs_verb(self, *verbs: str) -> None:
        """Skip the test unless the class overrides these methods."""
        for verb in verbs:
            if getattr(self.cls, verb) is getattr(ImageBackend, verb):
                self.skipTest(f"the backend has no {verb}")

    def stored(self, data: Any, backend: ImageBackend | None = None, **fields: Any) -> Image:
        """A new image with these bytes, removed at the end of the test."""
        given = {**self.image_fields(), **fields}
        size = given.pop("size", None)
        upload = data if isinstance(data, ImageData) else ImageData(data, size)
        who = backend or self.backend
        if size is not None:
            given["size"] = size
        image = Image(ref=who.host.ref(""), **given)
        stored = self.in_time("create", lambda: who.create(self.context, image, upload))
        if isinstance(stored, Image):
            self.addCleanup(self._remove, stored)
        return stored

    def _remove(self, image: Image) -> None:
        with contextlib.suppress(Exception):
            self.backend.delete(self.context, self.ref(image.ref))

    def is_there(self, name: str) -> bool:
        """Whether a list has an image of this name, in any state."""
        return any(image.name == name for image in self._all_states())

    def _all_states(self) -> list[Image]:
        found = self.listed()
        for status in ("queued", "saving"):
            with contextlib.suppress(ImageBrokerError):
                found += self.listed(filters={"status": status})
        return found


class UploadClauses(RecordClauses):
    """C21 to C24."""

    def test_c21_what_is_created_can_be_read(self) -> None:
        """A user's upload would be lost or damaged."""
        self.needs_verb("create")
        for data, size in ((random_bytes(_SIZE), None), (random_bytes(_SIZE + 1), _SIZE + 1)):
            image = self.stored(data, size=size)
            self._check_stored(image, data)

    def test_c21_data_of_unknown_size_can_be_stored(self) -> None:
        """Nothing could be copied from a source that does not say how much it sends."""
        self.needs_verb("create")
        data = random_bytes(_SIZE)
        image = self.stored(ImageData(iter([data[:1000], b"", data[1000:]])))
        self._check_stored(image, data)

    def _check_stored(self, image: Image, data: bytes) -> None:
        if not isinstance(image, Image):
            self.fail(f"create returned {type(image).__name__}, not an Image")
        if image.size not in (None, len(data)):
            self.fail(f"create of {len(data)} bytes returned the size {image.size}")
        for algorithm, digest in image.checksums.items():
            right = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
            self.assertEqual(right, digest, f"the {algorithm} of the stored record")
        with self.opened(image.ref) as source:
            self.assert_same(self.bytes_of(source), data, "what was stored")

    def test_c21_through_a_broker_what_is_created_can_be_read(self) -> None:
        """`imagebroker create` would fail."""
        self.needs_verb("create")
        data = random_bytes(_SIZE)
        broker = self.broker()
        for source in (data, iter([data])):
            image = broker.create(self.context, self.image_fields(), source, backend=self.cls.name)
            self.addCleanup(self._remove, image)
            with broker.open(self.context, image.ref) as reader:
                self.assert_same(b"".join(reader), data, "what a broker stored")

    def test_c21_an_id_is_used_once(self) -> None:
        """One user's upload would replace another's image."""
        self.needs_verb("create")
        if not self.cls.ref_form.id:
            self.skipTest("the backend has no ids")
        first = self.stored(b"the first")
        try:
            self.stored(b"the second", id=first.id)
        except ImageBrokerError:
            pass
        else:
            self.fail(f"the id {first.id} was given to two images")
        with self.opened(first.ref) as source:
            self.assert_same(self.bytes_of(source), b"the first", "the first of two")

    def test_c21_a_source_that_fails_leaves_no_record(self) -> None:
        """Lists would fill with images that have no or half of their bytes."""
        self.needs_verb("create", "get_all")
        data = random_bytes(_SIZE)

        def broken(size: int) -> Iterator[bytes]:
            yield data[:size]
            raise SourceBroke(f"after {size} bytes")

        for size in (0, _SIZE // 2, _SIZE):
            fields = self.image_fields()
            upload = ImageData(broken(size))
            error = self.error_of("create", partial(self.stored, upload, **fields))
            if upload.failure is None:
                self.fail(f"create raised {type(error).__name__} and did not read the data")
            if self.is_there(fields["name"]):
                self.fail(f"a source that failed after {size} of {_SIZE} bytes left a record")

    def test_c21_data_that_is_not_what_was_announced_leaves_no_record(self) -> None:
        """An upload that was cut would be an image."""
        self.needs_verb("create", "get_all")
        data = random_bytes(_SIZE)
        for size in (_SIZE - 1000, _SIZE + 1000):
            fields = self.image_fields()
            upload = ImageData(iter([data]), size)
            self.error_of(
                f"create of {_SIZE} bytes, announced as {size},",
                partial(self.stored, upload, **fields),
            )
            if self.is_there(fields["name"]):
                self.fail(f"{_SIZE} bytes that were announced as {size} left a record")

    def test_c22_what_cannot_be_rewound_is_sent_once(self) -> None:
        """The rest of a half-sent image would be stored as the whole."""
        self.needs_verb("create")
        data = random_bytes(4 * _SIZE)
        self.needs_network(self.publish(b"on the wire"), b"on the wire")
        backend = self.backend_with_fault(Fault(cut_after=2 * _SIZE, upload=True))
        upload = _CountedData(data[at : at + 1000] for at in range(0, len(data), 1000))
        fields = self.image_fields()
        error: Exception | None = None
        try:
            self.stored(upload, backend, **fields)
        except self.failureException:
            raise
        except Exception as caught:
            error = caught
        self.check_error(error, "an upload that was cut")
        if upload.begun > 1:
            self.fail(f"data that cannot be rewound was begun {upload.begun} times")
        if error is None:
            self.fail("an upload that was cut ended without an error")
        self.tap.close()
        if self._lists() and self.is_there(fields["name"]):
            self.fail("an upload that was cut left a record")

    def _lists(self) -> bool:
        return self.cls.get_all is not ImageBackend.get_all

    def test_c22_what_can_be_rewound_arrives_whole(self) -> None:
        """An upload that was tried again would hold some bytes twice."""
        self.needs_verb("create")
        data = random_bytes(4 * _SIZE)
        self.needs_network(self.publish(b"on the wire"), b"on the wire")
        backend = self.backend_with_fault(Fault(cut_after=2 * _SIZE, upload=True))
        try:
            image = self.stored(data, backend)
        except self.failureException:
            raise
        except Exception as error:
            self.check_error(error, "an upload that was cut")
            return
        self.tap.close()
        self._check_stored(image, data)

    def test_c23_fields_are_changed_and_removed(self) -> None:
        """A change would be lost, or take others with it."""
        self.needs_verb("create", "update")
        image = self.stored(b"to be changed", properties={"one": "1", "two": "2"})
        ref = self.ref(image.ref)

        def update(changes: Mapping[str, Any], purge: bool = False) -> Image:
            return self.in_time(
                "update", lambda: self.backend.update(self.context, ref, changes, None, purge)
            )

        changed = update({"name": "another name", "properties": {"two": "3"}})
        self.assertEqual("another name", changed.name)
        self.assertEqual(("1", "3"), (changed.properties.get("one"), changed.properties.get("two")))
        purged = update({"properties": {"two": "4"}}, purge=True)
        self.assertEqual("4", purged.properties.get("two"))
        if "one" in purged.properties:
            self.fail("purge_props leaves a property that was not given")
        record = self.backend.get(self.context, ref)
        self.assertEqual(("another name", purged.size), (record.name, record.size))
        with self.opened(image.ref) as source:
            self.assert_same(self.bytes_of(source), b"to be changed", "the bytes after update")

    def test_c24_what_is_deleted_is_gone(self) -> None:
        """A user would go on using an image that its owner has removed."""
        self.needs_verb("create", "delete")
        image = self.stored(random_bytes(1000))
        ref = self.ref(image.ref)
        self.in_time("delete", lambda: self.backend.delete(self.context, ref))
        for what in ("open", "delete"):
            verb = getattr(self.backend, what)
            error = self.error_of(f"{what} after delete", partial(verb, self.context, ref))
            if not isinstance(error, ImageNotFound):
                self.fail(f"{what} after delete raises {type(error).__name__}: {error}")
        if self._lists() and any(each.ref == image.ref for each in self.listed()):
            self.fail("a deleted image is still listed")

    def test_c24_a_download_that_runs_is_not_spoiled_by_a_delete(self) -> None:
        """A download would end early and be taken for complete."""
        self.needs_verb("create", "delete")
        data = random_bytes(8 * 1024 * 1024)
        image = self.stored(data)
        source = self.open(image.ref)
        reading = iter(source.read())
        found = bytearray(self.in_time("the first chunk", lambda: bytes(next(reading))))
        self.in_time("delete", lambda: self.backend.delete(self.context, self.ref(image.ref)))
        error: Exception | None = None
        try:
            found += self.in_time("the rest", lambda: b"".join(map(bytes, reading)))
        except self.failureException:
            raise  # it does not end: that is another mistake than lost data
        except Exception as caught:
            error = caught
        self.check_error(error, "reading while the image is deleted")
        if error is None:
            self.assert_same(found, data, "a download that was under way")

    def test_c24_delete_of_a_missing_image_is_not_found(self) -> None:
        """A script could not tell a wrong name from success."""
        self.needs_verb("delete")
        ref = self.ref(self.missing_ref())
        error = self.error_of("delete", lambda: self.backend.delete(self.context, ref))
        if not isinstance(error, ImageNotFound | UnsupportedOperation):
            self.fail(f"delete of a missing image raises {type(error).__name__}: {error}")
