"""The process of `imagebroker swarm serve`: passes on the images of a cache, while hosts want them.

`python -m imagebroker.swarm.seeder FD SPOOL`: a socket to the process that looks into the cache,
which says at the beginning who this host is (a `Start` without an image), and then which images
there are; and a directory that this one removes when it ends. One port serves all of them: who
calls says which image it wants. An image that somebody wants is held to its digest, and cut into
chunks; when nobody has wanted it for a while, they are removed. It needs no backend: it proves with
the bytes that it has, and asks others for the same proof.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import tempfile
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from ssl import SSLObject
from time import monotonic
from typing import NamedTuple

from imagebroker.swarm import wire
from imagebroker.swarm.certificates import is_of_fleet
from imagebroker.swarm.child import Parent, main
from imagebroker.swarm.connections import HANDSHAKE_TIMEOUT
from imagebroker.swarm.discovery import register_in
from imagebroker.swarm.host import Host
from imagebroker.swarm.peer import Hello
from imagebroker.swarm.rendezvous import Unreachable, announce
from imagebroker.swarm.start import Start
from imagebroker.swarm.wire import BrokenPeer, Message
from imagebroker.system.files import try_lock

#: Seconds between two announcements.
_AGAIN = 4.0
#: Seconds between two looks at who is there.
_LOOK = 1.0
_BLOCK = 1024 * 1024


class CachedImage(NamedTuple):
    """An image in the cache."""

    path: str
    algorithm: str
    digest: str
    size: int


class _WithoutBackend:
    """What one image has in place of a process that downloads it: nothing is read for it."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self.failed: str | None = None

    async def received(self) -> Message | None:
        return None

    def send(self, message: Message) -> None:
        match message["t"]:
            case "note" | "left_out" | "trace":
                self._parent.send(message)
            case "leave":
                self.failed = str(message["why"])
            case _:
                pass

    async def bytes_at(self, places: list[tuple[int, int]]) -> list[bytes] | None:
        return None

    def answered(self, message: Message) -> None:
        pass


