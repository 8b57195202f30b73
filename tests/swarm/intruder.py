"""A program with a host's certificate, that says what it likes: `intruder.py CONFIG`, JSON.

It calls one host, answers its challenge (`answers`: "right", "wrong", "other" for what it would
have to answer to somebody else, "never"; "asks": challenges the host again and again), and has
libtorrent ask for a chunk that it knows all about. It prints what it was told, and how many bytes
it got.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from time import monotonic
from typing import Any

from imagebroker.swarm import proof, tree, wire
from imagebroker.swarm.certificates import NAME, Identity, fingerprint
from imagebroker.swarm.peer import Hello
from imagebroker.swarm.plan import Layout, topic
from imagebroker.swarm.start import Start
from imagebroker.swarm.torrents import Torrents

#: Seconds for which an answer is waited for, and bytes that nobody may get; and for those that may come.
SECONDS, BYTES, PATIENCE = 6.0, 2.0, 30.0


async def main(config: dict[str, Any]) -> dict[str, Any]:
    data = Path(config["image"]).read_bytes()
    layout, spool = Layout(len(data)), Path(config["spool"])
    spool.mkdir()
    start = Start(
        topic("sha256", config["digest"]), len(data), 0, 0, str(spool), config["address"], [], [], [],
        config["ca"], config["certificate"], config["key"],
    )  # fmt: skip
    identity: Identity = start.identity
    torrents = Torrents(start, 0)
    torrents.allow([config["host"]])
    reader, writer = await asyncio.open_connection(
        config["host"], config["port"], ssl=identity.client(), server_hostname=NAME,
        local_addr=(config["address"], 0), limit=wire.LIMIT,
    )  # fmt: skip
    peer = fingerprint(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    greeting = Hello(start.topic, start.size, config.get("id", "z"), 1, torrents.port)
    writer.write(wire.encoded(greeting.message))
    told: list[str] = []
    host = None
    ends = monotonic() + SECONDS
    while monotonic() < ends:
        try:
            message = await asyncio.wait_for(wire.received(reader), 0.2)
        except TimeoutError:
            continue
        except OSError:
            break
        if message is None:
            break
        told.append(message["t"])
        if message["t"] == "hello":
            host = Hello.of(message)
            for _ in range(6 if config["answers"] == "asks" else 0):
                places = {"nonce": proof.nonce(), "places": [[0, 8192]]}
                writer.write(wire.encoded({"t": "challenge", **places}))
        elif message["t"] == "challenge":
            ends = monotonic() + BYTES  # the host has something by now
            parts = [data[at : at + length] for at, length in message["places"]]
            asker = peer if config["answers"] == "right" else "0" * 64
            digest = proof.answer(message["nonce"], identity.fingerprint, asker, parts)
            if config["answers"] == "wrong":
                digest = "0" * 64
            if config["answers"] != "never":
                writer.write(wire.encoded({"t": "answer", "digest": digest}))
            index = message["places"][0][0] // layout.chunk
            first, stop = layout.span(index)
            pieces = tree.layer(tree.leaves([data[first:stop]]), layout.piece)
            torrents.fetch(index, pieces, str(index))
            writer.write(wire.encoded({"t": "accepted"}))
            writer.write(wire.encoded({"t": "on", "i": index}))
            await asyncio.sleep(0.5)
            if host is not None:
                torrents.connect(index, config["host"], host.libtorrent)
    got = await received(torrents, layout, PATIENCE if "accepted" in told else 1.0)
    return {"told": sorted(set(told)), "bytes": got}


async def received(torrents: Torrents, layout: Layout, seconds: float) -> int:
    """Bytes that came, as soon as any did."""
    ends = monotonic() + seconds
    while True:
        torrents.look_closer()
        await asyncio.sleep(0.2)
        torrents.finished()
        got = sum(torrents.progress(index) for index in range(layout.count))
        if got or monotonic() > ends:
            return got


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))), flush=True)
    os._exit(0)
