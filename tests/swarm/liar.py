"""A host of the fleet that lies: `liar.py CONFIG`, JSON. It ends when it is killed.

It has a certificate, and its backend lets it read the image; so it proves its right, reads its
share, and then `tells` others what is not so (`lies.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagebroker.swarm import host, local_host
from imagebroker.swarm.certificates import NAME
from imagebroker.swarm.chunks import Chunks, own_folder
from imagebroker.swarm.peer import Peer
from imagebroker.swarm.peers import Peers
from imagebroker.swarm.plan import topic
from imagebroker.swarm.start import Start
from imagebroker.swarm.torrents import Torrents
from imagebroker.swarm.wire import Message


class Backend:
    """Stands where the first process of a host does: it reads the image with ordinary requests."""

    def __init__(self, start: Start, url: str) -> None:
        self._start, self._url = start, url
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._ordered: asyncio.Queue[Message] = asyncio.Queue()
        self._said.put_nowait({"t": "idle", "n": 0})

    async def received(self) -> Message | None:
        return await self._said.get()

    def send(self, message: Message) -> None:
        match message["t"]:
            case "read":
                self._ordered.put_nowait(message)
            case "trace" | "note" | "left_out":
                print(message["text"], flush=True)

    async def bytes_at(self, places: list[tuple[int, int]]) -> list[bytes] | None:
        return [await asyncio.to_thread(self._read, at, at + size) for at, size in places]

    def answered(self, message: Message) -> None:
        pass

    async def work(self) -> None:
        while True:
            order = await self._ordered.get()
            for index in range(order["first"], order["stop"]):
                data = await asyncio.to_thread(self._read, *self._start.layout.span(index))
                Path(self._start.spool, f"own-{index}").write_bytes(data)
                self._said.put_nowait({"t": "have", "i": index})
            self._said.put_nowait({"t": "idle", "n": order["n"]})

    def _read(self, start: int, stop: int) -> bytes:
        asked = urllib.request.Request(self._url, headers={"Range": f"bytes={start}-{stop - 1}"})
        with urllib.request.urlopen(asked) as answer:
            found: bytes = answer.read()
        return found


def lie(tells: str) -> None:
    """From now on, in this process."""

    class LyingChunks(Chunks):
        def take_in(self, index: int) -> list[bytes]:
            own = self._spool / f"own-{index}"
            shutil.copy(own, self._true(index))
            if tells == "other pieces":
                spoil(own)
            pieces = super().take_in(index)
            shown = self._spool / own_folder(index) / NAME
            if tells == "wrong bytes":
                spoil(shown)
            elif tells == "wrong length":
                os.truncate(shown, os.stat(shown).st_size // 2)
            return pieces

        def _true(self, index: int) -> Path:
            return self._spool / f"true-{index}"

        def _piece(self, index: int, offset: int, length: int) -> bytes:
            """For proofs, in which it does not lie: else nobody would listen."""
            if not self._true(index).exists():
                return super()._piece(index, offset, length)
            with open(self._true(index), "rb") as file:
                return os.pread(file.fileno(), length, offset)

    class LyingTorrents(Torrents):
        def __init__(self, start: Start, port: int) -> None:
            super().__init__(start, port)
            # Else libtorrent itself would send no piece that is not what was named.
            self._session.apply_settings({"disable_hash_checks": True})

        def seed(self, index: int, pieces: Sequence[bytes], folder: str) -> None:
            if tells != "silence":
                super().seed(index, pieces, folder)

    class LyingPeers(Peers):
        def ban(self, peer: Peer, why: str) -> None:
            pass

    vars(host).update(Peers=LyingPeers)
    vars(local_host).update(Chunks=LyingChunks, Torrents=LyingTorrents)


def spoil(path: Path) -> None:
    """Change a byte in every leaf of the hash tree."""
    data = bytearray(path.read_bytes())
    data[::4096] = bytes(byte ^ 1 for byte in data[::4096])
    path.write_bytes(data)


async def main(config: dict[str, Any]) -> None:
    spool = Path(config["spool"])
    spool.mkdir(parents=True)
    start = Start(
        topic("sha256", config["digest"]), config["size"], 0, 0, str(spool), config["address"],
        config.get("ports", list(range(7881, 7885))), [tuple(at) for at in config["members"]],
        config["rendezvous"], config["ca"], config["certificate"], config["key"],
    )  # fmt: skip
    backend = Backend(start, config["url"])
    working = asyncio.create_task(backend.work())
    await host.Host(start, backend).run()
    await working


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    lie(asked["tells"])
    try:
        asyncio.run(main(asked))
    finally:
        sys.stdout.flush()
        os._exit(0)
