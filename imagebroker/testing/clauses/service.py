"""Clauses C40 and C41: the stores of a service, and who its images are shared with."""

from __future__ import annotations

from imagebroker.exceptions import ImageNotFound
from imagebroker.model.service import Member, Store
from imagebroker.testing.clauses.records import UploadClauses
from imagebroker.testing.hooks import random_bytes


class ServiceClauses(UploadClauses):
    """C40 and C41."""

    def test_c40_stores_have_names_and_at_most_one_is_the_default(self) -> None:
        """A caller names one of them, and must know where the data goes if it names none."""
        self.needs_verb("stores")
        try:
            found = list(self.backend.stores(self.context))
        except ImageNotFound:
            return  # it has only one
        for each in found:
            if not isinstance(each, Store) or not each.name:
                self.fail(f"stores returns {each!r}, not a store with a name")
        if sum(each.default for each in found) > 1:
            self.fail("stores returns more than one default store")

    def test_c41_an_image_that_nobody_got_has_no_members(self) -> None:
        """A member that is none would get the data of others."""
        self.needs_verb("create", "members")
        image = self.stored(random_bytes(1000))
        for each in self.backend.members(self.context, self.ref(image.ref)):
            kind = "a member" if isinstance(each, Member) else type(each).__name__
            self.fail(f"members returns {kind} for a new image")
