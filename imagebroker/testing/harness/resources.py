"""Resources that a call leaks, and changes that it makes to the process."""

from __future__ import annotations

import gc
import locale
import logging
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ResourceSnapshot:
    """What this process has at one moment."""

    #: Descriptor to what it leads to, as /proc names it.
    descriptors: dict[int, str]
    threads: frozenset[threading.Thread]
    children: frozenset[int]

    @classmethod
    def now(cls) -> ResourceSnapshot:
        return cls(_descriptors(), frozenset(threading.enumerate()), _children())

    def more_than(self, before: ResourceSnapshot) -> list[str]:
        """What is here and was not there before, in words."""
        found = [
            f"descriptor {fd} ({what})"
            for fd, what in self.descriptors.items()
            if before.descriptors.get(fd) != what
        ]
        found += [f"thread {t.name}" for t in self.threads - before.threads]
        return found + [f"child process {pid}" for pid in self.children - before.children]


def leaked_since(before: ResourceSnapshot, allowed: int, settle: float) -> list[str]:
    """What is more than before, after waiting `settle` seconds for what is ending.

    So many things may be there as they are in a pool: then nothing counts as left.
    """
    ends = time.monotonic() + settle
    more = ResourceSnapshot.now().more_than(before)
    while len(more) > allowed and time.monotonic() < ends:
        time.sleep(0.01)
        more = ResourceSnapshot.now().more_than(before)
    if len(more) > allowed:
        gc.collect()  # what only a cycle holds is not held
        more = ResourceSnapshot.now().more_than(before)
    return more if len(more) > allowed else []


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # that of the listing itself, or closed meanwhile
    return found


def _children() -> frozenset[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found.update(map(int, file.read().split()))
        except OSError:
            continue
    return frozenset(found)


def process_state() -> dict[str, Any]:
    """What all code of a process shares, and a plugin must leave as it is."""
    umask = os.umask(0)
    os.umask(umask)
    root = logging.getLogger()
    return {
        "os.environ": dict(os.environ),
        "the current directory": os.getcwd(),
        "the umask": umask,
        "socket.setdefaulttimeout": socket.getdefaulttimeout(),
        "socket.socket": socket.socket,
        "socket.create_connection": socket.create_connection,
        "socket.getaddrinfo": socket.getaddrinfo,
        "signal handlers": [signal.getsignal(each) for each in signal.valid_signals()],
        "the root logger": (root.level, tuple(root.handlers), root.disabled),
        "logging.disable": root.manager.disable,
        "sys.stdout": sys.stdout,
        "sys.stderr": sys.stderr,
        "sys.excepthook": sys.excepthook,
        "threading.excepthook": threading.excepthook,
        "the recursion limit": sys.getrecursionlimit(),
        "the locale": locale.setlocale(locale.LC_ALL),
    }


def changed_since(before: dict[str, Any]) -> list[str]:
    """What of the process's state is other than before."""
    now = process_state()
    return [name for name, value in before.items() if now[name] != value]
