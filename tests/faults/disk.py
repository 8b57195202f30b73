"""A disk that may forget what was not synced, fed with the system calls that strace recorded."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: What changes a file or a directory, or makes it last.
TRACED = (
    "openat", "write", "pwrite64", "ftruncate", "fallocate", "copy_file_range", "ioctl", "fsync",
    "fdatasync", "syncfs", "rename", "renameat", "renameat2", "link", "linkat", "unlink",
    "unlinkat", "mkdir", "mkdirat", "rmdir",
)  # fmt: skip
_CALL = re.compile(r"\d+\s+(\w+)\((.*)\)\s+= (\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_AT = re.compile(r"(?:AT_FDCWD|\d+)<([^>]*)>")
_FICLONE = ("FICLONE", "BTRFS_IOC_CLONE", "0x40049409")

#: Where, and the bytes; None instead of them cuts or extends the file to that size.
Change = tuple[int, bytes | None]
Survives = Callable[[list[Change], random.Random], list[Change]]


@dataclass
class File:
    """What the disk is sure to have of a file, and what was written since."""

    synced: bytes = b""
    pending: list[Change] = field(default_factory=list)

    def after(self, changes: list[Change]) -> bytes:
        content = bytearray(self.synced)
        for offset, data in changes:
            if data is None:
                del content[offset:]
                content.extend(bytes(offset - len(content)))
            else:
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
        return bytes(content)

    @property
    def content(self) -> bytes:
        return self.after(self.pending)


class Folder(File):
    """A directory: its entries are names of their own."""


Names = dict[str, File]
#: The folders that are there after a loss, and the contents of the files.
Loss = tuple[tuple[str, ...], tuple[tuple[str, bytes], ...]]


@dataclass
class Disk:
    """The files below one folder, as they are in memory and as they may be after a power loss.

    The entries of directories reach the disk in the order in which they were made, as with every
    journalling file system, but as late as it likes; the contents of files in any order, in part,
    or torn. `fsync` of a directory is what makes its entries last.
    """

    root: str
    synced: Names = field(default_factory=dict)
    #: Renamed, made or removed since: the directories that it touches, and what each name is then.
    pending: list[tuple[set[str], dict[str, File | None]]] = field(default_factory=list)
    #: Contents that were seen already, so that equal ones are kept once.
    _contents: dict[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, *, certain: bool) -> Disk:
        """`certain`: it has all that is in the folder; otherwise contents may still be lost."""
        disk = cls(str(folder))
        for each in sorted(folder.rglob("*")):
            if each.is_dir():
                disk.synced[str(each)] = Folder()
            elif certain:
                disk.synced[str(each)] = File(each.read_bytes())
            else:
                disk.synced[str(each)] = File(b"", [(0, each.read_bytes())])
        return disk

    @property
    def names(self) -> Names:
        return self._with(len(self.pending))

    def _with(self, count: int) -> Names:
        names = dict(self.synced)
        for _, changed in self.pending[:count]:
            for name, file in changed.items():
                if file is None:
                    names.pop(name, None)
                else:
                    names[name] = file
        return names

    def apply(self, call: str, arguments: str, result: str) -> None:
        """One recorded call that succeeded."""
        paths = [self._path(match) for match in _AT.findall(arguments)]
        if call in ("fsync", "fdatasync"):
            self._sync(paths[0])
        elif call == "openat":
            self._opened(arguments, paths)
        elif call in ("write", "pwrite64"):
            self._written(call, arguments, paths[0], int(result))
        elif call == "ftruncate":
            self._change(paths[0], (int(arguments.rpartition(", ")[2]), None))
        elif call == "copy_file_range":
            self._copied(arguments, paths, int(result))
        elif call == "ioctl" and any(word in arguments for word in _FICLONE):
            raise ValueError("clones that share blocks are not known here")
        elif call.startswith(("rename", "link", "unlink", "mkdir", "rmdir")):
            self._renamed(call, self._named(arguments))

    def _path(self, text: str) -> str:
        return bytes.fromhex(text.replace("\\x", "")).decode() if "\\x" in text else text

    def _named(self, arguments: str) -> list[str]:
        """The absolute paths that a call names, beginning with a directory's where one is given."""
        found = []
        pattern = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:\\x[0-9a-f]{2})*)"')
        for base, name in pattern.findall(arguments):
            path = bytes.fromhex(name.replace("\\x", "")).decode()
            found.append(os.path.normpath(os.path.join(self._path(base), path)))
        return found

    def _inside(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + "/")

    def _sync(self, path: str) -> None:
        file = self.names.get(path)
        if path == self.root or isinstance(file, Folder):
            last = max(
                (i for i, (where, _) in enumerate(self.pending) if path in where), default=-1
            )
            self.synced = self._with(last + 1)
            del self.pending[: last + 1]
        elif file is not None:
            file.synced, file.pending = file.content, []

    def _opened(self, arguments: str, paths: list[str]) -> None:
        [path] = self._named(arguments)
        if not self._inside(path):
            return
        file = self.names.get(path)
        if file is None and "O_CREAT" in arguments:
            self.pending.append(({os.path.dirname(path)}, {path: File()}))
        elif file is not None and "O_TRUNC" in arguments:
            file.pending.append((0, None))

    def _written(self, call: str, arguments: str, path: str, count: int) -> None:
        file = self.names.get(path)
        if file is None:
            return
        found = _STRING.search(arguments)
        if found is None or found[2]:
            raise ValueError(f"the bytes of a {call} were not recorded: {arguments[:200]}")
        data = bytes.fromhex(found[1].replace("\\x", ""))[:count]
        offset = int(arguments.rpartition(", ")[2]) if call == "pwrite64" else len(file.content)
        file.pending.append((offset, data))

    def _change(self, path: str, change: Change) -> None:
        if file := self.names.get(path):
            file.pending.append(change)

    def _copied(self, arguments: str, paths: list[str], count: int) -> None:
        source, target = paths
        offsets = re.findall(r"\[(\d+)\]", arguments)
        file = self.names.get(target)
        if file is None:
            return
        start, to = (int(offset) for offset in offsets)
        with open(source, "rb") as opened:
            opened.seek(start)
            file.pending.append((to, opened.read(count)))

    def _renamed(self, call: str, paths: list[str]) -> None:
        if not any(self._inside(path) for path in paths):
            return
        touched = {os.path.dirname(path) for path in paths}
        names = self.names
        if call.startswith("mkdir"):
            self.pending.append((touched, {paths[0]: Folder()}))
        elif call.startswith("rename"):
            old, new = paths
            self.pending.append((touched, {old: None, new: names.get(old)}))
        elif call.startswith("link"):
            old, new = paths
            self.pending.append((touched, {new: names.get(old)}))
        elif paths[0] in names:
            self.pending.append((touched, {paths[0]: None}))

    def losses(self, chance: random.Random) -> Iterator[Loss]:
        """What may be there after a power loss now."""
        for count in range(len(self.pending) + 1):
            names = self._with(count)
            unsure = any(file.pending for file in names.values())
            for survives in (_all, _none, _first_half, _torn, _some, _some) if unsure else (_all,):
                yield self._left(names, survives, chance)

    def _left(self, names: Names, survives: Survives, chance: random.Random) -> Loss:
        folders = {self.root, *(name for name, file in names.items() if isinstance(file, Folder))}
        files = []
        for name, file in sorted(names.items()):
            if not isinstance(file, Folder) and os.path.dirname(name) in folders:
                content = file.after(survives(file.pending, chance))
                files.append((name, self._contents.setdefault(content, content)))
        return tuple(sorted(folders)), tuple(files)


def _all(changes: list[Change], chance: random.Random) -> list[Change]:
    return changes


def _none(changes: list[Change], chance: random.Random) -> list[Change]:
    return []


def _first_half(changes: list[Change], chance: random.Random) -> list[Change]:
    return changes[: len(changes) // 2]


def _some(changes: list[Change], chance: random.Random) -> list[Change]:
    return [each for each in changes if chance.random() < 0.6]


def _torn(changes: list[Change], chance: random.Random) -> list[Change]:
    """All, but of the last write only some sectors."""
    *before, (offset, data) = changes or [(0, b"")]
    return [*before, (offset, data and data[: len(data) // 2 // 512 * 512])]


def recorded(log: str) -> Iterator[tuple[str, str, str]]:
    """Name, arguments and result of each call that succeeded, in the order of their ends."""
    begun: dict[str, str] = {}
    for line in log.splitlines():
        process, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[process] = line.removesuffix("<unfinished ...>")
        elif match := re.search(r"<\.\.\. \w+ resumed>(.*)", line):
            line = begun.pop(process, "") + match[1]
        if found := _CALL.match(line):
            name, arguments, result = found.groups()
            yield name, arguments, result
