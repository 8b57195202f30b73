"""The second process of a host: `python -m imagebroker.swarm.child FD SPOOL`.

FD is a socket to the first process, SPOOL a directory that this one removes when it ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from imagebroker.swarm import wire
from imagebroker.swarm.host import Host
from imagebroker.swarm.start import Start
from imagebroker.swarm.wire import Message
from imagebroker.system.files import lock

#: Seconds within which the backend must have answered a question for a few bytes.
_TIMEOUT = 15.0


class Parent:
    """The process that downloads, as its child sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._asked: dict[int, asyncio.Future[list[bytes] | None]] = {}
        self._last = 0

    async def received(self) -> Message | None:
        """None when it is gone."""
        try:
            return await wire.received(self._reader)
        except (OSError, wire.BrokenPeer):
            return None

    def send(self, message: Message) -> None:
        if not self._writer.is_closing():
            self._writer.write(wire.encoded(message))

    async def bytes_at(self, places: list[tuple[int, int]]) -> list[bytes] | None:
        """What the backend sends at these places; None if it does not, or not soon."""
        self._last += 1
        number = self._last
        asked: asyncio.Future[list[bytes] | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        self.send({"t": "places", "n": number, "places": places})
        try:
            return await asyncio.wait_for(asked, _TIMEOUT)
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    def answered(self, message: Message) -> None:
        asked = self._asked.get(message["n"])
        if asked is not None and not asked.done():
            parts: Any = message["parts"]
            asked.set_result(None if parts is None else [bytes.fromhex(each) for each in parts])


#: What the second process does: of what it was told, and with whom.
Part = Callable[[Start, Parent, Message], Coroutine[Any, Any, None]]


async def _work(sock: socket.socket, limit: int, part: Part) -> None:
    """Nothing is done if the first process is gone already."""
    reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    parent = Parent(reader, writer)
    first = await parent.received()
    if first is None:
        return
    start = Start.of(first.get("start", first))
    fd = os.open(os.path.join(start.spool, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    lock(fd)
    try:
        await part(start, parent, first)
    except OSError as error:
        parent.send({"t": "leave", "why": str(error)})
        with suppress(OSError):
            await writer.drain()


def main(part: Part, limit: int = 4 * wire.LIMIT) -> None:
    """Do this process's part, and end it. `limit`: bytes of the first process's longest message."""
    # It ends with the process that started it, not with a key that a person presses there.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    try:
        asyncio.run(_work(sock, limit, part))
    except BaseException:
        traceback.print_exc()  # the first process looks at the last line, and removes the spool
    else:
        shutil.rmtree(sys.argv[2], ignore_errors=True)
    finally:
        # libtorrent's threads would abort the interpreter where it ends by itself.
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main(lambda start, parent, first: Host(start, parent).run())
