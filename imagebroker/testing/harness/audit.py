"""Records side effects of code, from Python's audit events.

One hook for the process, installed at the first use: Python has no way to take it away again.
What happens inside C libraries makes no events.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

#: What is recorded. The names are Python's.
NETWORK = frozenset({"socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"})
FILES = frozenset({
    "open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link",
    "os.truncate", "os.listdir", "os.scandir", "shutil.copyfile", "sqlite3.connect",
})  # fmt: skip
CHILDREN = frozenset({
    "subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec",
    "os.spawn",
})  # fmt: skip
_EVERY = NETWORK | FILES | CHILDREN | {"socket.__new__"}


@dataclass(frozen=True)
class Event:
    """One thing that code did."""

    name: str
    arguments: tuple[Any, ...]
    #: Inside a call of the facade (`host.connect`, `host.open_beneath`).
    guarded: bool

    @property
    def path(self) -> str | None:
        """The file that it is about, where it is about one by name."""
        first = self.arguments[0] if self.arguments else None
        if self.name in FILES and isinstance(first, str | bytes | os.PathLike):
            return os.fsdecode(first)
        return None

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{each!r:.80}' for each in self.arguments[:2])})"


@dataclass
class Recording:
    """What was recorded since it began, in the thread that began it and in those started since."""

    events: list[Event] = field(default_factory=list)
    #: Let the so-manieth call that takes a descriptor fail, counted from 0, and all after it.
    fail_from: int | None = None
    #: Calls that failed so.
    failed: int = 0
    _others: frozenset[threading.Thread] = frozenset()
    _taken: int = 0

    def record(self, name: str, arguments: tuple[Any, ...]) -> None:
        # Not by number: a new thread gets that of one that has ended.
        if threading.current_thread() in self._others or _is_python_itself(name, arguments):
            return
        event = Event(name, arguments, getattr(_guard, "depth", 0) > 0)
        self.events.append(event)
        if self.fail_from is not None and _takes_descriptor(name, arguments):
            self._taken += 1
            if self._taken > self.fail_from:
                self.failed += 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def of(self, names: frozenset[str]) -> list[Event]:
        return [event for event in self.events if event.name in names]

    def unguarded(self, names: frozenset[str]) -> list[Event]:
        """What did not go through the facade."""
        return [event for event in self.of(names) if not event.guarded]


_active: list[Recording] = []
_guard = threading.local()
_installed = threading.Lock()
_hook_is_there = False


@contextmanager
def record_events(fail_from: int | None = None) -> Iterator[Recording]:
    """Record what this thread does inside the block, and what threads do that begin there."""
    _install()
    others = frozenset(threading.enumerate()) - {threading.current_thread()}
    recorded = Recording(fail_from=fail_from, _others=others)
    _active.append(recorded)
    try:
        yield recorded
    finally:
        _active.remove(recorded)


@contextmanager
def guarded() -> Iterator[None]:
    """What this thread does inside the block goes through the facade."""
    _guard.depth = getattr(_guard, "depth", 0) + 1
    try:
        yield
    finally:
        _guard.depth -= 1


def _takes_descriptor(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether the call takes a new descriptor, rather than wrap one that is there."""
    if name == "open":
        return not isinstance(arguments[0], int)
    if name != "socket.__new__":
        return False
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and frame.f_code is not socket.socket.__init__.__code__:
        frame = frame.f_back if frame.f_code.co_name == "__init__" else None
    return frame is None or frame.f_locals.get("fileno") is None


def _install() -> None:
    global _hook_is_there
    with _installed:
        if not _hook_is_there:
            sys.addaudithook(_hook)
            _hook_is_there = True


def _hook(name: str, arguments: tuple[Any, ...]) -> None:
    if not _active or name not in _EVERY:
        return
    for each in _active:
        each.record(name, arguments)


#: Where Python and installed code live: imports do not count as I/O of a plugin.
_CODE = tuple(
    os.path.join(os.path.realpath(path), "")
    for path in {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
)


def _is_python_itself(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an event is about Python's own files: modules, metadata, /proc, time zones."""
    if name not in FILES or not arguments or not isinstance(arguments[0], str | bytes):
        return False
    path = os.fsdecode(arguments[0])
    if path.endswith((".py", ".pyc", ".so", ".pth")) or path in sys.path:
        return True
    return path.startswith(("/usr/share/zoneinfo/", *_CODE)) or "-info/" in path
