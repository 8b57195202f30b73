"""Files of a Glance that this host sees too: its directory, and where that is mounted here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from imagebroker.plugin import ConfigError, Location


@dataclass(frozen=True)
class _Directory:
    """One entry of `shared_directories`: where the servers have it, and where this host has it."""

    theirs: bytes
    ours: bytes


class SharedDirectories:
    """What the deployer says about directories; a location's metadata only says which one."""

    def __init__(self, entries: Mapping[str, str], where: str) -> None:
        """:raises ConfigError: an entry is not `ID:SERVER_DIRECTORY:LOCAL_DIRECTORY`."""
        self._entries = {name: _directory(name, text, where) for name, text in entries.items()}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def local(self, locations: Sequence[Location]) -> tuple[Location, ...]:
        """The locations that are files here, as `file:` refs of this host.

        Nothing of the metadata counts but its `id`, which selects an entry. The URL must be a
        plain path below that entry's directory on the server; what is read in its place, beneath
        this host's directory, is for the file backend to permit.
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
            hint="both directories are absolute paths without '..'",
        )
    return _Directory(theirs.rstrip("/").encode() + b"/", ours.rstrip("/").encode() + b"/")


def _is_plain(path: bytes) -> bool:
    """Whether a path is absolute and says without a detour where it leads."""
    parts = path.rstrip(b"/").split(b"/")
    return path.startswith(b"/") and b"\0" not in path and not {b"", b".", b".."} & set(parts[1:])


def _path(url: str) -> bytes | None:
    """The path of a `file:` URL of the server's own; None where it is anything else."""
    try:
        parts: Any = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme != "file" or parts.netloc or parts.query or parts.fragment:
        return None
    path = unquote_to_bytes(parts.path)
    return path if _is_plain(path) else None