class _Image(Host):
    """One that somebody wants."""

    def __init__(self, start: Start, parent: Parent, port: int) -> None:
        """:raises OSError: libtorrent can listen nowhere."""
        self._parent_ = _WithoutBackend(parent)
        super().__init__(start, self._parent_)
        self._compose(port)
        self._wanted_at = monotonic()
        #: It is there, and verified.
        self.ready = False

    @property
    def libtorrent(self) -> int:
        """The port of its libtorrent; 0: any."""
        return self._start.libtorrent

    @property
    def failed(self) -> str | None:
        """What went wrong: it begins again with the next who wants it."""
        return self._parent_.failed

    @property
    def unwanted_for(self) -> float:
        if len(self._peers):
            self._wanted_at = monotonic()
        return monotonic() - self._wanted_at

    def take(self, cached: CachedImage) -> bool:
        """Cut it into chunks; whether it has its digest. To be called in a thread.

        :raises OSError: there is no room, or it is gone.
        """
        hasher, spool = hashlib.new(cached.algorithm), Path(self._start.spool)
        layout, chunks = self._start.layout, self._local.chunks
        fd = os.open(cached.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as file:
            # The cache removes nothing that is in use.
            if not try_lock(file.fileno(), shared=True):
                raise BlockingIOError(errno.EAGAIN, "the cache is removing it")
            for index in range(layout.count):
                read = spool / f"own-{index}"
                with open(read, "wb", buffering=0) as copy:
                    for block in _blocks(file.fileno(), *layout.span(index)):
                        hasher.update(block)
                        copy.write(block)
                chunks.keep_own(index, chunks.take_in(index))
        return hasher.hexdigest() == cached.digest

    def serve(self) -> None:
        local = self._local
        local.chunks.layer = local.chunks.nodes()
        for index, pieces in local.chunks.known():
            local.torrents.seed(index, pieces, local.chunks.folder(index))
        self._picker.ended(0)
        self._admission.confirmed = self._complete = self.ready = True
        local.begin(self._look())

    async def welcome(self, reader: StreamReader, writer: StreamWriter, hello: Hello) -> None:
        self._wanted_at = monotonic()
        await self._connections.accept(reader, writer, hello)

    def end(self) -> None:
        self._local.end()
        self._peers.close()
        self._local.torrents.close()
        shutil.rmtree(self._start.spool, ignore_errors=True)


def _blocks(fd: int, start: int, stop: int) -> Iterator[bytes]:
    """:raises OSError: they are not there."""
    while start < stop:
        block = os.pread(fd, min(_BLOCK, stop - start), start)
        if not block:
            raise OSError("the image was cut")
        yield block
        start += len(block)


class Seeder:
    """All images of a cache, at one port."""

    def __init__(self, start: Start, parent: Parent, linger: float) -> None:
        self._start, self._parent, self._linger = start, parent, linger
        self._identity = start.identity
        self._cached: dict[str, CachedImage] = {}
        self._images: dict[str, _Image] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0

    async def run(self) -> None:
        """Until the other process is gone. :raises OSError: no port is free."""
        server = await self._listen()
        self._parent.send({"t": "listening", "port": self._port})
        tasks = [asyncio.create_task(each) for each in (self._announce(), self._sweep())]
        try:
            while (message := await self._parent.received()) is not None:
                if message["t"] == "images":
                    self._cached = {
                        topic: CachedImage(*each) for topic, each in message["of"].items()
                    }
                    self._forget()
        finally:
            server.close()
            for task in (*tasks, *self._tasks):
                task.cancel()
            for image in self._images.values():
                image.end()

    async def _listen(self) -> asyncio.Server:
        start = self._start
        for port in start.ports or [0]:
            with suppress(OSError):
                server = await asyncio.start_server(
                    self._accept, start.address, port, ssl=self._identity.server(),
                    limit=wire.LIMIT, ssl_handshake_timeout=HANDSHAKE_TIMEOUT, backlog=256,
                )  # fmt: skip
                self._port = server.sockets[0].getsockname()[1]
                return server
        raise OSError(f"no port of {start.address} is free for serving")

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            secured = writer.get_extra_info("ssl_object")
            if not isinstance(secured, SSLObject) or not is_of_fleet(secured.getpeercert()):
                return
            hello = Hello.of(await asyncio.wait_for(wire.received(reader), HANDSHAKE_TIMEOUT))
            image = self._images.get(hello.topic) or self._begin(hello.topic)
            if image is not None and image.ready:
                await image.welcome(reader, writer, hello)
        except (OSError, TimeoutError, BrokenPeer):
            pass
        finally:
            writer.transport.abort()

    # -- images ----------------------------------------------------------------------------------

    def _begin(self, topic: str) -> _Image | None:
        """Prepare an image: whoever wants it calls again."""
        cached = self._cached.get(topic)
        if cached is None:
            return None
        spool = tempfile.mkdtemp(prefix="serve-", dir=self._start.spool)
        start = replace(self._start, topic=topic, size=cached.size, spool=spool, ports=[])
        try:
            image = self._composed(start)
        except OSError as error:
            self._note(f"{cached.algorithm}:{cached.digest} is not served: {error}")
            shutil.rmtree(spool, ignore_errors=True)
            return None
        self._images[topic] = image
        task = asyncio.create_task(self._prepare(topic, cached, image))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return image

    def _composed(self, start: Start) -> _Image:
        """:raises OSError: all ports for libtorrent are in use."""
        used = {each.libtorrent for each in self._images.values()}
        free = [port for port in self._start.ports[1:] if port not in used | {self._port}]
        if self._start.ports and not free:
            raise OSError("as many images as there are ports are served")
        return _Image(replace(start, libtorrent=free[0] if free else 0), self._parent, self._port)

    async def _prepare(self, topic: str, cached: CachedImage, image: _Image) -> None:
        title = f"{cached.algorithm}:{cached.digest}"
        try:
            if await asyncio.to_thread(image.take, cached):
                image.serve()
                self._parent.send({"t": "trace", "text": f"serving {title}"})
                return
            self._note(f"{title} in the cache is damaged, and not served")
        except OSError as error:
            self._note(f"{title} is not served: {error}")
        self._cached.pop(topic, None)
        if self._images.get(topic) is image:
            del self._images[topic]
        image.end()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            for topic, image in list(self._images.items()):
                if image.failed is not None:
                    self._note(f"an image is served anew: {image.failed}")
                    self._images.pop(topic).end()
                elif image.ready and image.unwanted_for > self._linger:
                    self._images.pop(topic).end()
                    self._parent.send({"t": "trace", "text": f"nobody wants {topic} any more"})

    def _forget(self) -> None:
        """What is in the cache no more."""
        for topic in [each for each, image in self._images.items() if image.ready]:
            if topic not in self._cached:
                self._images.pop(topic).end()

    # -- others ----------------------------------------------------------------------------------

    async def _announce(self) -> None:
        while True:
            await asyncio.to_thread(self._tell, list(self._cached))
            await asyncio.sleep(_AGAIN)

    def _tell(self, topics: list[str]) -> None:
        start = self._start
        own = f"[{start.address}]" if ":" in start.address else start.address
        for where in start.rendezvous:
            with suppress(Unreachable):
                announce(where, self._identity.client(), topics, f"{own}:{self._port}")
                break
        if start.directory:
            for topic in topics:
                with suppress(OSError):
                    register_in(Path(start.directory), topic, (start.address, self._port))

    def _note(self, text: str) -> None:
        self._parent.send({"t": "note", "text": text})


if __name__ == "__main__":
    main(
        lambda start, parent, first: Seeder(start, parent, float(first["linger"])).run(),
        limit=64 * wire.LIMIT,
    )
