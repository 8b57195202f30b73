"""The filters of a list: checks their names and values, and translates them to SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from imagebroker.plugin import ACTIVE, InvalidImageRef
from imagebroker_file.rows import FLAGS, TIMES, from_time, property_text
from imagebroker_file.rules import MAX_INT, VISIBILITIES, Caller

_TEXTS = (
    "id", "name", "status", "visibility", "owner", "disk_format", "container_format", "version",
)  # fmt: skip
_NUMBERS = ("size", "virtual_size", "min_disk", "min_ram")
_STATUSES = (
    "queued", "saving", "uploading", "importing", "active", "deactivated", "killed", "deleted",
    "pending_delete",
)  # fmt: skip
#: Fields for filters and for sorting.
SCALARS = (*_TEXTS, *_NUMBERS, *FLAGS, *TIMES)
_OTHERS = (
    "tag", "tags", "members", "properties", "property-<name>", "checksums", "changes-since",
    "size_min", "size_max",
)  # fmt: skip


class Condition(NamedTuple):
    """A condition on a row of `images`."""

    sql: str
    params: tuple[Any, ...] = ()


class Lookup(NamedTuple):
    """A condition on a row of a table that belongs to images, at most one row each."""

    table: str
    sql: str
    params: tuple[Any, ...]

    @property
    def condition(self) -> Condition:
        """As a condition on an image."""
        return Condition(
            f"EXISTS (SELECT 1 FROM {self.table} AS found"  # noqa: S608 - our own names
            f" WHERE found.image = images.number AND {self.sql})",
            self.params,
        )


class Filters:
    """The `filters` of a query.

    Status and visibility are kept separately: they decide which index is used.
    """

    def __init__(
        self, filters: Mapping[str, Any], caller: Caller, id_of: Callable[[str], str]
    ) -> None:
        """`id_of`: the id in one of our refs.

        :raises InvalidImageRef: an unknown name or an invalid value; nothing is ignored.
        """
        self.statuses: tuple[str, ...] = (ACTIVE,)
        self.visibilities: tuple[str, ...] | None = None
        self.conditions: list[Condition] = []
        self.lookups: list[Lookup] = []
        #: Whether one of the conditions has an index that selects few images.
        self.narrow = not {"id", "ref", "name", "owner"}.isdisjoint(filters)
        self._caller = caller
        self._id_of = id_of
        for name, value in filters.items():
            self._add(name, value)
        if "hidden" not in filters:
            self.conditions.append(Condition("images.hidden = 0"))

    def _add(self, name: str, value: Any) -> None:
        if name == "status":
            self.statuses = _known(name, value, _STATUSES)
        elif name == "visibility":
            self.visibilities = _known(name, value, VISIBILITIES)
        elif name == "ref":
            self.conditions.append(_equality("id", self._id_of(_text(name, value))))
        elif name in SCALARS:
            self.conditions.append(_equality(name, value))
        elif name in ("tag", "tags"):
            for tag in _several(value):
                self.lookups.append(Lookup("tags", "found.tag = ?", (_text(name, tag),)))
        elif name == "members":
            for project in _several(value):
                self._add_member(_text(name, project))
        elif name == "properties":
            for key, wanted in _mapping(name, value).items():
                self.lookups.append(_property(key, wanted))
        elif isinstance(name, str) and name.removeprefix("property-") not in ("", name):
            self.lookups.append(_property(name.removeprefix("property-"), value))
        elif name == "checksums":
            for algorithm, digest in _mapping(name, value).items():
                sql = "json_extract(images.checksums, ?) = ?"
                path = f'$."{_text(name, algorithm)}"'
                self.conditions.append(Condition(sql, (path, _text(name, digest).lower())))
        elif name in ("changes-since", "size_min", "size_max"):
            self.conditions.append(_bound(name, value))
        else:
            raise InvalidImageRef(
                f"unknown filter {name!r}", hint=f"use one of {', '.join(SCALARS + _OTHERS)}"
            )

    def _add_member(self, project: str) -> None:
        self.lookups.append(Lookup("members", "found.project = ?", (project,)))
        if not self._caller.is_admin and project != self._caller.project:
            # Only its owner can see with whom an image is shared.
            self.conditions.append(Condition("images.owner = ?", (self._caller.project,)))


def _bound(name: str, value: Any) -> Condition:
    if name == "changes-since":
        return Condition("images.updated_at >= ?", (_moment(name, value),))
    return Condition(f"images.size {'>=' if name == 'size_min' else '<='} ?", (_int(name, value),))


def _equality(name: str, value: Any) -> Condition:
    """One value, or any of several; None is "not set"."""
    values = [_stored(name, v) for v in _several(value)]
    if len(values) == 1:
        return Condition(f"images.{name} {'IS' if values[0] is None else '='} ?", (values[0],))
    set_values = [v for v in values if v is not None]
    sql = f"images.{name} IN ({', '.join('?' * len(set_values))})"
    if None in values:
        sql = f"({sql} OR images.{name} IS NULL)"
    return Condition(sql, tuple(set_values))


def _stored(name: str, value: Any) -> Any:
    """A value as the column has it."""
    if value is None:
        return None
    if name in FLAGS:
        return _flag(name, value)
    if name in _NUMBERS:
        return _int(name, value)
    if name in TIMES:
        return _moment(name, value)
    text = _text(name, value)
    return text.lower() if name == "id" else text


def _property(name: Any, value: Any) -> Lookup:
    try:
        params = (_text("property", name), _text(f"property-{name}", property_text(value)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidImageRef(f"filter property-{name}: {error}") from error
    return Lookup("properties", "found.name = ? AND found.text = ?", params)


def _known(name: str, value: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    values = tuple(dict.fromkeys(_text(name, v) for v in _several(value)))
    for text in values:
        if text not in known:
            raise InvalidImageRef(
                f"filter {name}: unknown value {text!r}", hint=f"use one of {', '.join(known)}"
            )
    return values


def _several(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple, set, frozenset)) else (value,)


def _mapping(name: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise InvalidImageRef(f"filter {name}: {value!r} is not a mapping")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidImageRef(f"filter {name}: {value!r} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidImageRef(
            f"filter {name}: {value!r} is not valid text", hint="write it in UTF-8"
        ) from None
    return value


def _int(name: str, value: Any) -> int:
    try:
        number = int(value) if isinstance(value, (int, str)) else None
    except ValueError:
        number = None
    if number is None or isinstance(value, bool) or not 0 <= number <= MAX_INT:
        raise InvalidImageRef(f"filter {name}: {value!r} is not a number from 0 to {MAX_INT}")
    return number


def _flag(name: str, value: Any) -> int:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return int(value.lower() == "true")
    if not isinstance(value, bool):
        raise InvalidImageRef(f"filter {name}: {value!r} is neither true nor false")
    return int(value)


def _moment(name: str, value: Any) -> int:
    try:
        return from_time(value if isinstance(value, datetime) else datetime.fromisoformat(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidImageRef(
            f"filter {name}: {value!r} is not a time", hint="write it like 2026-11-30T12:00:00Z"
        ) from error
