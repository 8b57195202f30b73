"""Where the other hosts of the fleet are: a list, names, a shared directory, a rendezvous."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from imagebroker.swarm.rendezvous import MAX_NAMED, REMEMBERED, Unreachable, register

if TYPE_CHECKING:
    from imagebroker.swarm.local_host import LocalHost  # it has libtorrent

#: Where a host is called.
Address = tuple[str, int]
#: Seconds within which names and the directory must answer, and after which a name is looked up
#: again.
_TIMEOUT, _FRESH = 5.0, 10.0
#: Seconds after which anybody removes the note of a host that is gone.
_STALE = 20 * REMEMBERED
_NOTE = re.compile(r"(?P<host>[0-9A-Fa-f.:]{2,45})_(?P<port>[0-9]{1,5})")


class Discovery:
    """Looks again and again; what does not answer is passed over."""

    def __init__(self, local: LocalHost) -> None:
        self._local, start = local, local.start
        self._listed = {each for each in start.members if _is_address(each[0])}
        self._names = [each for each in start.members if not _is_address(each[0])]
        self._resolved: set[Address] = set()
        self._resolved_at = -_FRESH
        #: Looks into the directory: one at a time, because it may hang.
        self._looking: asyncio.Task[set[Address]] | None = None

    async def found(self) -> set[Address]:
        """All that are known now, this host among them."""
        named, noted, known = await asyncio.gather(
            self._resolve(), self._from_directory(), self._from_rendezvous()
        )
        return self._listed | named | noted | known

    async def _resolve(self) -> set[Address]:
        if self._names and monotonic() - self._resolved_at > _FRESH:
            self._resolved_at = monotonic()
            for name, port in self._names:
                with suppress(OSError, TimeoutError, UnicodeError):
                    found = await asyncio.wait_for(
                        asyncio.get_running_loop().getaddrinfo(name, port), _TIMEOUT
                    )
                    self._resolved |= {(str(each[4][0]), port) for each in found}
        return self._resolved

    async def _from_directory(self) -> set[Address]:
        local = self._local
        if not local.start.directory:
            return set()
        if self._looking is None:
            self._looking = asyncio.create_task(asyncio.to_thread(
                register_in, Path(local.start.directory), local.start.topic,
                (local.start.address, local.port),
            ))  # fmt: skip
        done, _ = await asyncio.wait({self._looking}, timeout=_TIMEOUT)
        if not done:
            return set()
        looked, self._looking = self._looking, None
        return set() if looked.exception() is not None else looked.result()

    async def _from_rendezvous(self) -> set[Address]:
        local = self._local
        for where in local.start.rendezvous:
            with suppress(Unreachable):
                found = await asyncio.to_thread(
                    register, where, local.tls, local.start.topic, local.address
                )
                return {_address(each) for each in found}
        return set()

    async def leave(self) -> None:
        """Nobody need call this host any more."""
        local = self._local
        if local.start.directory:
            with suppress(OSError):
                note = _note(local.start.address, local.port)
                os.unlink(Path(local.start.directory, local.start.topic, note))
        for where in local.start.rendezvous:
            with suppress(Unreachable):
                await asyncio.to_thread(
                    register, where, local.tls, local.start.topic, local.address, leaving=True
                )
                return


def register_in(directory: Path, topic: str, own: Address) -> set[Address]:
    """Leave a note in a directory that all hosts share; those of hosts that did so lately.

    What is late is measured by the time of the file system, which is one for all.

    :raises OSError: it cannot be used.
    """
    folder = directory / topic
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / _note(*own)
    note.write_bytes(b"")  # not touch: some file systems would take this host's time
    now, found = note.stat().st_mtime, set()
    for entry in os.scandir(folder):
        match = _NOTE.fullmatch(entry.name)
        with suppress(OSError):
            age = now - entry.stat(follow_symlinks=False).st_mtime
            if match is not None and age < REMEMBERED:
                found.add((match["host"], int(match["port"])))
            elif age > _STALE:
                os.unlink(entry)
    return some(found - {own})


def some(found: Collection[Address]) -> set[Address]:
    """As many as one host can do with, at random."""
    return set(random.sample(sorted(found), min(len(found), MAX_NAMED)))


def _note(host: str, port: int) -> str:
    return f"{host}_{port}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
