"""What the installed distributions declare, read so that a damaged one costs only itself.

`importlib.metadata.entry_points` fails as a whole where a single file of any distribution cannot be
parsed, and stevedore keeps its result in a file below `$XDG_CACHE_HOME`, which may belong to
somebody else: what stands there is imported without a further look. Here every distribution is read
by itself, and stevedore's managers, whoever uses them in this process, get the same answer.
"""

from __future__ import annotations

import importlib.metadata as metadata
import logging
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebroker.redaction import printable, shown_error

LOG = logging.getLogger(__name__)

_FOLDER = re.compile(r"(?P<name>[^/]+?)(?:-[^-/]+)?(?:-py[\d.]+)?\.(?:dist|egg)-info\Z")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Damage:
    """A distribution that cannot be read, or not completely."""

    #: Its name; of its folder where nothing else is known.
    distribution: str
    #: Its `dist-info` folder.
    path: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"the distribution {self.distribution} ({self.path}) {self.problem}"


@dataclass(frozen=True)
class Installed:
    """The entry points of all distributions, and which distributions are damaged."""

    points: tuple[metadata.EntryPoint, ...]
    damaged: tuple[Damage, ...]

    def group(self, group: str) -> list[metadata.EntryPoint]:
        """Those of one group, each once."""
        # By the object and not by its name: to read a name is to parse all of a METADATA file.
        found: dict[tuple[str, str, int], metadata.EntryPoint] = {}
        for point in self.points:
            if point.group == group:
                found.setdefault((point.name, point.value, id(point.dist)), point)
        return list(found.values())


def installed() -> Installed:
    """All entry points, as they are now. What is damaged is logged, once in a process."""
    uncache_stevedore()
    found = _read()
    _log(found.damaged)
    return found


def entry_points(group: str, name: str | None = None) -> list[metadata.EntryPoint]:
    """The entry points of one group, or those of them that have this name."""
    return [p for p in installed().group(group) if name is None or p.name == name]


def distributions() -> Iterator[tuple[str, metadata.Distribution]]:
    """The installed distributions that have a name, the first of each name."""
    seen = set()
    for distribution in _found():
        name = _name(distribution)
        if name is not None and (key := normal(name)) not in seen:
            seen.add(key)
            yield _written_name(distribution) or name, distribution


def distribution_name(point: metadata.EntryPoint) -> str | None:
    """The distribution that a plugin comes from; None where nothing says it."""
    if point.dist is None:
        return None
    return _written_name(point.dist) or _name(point.dist)


def distribution_version(point: metadata.EntryPoint) -> str | None:
    """The version of that distribution; None where its metadata does not say."""
    try:
        version: Any = point.dist.version if point.dist is not None else None
    except Exception:  # as above: a number is all that is lost
        return None
    return version if isinstance(version, str) else None


def _written_name(distribution: metadata.Distribution) -> str | None:
    """The name in its METADATA, which may not be text, be gone, or not be readable."""
    try:
        name: Any = distribution.name
    except Exception:
        return None
    return name if isinstance(name, str) else None


def normal(name: str) -> str:
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def uncache_stevedore() -> None:
    """Have stevedore read entry points as `installed` does, and no file of its cache.

    For the whole process, as keystoneauth, castellan and oslo.config look up their plugins through
    managers that nobody else can make for them. stevedore has no option for it: its `.disable` file
    stops only what it writes.
    """
    from stevedore import _cache

    cache = _cache._c
    if not isinstance(cache._internal, _InMemory):
        cache._internal = _InMemory()


class _InMemory(dict[tuple[str, ...], Any]):
    """What stevedore asks before it looks for a file: it has every answer, by `sys.path`."""

    def __contains__(self, path: object) -> bool:
        return True

    def __getitem__(self, path: tuple[str, ...]) -> Any:
        if not dict.__contains__(self, path):
            groups: dict[str, dict[tuple[str, str, str], None]] = {}
            for point in _read().points:
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
            continue  # an older one further down the path
        problem = _problem(distribution, name)
        if problem is None and name is not None:
            seen.add(key)
        else:
            damaged.append(_damage(distribution, name, problem or "has no name"))
        if name is None:
            continue
        try:
            points += _declared(distribution)
        except Exception as error:
            why = f"has an entry_points.txt that is left out: {shown_error(error)}"
            damaged.append(_damage(distribution, name, why))
    return Installed(tuple(points), tuple(damaged))


def _found() -> Iterator[metadata.Distribution]:
    finder = iter(metadata.distributions())
    while True:
        try:
            yield next(finder)
        except StopIteration:
            return
        except Exception as error:  # of a finder that somebody installed
            LOG.warning("not all distributions can be found: %s", shown_error(error))
            return


def _declared(distribution: metadata.Distribution) -> list[metadata.EntryPoint]:
    """:raises Exception: its `entry_points.txt` is damaged."""
    found = list(distribution.entry_points)
    text = "" if found else distribution.read_text("entry_points.txt") or ""
    lines = [line for line in map(str.strip, text.splitlines()) if line and line[0] not in "#;"]
    if lines and not lines[0].startswith("["):  # zeros after a power loss, a byte order mark
        raise ValueError("it does not begin with a section")
    return found


def _path(distribution: metadata.Distribution) -> Path | None:
    """Its folder; None where it is none of a file system."""
    path = getattr(distribution, "_path", None)
    return path if isinstance(path, Path) else None


def _name(distribution: metadata.Distribution) -> str | None:
    """Its name, if it is one: pip leaves `~name-1.0.dist-info` behind when it is interrupted."""
    path = _path(distribution)
    match = _FOLDER.match(path.name) if path is not None else None
    try:
        name: Any = match["name"] if match is not None else distribution.metadata["Name"]
    except Exception:  # as in `distribution_version`
        return None
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None


def _problem(distribution: metadata.Distribution, name: str | None) -> str | None:
    """What is wrong with the folder, as far as a look at its directory tells."""
    path = _path(distribution)
    if name is None:
        return "has no usable name"
    if path is None:
        return None
    if not path.is_dir():
        # distutils wrote an egg-info that is one file.
        return None if path.suffix == ".egg-info" and path.is_file() else "is no directory"
    if not os.access(path, os.R_OK | os.X_OK):
        return "may not be read by this user"
    points = path / "entry_points.txt"
    if points.exists() and not os.access(points, os.R_OK):
        return "has an entry_points.txt that this user may not read"
    if not any((path / each).exists() for each in ("METADATA", "PKG-INFO")):
        return "has no METADATA"
    return None


def _damage(distribution: metadata.Distribution, name: str | None, problem: str) -> Damage:
    path = _path(distribution)
    shown = printable(str(path or distribution), 300)
    return Damage(
        name or (printable(path.name, 100) if path is not None else "without a name"),
        shown,
        problem,
        f"pip install --force-reinstall {name}, or remove {shown}" if name is not None
        else f"remove {shown}: an interrupted installation left it behind",
    )  # fmt: skip


_logged: set[str] = set()
_lock = threading.Lock()


def _log(damaged: tuple[Damage, ...]) -> None:
    with _lock:
        new = [each for each in damaged if str(each) not in _logged]
        _logged.update(map(str, new))
    for each in new:
        LOG.warning("%s; to mend it: %s", each, each.remedy)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have had it


os.register_at_fork(after_in_child=_after_fork_in_child)
