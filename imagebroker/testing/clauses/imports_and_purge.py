"""Clauses C32 and C33: images that the service fetches itself, and what is left of others."""

from __future__ import annotations

from imagebroker.exceptions import Conflict
from imagebroker.model.image import Image
from imagebroker.testing.clauses.records import UploadClauses
from imagebroker.testing.hooks import random_bytes

#: A closed port.
_NOWHERE = "http://127.0.0.1:9/image"
_WEEK = 7 * 86400.0


class ImportAndPurgeClauses(UploadClauses):
    """C32 and C33."""

    def test_c32_an_import_into_an_image_that_has_its_data_is_a_conflict(self) -> None:
        """An image that others use would get other bytes."""
        self.needs_verb("create", "import_image")
        data = random_bytes(1000)
        image = self.stored(data)
        ref = self.ref(image.ref)
        error = self.error_of(
            "an import into an active image",
            lambda: list(self.backend.import_image(self.context, ref, url=_NOWHERE, stores=())),
        )
        if not isinstance(error, Conflict):
            self.fail(f"an import into an active image is {type(error).__name__}: {error}")
        with self.opened(image.ref) as source:
            self.assert_same(self.bytes_of(source), data, "the bytes after a refused import")

    def test_c33_purge_leaves_what_is_in_use(self) -> None:
        """An operator who clears up would lose images."""
        self._purge_and_look(_WEEK, dry_run=False)

    def test_c33_a_dry_run_of_purge_removes_nothing(self) -> None:
        """An operator who only asks would lose images."""
        self._purge_and_look(0.0, dry_run=True)

    def _purge_and_look(self, older_than: float, *, dry_run: bool) -> None:
        self.needs_verb("create", "purge")
        data = random_bytes(1000)
        image = self.stored(data)
        for found in list(self.backend.purge(self.context, older_than, dry_run)):
            if not isinstance(found, Image):
                self.fail(f"purge yields {type(found).__name__}, not records")
            if found.ref == image.ref:
                self.fail("purge counts an active image among what is left over")
        with self.opened(image.ref) as source:
            self.assert_same(self.bytes_of(source), data, "the bytes after purge")
