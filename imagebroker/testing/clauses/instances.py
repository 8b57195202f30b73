"""Clause C26: what an instance returns leads back to it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from imagebroker.backends.backend import ImageBackend
from imagebroker.broker import Broker
from imagebroker.exceptions import ImageBrokerError
from imagebroker.model.image import Image, ImageQuery
from imagebroker.model.reference import parse
from imagebroker.testing.clauses.records import UploadClauses
from imagebroker.testing.hooks import random_bytes

_DATA = random_bytes(1000)


class InstanceClauses(UploadClauses):
    """C26."""

    def test_c26_image_ref_of_the_default_instance_leads_back_to_it(self) -> None:
        """What one call creates or lists could not be given to the next."""
        self._look_at_refs(None)

    def test_c26_image_ref_of_a_named_instance_leads_back_to_it(self) -> None:
        """The record of one service would lead to an image of another, or nowhere."""
        self._look_at_refs("kit")

    def _look_at_refs(self, instance: str | None) -> None:
        published = self.publish(_DATA)
        self._instance = instance
        backend = self.new_backend()
        title = backend.host.title
        broker = self.instance_broker(title, published)
        looked = 0
        for what, image in self._returned(backend, broker, published):
            looked += 1
            found = self._owner(broker, image.ref)
            if found != title:
                self.fail(
                    f"image.ref of {what} in the instance {title} is {image.ref}, which belongs to "
                    f"{found or 'none'}; use host.ref(id) or host.uri(name, key)"
                )
            if not what.startswith("get_all"):
                with broker.open(self.context, image.ref) as reader:
                    self.assert_same(b"".join(reader), _DATA, f"read through {image.ref}")
        if not looked:
            self.skipTest("refs of this backend name no instance, and it stores nothing")

    def _returned(
        self, backend: ImageBackend, broker: Broker, published: str
    ) -> Iterator[tuple[str, Image]]:
        """The records that this instance returns, and who returns them."""
        seen = self._as_seen_by(backend, published)
        if self._owner(broker, seen) == backend.host.title:
            yield "open", self.open(seen, backend).image
            yield "get", backend.get(self.context, self.ref(seen))
        if self._can("create"):
            created = self.stored(_DATA, backend)
            yield "create", created
            if self._can("update"):
                changed = backend.update(
                    self.context, self.ref(created.ref), {"name": "renamed"}, None, False
                )
                yield "update", changed
        if self._can("get_all"):
            for image in islice(backend.get_all(self.context, ImageQuery(limit=3)), 3):
                yield "get_all", image

    def _owner(self, broker: Broker, ref: str) -> str:
        """The instance that a ref belongs to; empty if no instance may read it."""
        try:
            return broker.resolve(ref).backend
        except ImageBrokerError:
            return ""

    def _as_seen_by(self, backend: ImageBackend, published: str) -> str:
        """The ref of a published image in this instance, if refs can say so."""
        form, ref = self.cls.ref_form, self.ref(published)
        if ref.id is not None:
            return backend.host.ref(ref.id)
        if (form.authority or form.instance) and backend.host.instance and ref.instance is None:
            return published.replace("://", f":{backend.host.instance}://", 1)
        return parse(published).text

    def _can(self, verb: str) -> bool:
        return getattr(self.cls, verb) is not getattr(ImageBackend, verb)
