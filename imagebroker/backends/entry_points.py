"""Reads the entry points of all distributions; a damaged one does not break the others.

`importlib.metadata.entry_points` fails completely if one file of any distribution cannot be parsed,
and stevedore caches its result in a file below `$XDG_CACHE_HOME`, which may belong to another user:
what it names is imported unchecked. Here every distribution is read on its own, and stevedore's
managers in this process use the same result.
"""

from __future__ import annotations

import importlib.metadata as metadata
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from imagebroker.redaction import printable, shown_error

LOG = logging.getLogger(__name__)

_FOLDER = re.compile(r"(?P<name>[^/]+?)(?:-[^-/]+)?(?:-py[\d.]+)?\.(?:dist|egg)-info\Z")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class Damage(NamedTuple):
    """A distribution whose metadata cannot be read, or only in part."""

    #: Its name, or that of its directory if the name is unknown.
    distribution: str
    #: Its `dist-info` directory.
    path: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"the distribution {self.distribution} ({self.path}) {self.problem}"


class Installed(NamedTuple):
    """The entry points of all distributions, and the distributions that are damaged."""

    points: tuple[metadata.EntryPoint, ...]
    damaged: tuple[Damage, ...]

    def group(self, group: str) -> list[metadata.EntryPoint]:
        """The entry points of one group, each once."""
        # Compared by the object, not by its name: reading a name parses a whole METADATA file.
        found: dict[tuple[str, str, int], metadata.EntryPoint] = {}
        for point in self.points:
            if point.group == group:
                found.setdefault((point.name, point.value, id(point.dist)), point)
        return list(found.values())


def installed() -> Installed:
    """All entry points, as they are now. Damaged distributions are logged, once per process."""
    global _latest
    uncache_stevedore()
    path = tuple(sys.path)
    found = _read()
    _latest = path, found
    _log(found.damaged)
    return found


def entry_points(group: str, name: str | None = None) -> list[metadata.EntryPoint]:
    """The entry points of one group, or only those with this name, as `installed` found them."""
    return [p for p in _known().group(group) if name is None or p.name == name]


def _known() -> Installed:
    """As the newest broker found it: reading all distributions again takes as long as a request."""
    latest = _latest
    if latest is not None and latest[0] == tuple(sys.path):
        return latest[1]
    return installed()


def distributions() -> Iterator[tuple[str, metadata.Distribution]]:
    """The installed distributions with a name; the first one of each name."""
    seen = set()
    for distribution in _found():
        name = _name(distribution)
        if name is not None and (key := normal(name)) not in seen:
            seen.add(key)
            yield _written_name(distribution) or name, distribution


def distribution_name(point: metadata.EntryPoint) -> str | None:
    """The distribution of a plugin; None if it is unknown."""
    if point.dist is None:
        return None
    return _written_name(point.dist) or _name(point.dist)


def distribution_version(point: metadata.EntryPoint) -> str | None:
    """The version of that distribution; None if its metadata has none."""
    return _written(point.dist, "Version") if point.dist is not None else None


def _written_name(distribution: metadata.Distribution) -> str | None:
    """The name in its METADATA; None if that is missing, not readable, or not text."""
    return _written(distribution, "Name")


def _written(distribution: metadata.Distribution, field: str) -> str | None:
    """A field of its METADATA.

    `importlib.metadata` would also parse the description after the fields, for 3 ms each time.
    """
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
        if not text:
            return _text(distribution.metadata[field])  # of a kind that has other files
    except Exception:  # damaged
        return None
    fields = text.replace("\r\n", "\n").partition("\n\n")[0]
    found = re.search(rf"^{field}:[ \t]*(\S.*?)[ \t]*$", fields, re.MULTILINE | re.IGNORECASE)
    return found[1] if found is not None else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def normal(name: str) -> str:
    """A distribution's name, normalized as by pip."""
    return re.sub(r"[-_.]+", "-", name).lower()


def uncache_stevedore() -> None:
    """Make stevedore read entry points as `installed` does, without its cache files.

    For the whole process, because keystoneauth, castellan and oslo.config create stevedore managers
    of their own. stevedore has no option for this: its `.disable` file only stops writing.
    """
    from stevedore import _cache

    cache = _cache._c
    if not isinstance(cache._internal, _InMemory):
        cache._internal = _InMemory()


