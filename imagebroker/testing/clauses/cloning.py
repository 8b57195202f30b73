"""Clause C42: an image with the bytes of another, which are not transferred."""

from __future__ import annotations

from imagebroker.model.image import Image
from imagebroker.testing.clauses.records import UploadClauses
from imagebroker.testing.hooks import random_bytes


class CloneClauses(UploadClauses):
    """C42."""

    def test_c42_a_clone_has_the_bytes_of_its_original_and_a_record_of_its_own(self) -> None:
        """A copy would be reported that has other bytes, or that is the original itself."""
        self.needs_verb("create", "clone")
        data = random_bytes(200_000)
        original, fields = self.stored(data), self.image_fields()
        with self.opened(original.ref) as source:
            new = Image(ref=self.backend.host.ref(""), size=len(data), **fields)
            made = self.in_time("clone", lambda: self.backend.clone(self.context, new, source))
        if made is None:
            self.skipTest("the backend cannot clone this image")
            raise AssertionError("unreachable")
        self.addCleanup(self._remove, made)
        if not isinstance(made, Image):
            self.fail(f"clone returned {type(made).__name__}, not an Image")
        if made.ref == original.ref:
            self.fail("clone returned the original")
        self.assertEqual((fields.get("name"), len(data)), (made.name, made.size))
        with self.opened(made.ref) as source:
            self.assert_same(self.bytes_of(source), data, "a clone")
        with self.opened(original.ref) as source:
            self.assert_same(self.bytes_of(source), data, "the original of a clone")
