"""Directories of Glance's file store that are also mounted on this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from imagebroker.plugin import ConfigError, Location


@dataclass(frozen=True)
class _Directory:
    """One entry of `shared_directories`: the directory on the servers, and on this host."""

    theirs: bytes
    ours: bytes


class SharedDirectories:
    """The configured directories; the metadata of a location only selects one of them."""

    def __init__(self, entries: Mapping[str, str], where: str) -> None:
        """:raises ConfigError: an entry is not `ID:SERVER_DIRECTORY:LOCAL_DIRECTORY`."""
        self._entries = {name: _directory(name, text, where) for name, text in entries.items()}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def local(self, locations: Sequence[Location]) -> tuple[Location, ...]:
        """The locations that are files on this host, as `file:` refs.

        Only the `id` in the metadata is used, to select an entry. The URL must be a plain path
        below the entry's directory on the server. The file backend decides whether the
        corresponding file on this host can be read.
        """
        found = (self._local(each) for each in locations)
        return tuple(Location(url) for url in dict.fromkeys(found) if url is not None)

    def _local(self, location: Location) -> str | None:
        name = location.metadata.get("id")
        entry = self._entries.get(name) if isinstance(name, str) else None
        path = _path(location.url)
        if entry is None or path is None or not path.startswith(entry.theirs):
            return None
        return "file://" + quote(entry.ours + path[len(entry.theirs) :])


def _directory(name: str, text: str, where: str) -> _Directory:
    theirs, colon, ours = text.partition(":")
    if not colon or not all(map(_is_plain, (theirs.encode(), ours.encode()))):
        raise ConfigError(
            f"{where} shared_directories: {name}:{text} is not ID:SERVER_DIRECTORY:LOCAL_DIRECTORY",
            hint="write both directories as absolute paths without '..'",
        )
    return _Directory(theirs.rstrip("/").encode() + b"/", ours.rstrip("/").encode() + b"/")


def _is_plain(path: bytes) -> bool:
    """Whether a path is absolute, without `.`, `..` or empty segments."""
    parts = path.rstrip(b"/").split(b"/")
    return path.startswith(b"/") and b"\0" not in path and not {b"", b".", b".."} & set(parts[1:])


def _path(url: str) -> bytes | None:
    """The path of a `file:` URL on the server; None for any other URL."""
    try:
        parts: Any = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme != "file" or parts.netloc or parts.query or parts.fragment:
        return None
    path = unquote_to_bytes(parts.path)
    return path if _is_plain(path) else None