class _InMemory(dict[tuple[str, ...], Any]):
    """stevedore's in-memory cache, by `sys.path`: it has an answer for every path."""

    def __contains__(self, path: object) -> bool:
        return True

    def __getitem__(self, path: tuple[str, ...]) -> Any:
        if not dict.__contains__(self, path):
            groups: dict[str, dict[tuple[str, str, str], None]] = {}
            for point in _known().points:
                each = (point.name, point.value, point.group)
                groups.setdefault(point.group, {})[each] = None
            self[path] = {"groups": {group: list(each) for group, each in groups.items()}}
        return dict.__getitem__(self, path)


def _read() -> Installed:
    points: list[metadata.EntryPoint] = []
    damaged: list[Damage] = []
    seen = set()
    for distribution in _found():
        name = _name(distribution)
        if name is not None and (key := normal(name)) in seen:
            continue  # shadowed by one that is earlier in sys.path
        files = _files(distribution)
        problem = _problem(distribution, name, files)
        if problem is None and name is not None:
            seen.add(key)
        else:
            damaged.append(_damage(distribution, name, problem or "has no name"))
        if name is None or (files is not None and "entry_points.txt" not in files):
            continue
        try:
            points += _declared(distribution)
        except Exception as error:
            why = f"has an entry_points.txt that is ignored: {shown_error(error)}"
            damaged.append(_damage(distribution, name, why))
    return Installed(tuple(points), tuple(damaged))


def _found() -> Iterator[metadata.Distribution]:
    finder = iter(metadata.distributions())
    while True:
        try:
            yield next(finder)
        except StopIteration:
            return
        except Exception as error:  # of a custom finder
            LOG.warning("some distributions cannot be found: %s", shown_error(error))
            return


def _declared(distribution: metadata.Distribution) -> list[metadata.EntryPoint]:
    """:raises Exception: its `entry_points.txt` is damaged."""
    found = list(distribution.entry_points)
    text = "" if found else distribution.read_text("entry_points.txt") or ""
    lines = [line for line in map(str.strip, text.splitlines()) if line and line[0] not in "#;"]
    if lines and not lines[0].startswith("["):  # zeros after a power loss, a BOM
        raise ValueError("it does not begin with a section")
    return found


def _path(distribution: metadata.Distribution) -> Path | None:
    """Its directory; None if it is not in a file system."""
    path = getattr(distribution, "_path", None)
    return path if isinstance(path, Path) else None


def _name(distribution: metadata.Distribution) -> str | None:
    """Its name, if valid: an interrupted pip leaves `~name-1.0.dist-info` behind."""
    path = _path(distribution)
    match = _FOLDER.match(path.name) if path is not None else None
    try:
        name: Any = match["name"] if match is not None else distribution.metadata["Name"]
    except Exception:  # damaged metadata
        return None
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None


def _files(distribution: metadata.Distribution) -> list[str] | None:
    """The names in its directory; None if it has none, or it cannot be read."""
    path = _path(distribution)
    try:
        return None if path is None else os.listdir(path)
    except OSError:
        return None


def _problem(
    distribution: metadata.Distribution, name: str | None, files: list[str] | None
) -> str | None:
    """The damage of its directory, as far as it shows without parsing files."""
    path = _path(distribution)
    if name is None:
        return "has no usable name"
    if path is None:
        return None
    if files is None and not path.is_dir():
        # distutils created an egg-info that is a single file.
        return None if path.suffix == ".egg-info" and path.is_file() else "is not a directory"
    if files is None or not os.access(path, os.R_OK | os.X_OK):
        return "cannot be read by this user"
    if "entry_points.txt" in files and not os.access(path / "entry_points.txt", os.R_OK):
        return "has an entry_points.txt that this user cannot read"
    if "METADATA" not in files and "PKG-INFO" not in files:
        return "has no METADATA"
    return None


def _damage(distribution: metadata.Distribution, name: str | None, problem: str) -> Damage:
    path = _path(distribution)
    shown = printable(str(path or distribution), 300)
    return Damage(
        name or (printable(path.name, 100) if path is not None else "without a name"),
        shown,
        problem,
        f"reinstall it: pip install --force-reinstall {name} (or remove {shown})"
        if name is not None
        else f"remove what an interrupted installation left behind: rm -r '{shown}'",
    )  # fmt: skip


#: What `installed` found last, and for which `sys.path`.
_latest: tuple[tuple[str, ...], Installed] | None = None
_logged: set[str] = set()
_lock = threading.Lock()


def _log(damaged: tuple[Damage, ...]) -> None:
    with _lock:
        new = [each for each in damaged if str(each) not in _logged]
        _logged.update(map(str, new))
    for each in new:
        LOG.warning("%s; %s", each, each.remedy)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork_in_child)
