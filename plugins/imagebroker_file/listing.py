"""A checked query, and the SQL of each of its pages.

Pages begin where the last one ended (keyset, never OFFSET), so that each costs the same and an
image that appears or goes shifts none of the others. What a caller may see is split into streams
that do not overlap, one for each status and each reason to see an image; every stream walks an
index in the order of the list, and SQLite merges them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from imagebroker.plugin import ImageQuery, InvalidImageRef
from imagebroker_file.filters import SCALARS, Condition, Filters, Lookup
from imagebroker_file.rows import COLUMNS
from imagebroker_file.rules import Caller

#: Images in one page, unless the query says.
PAGE_SIZE = 200
#: More in one page would be more work at a time than anybody wants to wait for.
MAX_PAGE_SIZE = 1000
#: So many rows of a lookup are fetched and sorted; with more, walking in order finds a page sooner.
FEW = 2000

_ORDERED = ("number", *COLUMNS)
_NULLABLE = (
    "name", "owner", "disk_format", "container_format", "version", "size", "virtual_size",
    "deleted_at",
)  # fmt: skip
#: Never change: an image cannot move from behind the cursor to before it.
_FIXED = ("id", "created_at")

After = tuple[Any, str]


class _Stream(NamedTuple):
    """Images that a caller sees for one reason."""

    conditions: tuple[Condition, ...] = ()
    lookups: tuple[Lookup, ...] = ()


class Listing:
    """What one `get_all` lists, page by page."""

    def __init__(
        self, caller: Caller, query: ImageQuery, id_of: Callable[[str], str], few: int = FEW
    ) -> None:
        """`few`: rows of a lookup that are fetched and sorted.

        :raises InvalidImageRef: an argument that makes no sense.
        """
        self._few = few
        self._filters = Filters(query.filters, caller, id_of)
        self._streams = tuple(_streams(caller, self._filters))
        self.key = "id" if query.sort_key == "ref" else query.sort_key
        if self.key not in SCALARS:
            raise InvalidImageRef(
                f"unknown sort_key {query.sort_key!r}", hint=f"use one of {', '.join(SCALARS)}"
            )
        if query.sort_dir not in ("asc", "desc"):
            raise InvalidImageRef(f"sort_dir must be 'asc' or 'desc', not {query.sort_dir!r}")
        self._descending = query.sort_dir == "desc"
        self.limit = _count("limit", query.limit, None, 0)
        wanted = _count("page_size", query.page_size, PAGE_SIZE, 1)
        self.page_size = min(wanted or PAGE_SIZE, MAX_PAGE_SIZE)

    @property
    def stable(self) -> bool:
        """Whether no change of an image moves it within the list."""
        return self.key in _FIXED

    def after(self, row: sqlite3.Row) -> After:
        """The place in the list after this row."""
        return row[self.key], row["id"]

    def page(self, db: sqlite3.Connection, after: After | None, count: int) -> list[sqlite3.Row]:
        """The next `count` rows; fewer at the end of the list."""
        rows: list[sqlite3.Row] = []
        for sql, params in self.statements(db, after):
            if len(rows) < count:
                rows += db.execute(sql, [*params, count - len(rows)])
        return rows

    def statements(
        self, db: sqlite3.Connection, after: After | None
    ) -> Iterator[tuple[str, list[Any]]]:
        """What finds the next rows, in turn; their last parameter, how many, is left out."""
        streams = [self._narrowed(db, stream) for stream in self._streams]
        if streams and self._filters.statuses:
            for span in self._spans(after):
                yield self._statement(streams, span)

    def _narrowed(self, db: sqlite3.Connection, stream: _Stream) -> tuple[Lookup | None, _Stream]:
        """The lookup that finds few enough images to begin with, and what is left to test.

        SQLite cannot know: it would need statistics of every property's every value.
        """
        lookups = (*self._filters.lookups, *stream.lookups)
        sizes = [_size(db, lookup, self._few) for lookup in lookups]
        first = lookups[sizes.index(min(sizes))] if sizes and min(sizes) < self._few else None
        rest = tuple(lookup.condition for lookup in lookups if lookup is not first)
        return first, _Stream((*self._filters.conditions, *stream.conditions, *rest))

    def _spans(self, after: After | None) -> Iterator[Condition]:
        """What is still to be listed, in the order of the list. NULL comes before all values."""
        beyond = "<" if self._descending else ">"
        column = f"images.{self.key}"
        if self.key == "id":
            yield Condition(f"images.id {beyond} ?", (after[1],)) if after else Condition("1")
            return
        nulls = Condition(f"{column} IS NULL")
        values = Condition(f"{column} IS NOT NULL")
        if after is not None and after[0] is None:
            nulls = Condition(f"{column} IS NULL AND images.id {beyond} ?", (after[1],))
        elif after is not None:
            values = Condition(f"({column}, images.id) {beyond} (?, ?)", after)
        past_values = self._descending and after is not None and after[0] is None
        past_nulls = not self._descending and after is not None and after[0] is not None
        spans = [nulls] if self.key in _NULLABLE and not past_nulls else []
        if not past_values:
            spans.insert(0 if self._descending else len(spans), values)
        yield from spans

    def _statement(
        self, streams: Sequence[tuple[Lookup | None, _Stream]], span: Condition
    ) -> tuple[str, list[Any]]:
        selects: list[str] = []
        params: list[Any] = []
        for first, stream in streams:
            for status in self._filters.statuses:
                # The ids are in order in their own index: a plus keeps SQLite from the others.
                column = "+images.status" if self.key == "id" else "images.status"
                conditions = (Condition(f"{column} = ?", (status,)), *stream.conditions, span)
                selects.append(_select(first, conditions))
                params += [*(first.params if first else ())]
                params += [value for condition in conditions for value in condition.params]
        direction = "DESC" if self._descending else "ASC"
        # By position: the terms of a UNION are ordered by its columns.
        order = ", ".join(
            f"{_ORDERED.index(name) + 1} {direction}" for name in dict.fromkeys((self.key, "id"))
        )
        return f"{' UNION ALL '.join(selects)} ORDER BY {order} LIMIT ?", params


def _select(first: Lookup | None, conditions: Sequence[Condition]) -> str:
    columns = ", ".join(f"images.{name}" for name in _ORDERED)
    tests = " AND ".join(condition.sql for condition in conditions)
    if first is None:
        return f"SELECT {columns} FROM images WHERE {tests}"  # noqa: S608 - values are parameters
    # CROSS: in this order, whatever SQLite thinks.
    return (
        f"SELECT {columns} FROM {first.table} AS found "  # noqa: S608
        f"CROSS JOIN images ON images.number = found.image WHERE {first.sql} AND {tests}"
    )


def _size(db: sqlite3.Connection, lookup: Lookup, few: int) -> int:
    """How many images a lookup finds, counted to `few`."""
    sql = f"SELECT 1 FROM {lookup.table} AS found WHERE {lookup.sql} LIMIT {few}"  # noqa: S608
    (size,) = db.execute(f"SELECT count(*) FROM ({sql})", lookup.params).fetchone()  # noqa: S608
    return int(size)


def _streams(caller: Caller, filters: Filters) -> Iterator[_Stream]:
    """Why a caller sees images: it is an admin; they are public, its own, or shared with it.

    Community images can be opened by all, and are listed where the filter asks for them, as in
    Glance: else anybody could fill everybody's list.
    """
    wanted = filters.visibilities
    if caller.is_admin:
        yield _Stream(() if wanted is None else (_visibility(wanted, walk=not filters.narrow),))
        return
    for value in ("public", "community"):
        if value in (("public",) if wanted is None else wanted):
            yield _Stream((_visibility((value,), walk=not filters.narrow),))
    if caller.project is None:
        return
    rest = ("community", "shared", "private") if wanted is None else ("shared", "private")
    own = tuple(value for value in rest if wanted is None or value in wanted)
    if own:
        owner = Condition("images.owner = ?", (caller.project,))
        yield _Stream((owner, _visibility(own, walk=False)))
    if wanted is None or "shared" in wanted:
        others = Condition("images.owner IS NOT ?", (caller.project,))
        member = Lookup("members", "found.project = ?", (caller.project,))
        yield _Stream((others, _visibility(("shared",), walk=not filters.narrow)), (member,))


def _visibility(values: tuple[str, ...], *, walk: bool) -> Condition:
    """`walk`: through the index on visibility; a plus keeps SQLite from using it."""
    column = "images.visibility" if walk else "+images.visibility"
    if len(values) == 1:
        return Condition(f"{column} = ?", values)
    return Condition(f"{column} IN ({', '.join('?' * len(values))})", values)


def _count(name: str, value: Any, default: int | None, least: int) -> int | None:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidImageRef(f"{name} must be a number of {least} or more, not {value!r}")
    return value
