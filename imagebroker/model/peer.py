"""Validates what a server sends. An invalid value is an error that blames the server.

Every value from a server is checked here (or by the grammar of its protocol) before it is used:
types, the range of numbers and times, the size and depth of documents.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from imagebroker.exceptions import MalformedAnswer
from imagebroker.model.image import Image, Location
from imagebroker.redaction import printable

LOG = logging.getLogger(__name__)
T = TypeVar("T")

#: The largest number that is accepted, of bytes or anything else.
MAX_INT = 2**63 - 1
#: The longest Retry-After that is respected (seconds).
_LONGEST_RETRY_AFTER = 86400.0
#: Lists and objects in one document: each takes 20 times as much memory as on the wire.
_MAX_CONTAINERS = 100_000
#: Nesting of lists and objects.
_DEEPEST = 64
#: Invalid records in one list, before the whole list is refused.
_MAX_INVALID = 1000


def malformed(who: str, what: str, hint: str = "check the server's log and version") -> NoReturn:
    """:raises MalformedAnswer: `who` (the server) sent an invalid response; `what` is wrong."""
    raise MalformedAnswer(f"{who}: invalid response: {printable(what, 200)}", hint=hint)


def number(value: Any, name: str, who: str) -> int | None:
    """A number, 0 or more, or None.

    :raises MalformedAnswer: it is something else, or too large.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        malformed(who, f"{name} is {type(value).__name__}")
    if value < 0:
        malformed(who, f"{name} is negative")
    if value > MAX_INT:
        malformed(who, f"{name} is too large: a number of {value.bit_length()} bits")
    return int(value)


def text(value: Any, name: str, who: str) -> str | None:
    """:raises MalformedAnswer: it is neither text nor None."""
    if value is not None and not isinstance(value, str):
        malformed(who, f"{name} is {type(value).__name__}")
    return value


def flag(value: Any, name: str, who: str) -> bool | None:
    """:raises MalformedAnswer: it is neither True, False nor None."""
    if value is not None and not isinstance(value, bool):
        malformed(who, f"{name} is {type(value).__name__}")
    return value


def texts(value: Any, name: str, who: str) -> tuple[str, ...] | None:
    """:raises MalformedAnswer: it is not a list of text."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        malformed(who, f"{name} is not a list of text")
    return tuple(value)


def moment(value: Any) -> datetime | None:
    """ISO 8601, or seconds since 1970, as a time in UTC.

    None for anything else: an invalid time is not worth an error.
    """
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
        elif isinstance(value, datetime):
            found = value
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        else:
            return None
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def seconds_until(value: str | None) -> float | None:
    """The seconds that Retry-After asks for, at most a day; None if it is missing or invalid."""
    value = (value or "").strip()
    if not re.fullmatch(r"[ -~]{1,64}", value):
        return None
    if re.fullmatch(r"[0-9]{1,10}", value):
        return min(float(value), _LONGEST_RETRY_AFTER)
    from email.utils import parsedate_to_datetime

    try:
        until = moment(parsedate_to_datetime(value))
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    if until is None:
        return None
    return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), _LONGEST_RETRY_AFTER)


def document(body: bytes, kind: type[T], who: str) -> T:
    """The JSON document in `body`, a dict or a list.

    :raises MalformedAnswer: it is something else, or has duplicate keys, NaN or deep nesting.
    """
    import json

    try:
        if body.count(b"[") + body.count(b"{") > _MAX_CONTAINERS:
            raise ValueError("it has too many lists and objects")
        parsed = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if not isinstance(parsed, kind):
            raise ValueError(f"it is a {type(parsed).__name__}, not a {kind.__name__}")
        _check_depth(parsed)
        json.dumps(parsed, ensure_ascii=False).encode()  # fails for lone surrogates
    except (ValueError, RecursionError) as error:
        reason = printable(str(error), 200)
    else:
        return parsed
    if body.lstrip()[:1] == b"<":
        malformed(
            who, "it is a web page, or XML, and not JSON",
            "check that this is the address of the service, and what the proxies before it answer",
        )  # fmt: skip
    malformed(who, reason)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a duplicate key")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _finite(text: str) -> float:
    found = float(text)
    if found - found != 0.0:
        raise ValueError("it has a number that is too large")
    return found


def _check_depth(parsed: Any) -> None:
    level = [parsed]
    for _ in range(_DEEPEST):
        level = [
            each
            for container in level
            for each in (container.values() if isinstance(container, dict) else container)
            if isinstance(each, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"its lists and objects are nested more than {_DEEPEST} deep")


#: The fields of a record by the type of their values.
_TEXTS = (
    "id", "name", "status", "visibility", "owner", "disk_format", "container_format", "version",
)  # fmt: skip
_NUMBERS = ("size", "virtual_size", "min_disk", "min_ram")
_FLAGS = ("hidden", "protected")
_LISTS = ("tags", "members", "stores")
_TIMES = ("created_at", "updated_at", "deleted_at")
_READERS: Mapping[str, Callable[[Any, str, str], Any]] = {
    **dict.fromkeys(_TEXTS, text),
    **dict.fromkeys(_NUMBERS, number),
    **dict.fromkeys(_FLAGS, flag),
    **dict.fromkeys(_LISTS, texts),
    **dict.fromkeys(_TIMES, lambda value, name, who: moment(value)),
}


def image(who: str, ref: str, **fields: Any) -> Image:
    """The record made from a server's values; times are ISO 8601 or seconds since 1970.

    :raises MalformedAnswer: a value has the wrong type or is invalid.
    """
    values = {}
    for name, value in fields.items():
        if name in _READERS:
            value = _READERS[name](value, name, who)
        elif name in ("checksums", "properties"):
            if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value):
                malformed(who, f"{name} is not an object")
        elif value is not None and not all(isinstance(each, Location) for each in value):
            malformed(who, f"{name} contains something other than locations")
        values[name] = value
    return Image(ref=ref, **values)


class Reader:
    """Makes images from the records in a server's list. An invalid record is skipped and logged."""

    def __init__(self, make: Callable[[Any], Image], name: Callable[[Any], str]) -> None:
        """`name`: gives the name of a record, for the log."""
        self._make, self._name = make, name
        self._read = self._invalid = 0
        self._last: MalformedAnswer | None = None

    def read(self, records: Iterable[Any]) -> Iterator[Image]:
        """:raises MalformedAnswer: too many records of this list are invalid."""
        for record in records:
            try:
                found = self._make(record)
            except MalformedAnswer as error:
                self._invalid += 1
                self._last = error
                if self._invalid > _MAX_INVALID:
                    raise
                shown = printable(self._name(record), 100) or "a record without an id"
                LOG.warning("skipping %s in the list: %s", shown, error)
            else:
                self._read += 1
                yield found

    def check(self) -> None:
        """Call it at the end of a list. :raises MalformedAnswer: all of its records are invalid."""
        if self._last is not None and not self._read:
            raise self._last
