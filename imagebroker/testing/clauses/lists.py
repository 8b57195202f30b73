"""Clause C20: lists, with every filter, order, marker and limit."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime
from typing import Any

from imagebroker.exceptions import InvalidImageRef, UnsupportedOperation
from imagebroker.model.image import Image, ImageQuery
from imagebroker.testing.clauses.records import RecordClauses
from imagebroker.testing.hooks import random_bytes

_SORT_KEYS = ("name", "size", "created_at", "updated_at", "id", "status")
#: Fields that are tried as filters if the record has them.
_FILTERS = (
    "id", "name", "status", "visibility", "owner", "disk_format", "container_format", "size",
    "min_disk", "min_ram", "protected", "hidden",
)  # fmt: skip


class ListClauses(RecordClauses):
    """C20."""

    def test_c20_filters_narrow_the_list(self) -> None:
        """A service would work on images that it did not ask for."""
        mine = self._three()
        first = mine[0]
        for name in _FILTERS:
            value = getattr(first, name)
            if value is not None:
                self._compare(mine, {name: value})
        sizes = [image.size or 0 for image in mine]
        for filters in (
            {"size_min": sizes[1]},
            {"size_max": sizes[1]},
            {"size_min": sizes[1], "size_max": sizes[1]},
            {"size": sizes[2]},
            {"changes-since": datetime(2001, 1, 1, tzinfo=UTC)},
        ):
            self._compare(mine, filters)

    def test_c20_what_matches_no_image_lists_none(self) -> None:
        """A script that deletes what it finds would delete everything."""
        self._three()
        nobody = uuid.uuid4().hex
        for filters in (
            {"name": nobody},
            {"owner": nobody},
            {"tag": nobody},
            {f"property-{nobody}": "1"},
            {"size_min": 2**60},
            {"status": "queued", "name": nobody},
            {"changes-since": datetime(9000, 1, 1, tzinfo=UTC)},
        ):
            found = self._answer(filters)
            if found:
                self.fail(f"get_all with the filters {filters} lists {found[0].ref}")

    def test_c20_lists_are_in_the_order_asked_for(self) -> None:
        """Who takes the newest image would get any."""
        mine = self._three()
        for key in _SORT_KEYS:
            for direction in ("asc", "desc"):
                found = self._of(mine, self._answer(self._window, key, direction))
                values = [getattr(image, key) for image in found]
                if None not in values and values != sorted(values, reverse=direction == "desc"):
                    self.fail(f"sorted by {key} {direction}, get_all lists {values}")
                if found and len(found) != len(mine):
                    self.fail(f"sorted by {key}, get_all lists {len(found)} of {len(mine)} images")

    def test_c20_a_list_goes_on_after_its_marker(self) -> None:
        """Pages would repeat or leave out images."""
        self._three()
        window = self._window
        whole = [image.ref for image in self.listed(filters=window, sort_key="name")]
        for image in self.listed(filters=window, sort_key="name"):
            rest = self.listed(filters=window, sort_key="name", marker=image.id or image.ref)
            expected = whole[whole.index(image.ref) + 1 :]
            self.assertEqual(expected, [each.ref for each in rest], "what follows the marker")

    def test_c20_a_list_has_at_most_its_limit(self) -> None:
        """A caller would get more images than it has room for, or miss some."""
        self._three()
        window = self._window
        whole = [image.ref for image in self.listed(filters=window, sort_key="name")]
        for limit in range(len(whole) + 2):
            found = [each.ref for each in self.listed(filters=window, sort_key="name", limit=limit)]
            self.assertEqual(whole[:limit], found, f"with the limit {limit}")
        pages = self.listed(filters=window, sort_key="name", page_size=1)
        self.assertEqual(whole, [each.ref for each in pages], "in pages of one image")

    def _three(self) -> list[Image]:
        """Three new images as a list shows them, of sizes that no other image is likely to have."""
        self.needs_verb("get_all", "create")
        base = random.randrange(20_000, 200_000)  # noqa: S311 - not a secret
        self._window = {"size_min": base, "size_max": base + 2}
        made = {self.stored(random_bytes(base + more)).ref for more in range(3)}
        found = [image for image in self.listed() if image.ref in made]
        if len(found) != len(made):
            self.fail(f"get_all lists {len(found)} of {len(made)} new images")
        return sorted(found, key=lambda image: image.size or 0)

    def _compare(self, mine: list[Image], filters: dict[str, Any]) -> None:
        """Whether the filters choose among our images as the record rules say."""
        expected = {image.ref for image in ImageQuery(filters).apply(mine)}
        answer = self._answer(filters)
        if answer is None:
            return
        found = {image.ref for image in self._of(mine, answer)}
        if found != expected:
            self.fail(
                f"get_all with the filters {filters} lists {len(found)} of our images, not the "
                f"{len(expected)} that match"
            )

    def _answer(
        self, filters: dict[str, Any], sort_key: str = "created_at", sort_dir: str = "desc"
    ) -> list[Image] | None:
        """The list; None if the backend refuses, which is honest."""
        try:
            return self.listed(filters=filters, sort_key=sort_key, sort_dir=sort_dir)
        except (InvalidImageRef, UnsupportedOperation):
            return None

    def _of(self, mine: list[Image], found: list[Image] | None) -> list[Image]:
        refs = {image.ref for image in mine}
        return [image for image in found or () if image.ref in refs]
