"""Nova's arguments of `get_all`, and its answer: a list whose pages are read as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, overload

from imagebroker.model.image import DELETED, PENDING_DELETE, STATUSES

T = TypeVar("T")

_ARGUMENTS = ("filters", "marker", "limit", "page_size", "sort_key", "sort_dir")
#: What Nova's REST API passes on, and its image API has always ignored.
_IGNORED = frozenset({"offset"})
#: Filters that do not name a property. Every other name is one, as in Glance.
_KNOWN = frozenset({
    "id", "name", "status", "visibility", "owner", "hidden", "protected", "size", "size_min",
    "size_max", "virtual_size", "disk_format", "container_format", "min_disk", "min_ram", "tag",
    "tags", "created_at", "updated_at", "deleted_at", "changes-since",
})  # fmt: skip
#: What Glance lists where no status is asked for.
_LISTED = [status for status in STATUSES if status not in (DELETED, PENDING_DELETE)]
_NAMES = {"os_hidden": "hidden"}
_VISIBILITY = {"true": "public", "1": "public", "false": "private", "0": "private"}


def query_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Nova's keyword arguments as `Broker.get_all` takes them.

    What is false (a limit of 0) counts as not given, as in Nova.

    :raises TypeError: there is no such argument.
    """
    unknown = sorted(set(arguments) - set(_ARGUMENTS) - _IGNORED)
    if unknown:
        raise TypeError(f"get_all() got an unexpected keyword argument {unknown[0]!r}")
    query = {name: arguments[name] for name in _ARGUMENTS if arguments.get(name)}
    query["filters"] = {"status": _LISTED, **dict(_filters(arguments.get("filters") or {}))}
    if "sort_key" in query:
        query["sort_key"] = _NAMES.get(query["sort_key"], query["sort_key"])
    return query


def _filters(filters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in filters.items():
        if value is None:
            continue
        if name == "is_public":
            visibility = _VISIBILITY.get(str(value).lower())
            if visibility is not None:
                yield "visibility", visibility
        elif name in _NAMES or name in _KNOWN or name.startswith("property-"):
            yield _NAMES.get(name, name), value
        else:
            yield f"property-{name}", value


class LazyList(MutableSequence[T]):
    """A list that takes its items from an iterator when they are first used.

    `len`, a negative index, `pop` and comparisons need all of them.
    """

    def __init__(
        self, items: Iterable[T], translated: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Takes the first item at once, so that a refusal shows here."""
        self._rest = iter(items)
        self._translated = translated
        self._found: list[T] = []
        self._ended = False
        self._error: Exception | None = None
        self._take(1)

    def _take(self, count: int | None = None) -> list[T]:
        """The items, at least the first `count` of them, or all."""
        while not self._ended and (count is None or len(self._found) < count):
            if self._error is not None:
                raise self._error  # again: a list that broke off must not pass for a short one
            try:
                with self._translated():
                    self._found.append(next(self._rest))
            except StopIteration:
                self._ended = True
            except Exception as error:
                self._error = error
                raise
        return self._found

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        ahead = isinstance(index, int) and index >= 0
        return self._take(index + 1 if ahead else None)[index]  # type: ignore[operator]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._take()[index] = value

    def __delitem__(self, index: int | slice) -> None:
        del self._take()[index]

    def insert(self, index: int, value: T) -> None:
        self._take().insert(index, value)

    def __len__(self) -> int:
        return len(self._take())

    def __bool__(self) -> bool:
        return bool(self._take(1))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LazyList):
            other = other._take()
        return self._take() == other

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Iterable[T]) -> list[T]:
        return [*self, *other]

    def __radd__(self, other: Iterable[T]) -> list[T]:
        return [*other, *self]

    def __repr__(self) -> str:
        return repr(self._found) if self._ended else f"[{', '.join(map(repr, self._found))}, ...]"
