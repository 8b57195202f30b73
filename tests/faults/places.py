"""Real servers with one image, each behind a proxy that breaks connections, and brokers for them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import imagebroker
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.process import HOST, Server
from tests.servers.sshd import Sshd
from tests.servers.swift import Swift
from tests.servers.tcp import NO_FAULT, TcpProxy

#: Small, so that thousands of points take minutes, and no multiple of anything.
IMAGE = random.Random(5).randbytes(64 * 1024 + 321)
SCHEMES = ("http", "https", "glance", "scp")


@dataclass
class Place:
    """Where the image is: a ref that leads through a proxy to a real server."""

    scheme: str
    ref: str
    proxy: TcpProxy


class Places:
    """The servers of some schemes, all with the same image."""

    def __init__(self, folder: Path, schemes: Iterable[str] = SCHEMES, data: bytes = IMAGE) -> None:
        self.folder, self.data = folder, data
        self._schemes = tuple(schemes)
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count()
        self._options: dict[str, str] = {}
        self.servers: dict[str, Server] = {}
        self._places: dict[str, Place] = {}
        self._object_store: Swift | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._stack = stack
            for scheme in self._schemes:
                getattr(self, f"_{scheme}")()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __getitem__(self, scheme: str) -> Place:
        return self._places[scheme]

    @property
    def checksum(self) -> str:
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    def configuration(self, core: str = "") -> str:
        """The text of a config file, with further lines of `[imagebroker]`."""
        text = f"[imagebroker]\nenabled_schemes = {', '.join((*self._schemes, 'file'))}\n{core}\n"
        text += "".join(f"[backend:{name}]\n{lines}\n" for name, lines in self._options.items())
        return text + f"[backend:file]\nstore_dir = {self.folder / 'store'}\n"

    def broker(self, core: str = "") -> imagebroker.Broker:
        """A new one, with further lines of `[imagebroker]`."""
        config = self.folder / f"places-{next(self._numbers)}.conf"
        config.write_text(self.configuration(core))
        try:
            return imagebroker.Broker.from_config(config)
        finally:
            config.unlink()

    def _proxied(self, port: int) -> TcpProxy:
        return self._stack.enter_context(TcpProxy(HOST, port))

    def _nginx(self) -> Nginx:
        server = self.servers.get("nginx")
        if not isinstance(server, Nginx):
            root = self.folder / "root"
            root.mkdir()
            root.chmod(0o755)
            (root / "image.img").write_bytes(self.data)
            server = self.servers["nginx"] = self._stack.enter_context(Nginx(root))
            self._options["http"] = f"allowed_networks = 127.0.0.0/8\nca_file = {server.ca_file}"
        return server

    def _http(self) -> None:
        proxy = self._proxied(self._nginx().ports["http"])
        self._places["http"] = Place("http", f"http://{HOST}:{proxy.port}/image.img", proxy)

    def _https(self) -> None:
        proxy = self._proxied(self._nginx().ports["good"])
        self._places["https"] = Place("https", f"https://{HOST}:{proxy.port}/image.img", proxy)

    def _glance(self) -> None:
        server = self._stack.enter_context(OpenStack())
        self.servers["glance"] = server
        proxy = self._proxied(urlsplit(server.endpoint).port or 0)
        lines = [f"{key} = {value}" for key, value in server.auth_options("red").items()]
        lines += [f"endpoint = http://{HOST}:{proxy.port}/", "allowed_networks = 127.0.0.0/8"]
        self._options["glance"] = "\n".join(lines)
        image = server.create_image(self.data)
        self._places["glance"] = Place("glance", f"glance:{image}", proxy)

    def _swift_server(self) -> Swift:
        if self._object_store is None:
            self._object_store = self._stack.enter_context(Swift())
            user = self._object_store.user()
            user.call("PUT", "images")
            user.call("PUT", "images/image.img", self.data)
        return self._object_store

    def _s3(self) -> None:
        server = self._swift_server()
        proxy = self._proxied(server.port)
        options = server.options(endpoint_url=f"http://{HOST}:{proxy.port}")
        self._options["s3"] = _lines(options)
        self._places["s3"] = Place("s3", "s3://images/image.img", proxy)

    def _swift(self) -> None:
        """The login does not lead through the proxy: it is done once."""
        server = self._swift_server()
        proxy = self._proxied(server.port)
        account = server.user().account_url
        url = account.replace(server.url, f"http://{HOST}:{proxy.port}")
        self._options["swift"] = _lines(server.swift_options(storage_url=url))
        self._places["swift"] = Place("swift", "swift://images/image.img", proxy)

    def _scp(self) -> None:
        server = self._stack.enter_context(Sshd())
        self.servers["sshd"] = server
        proxy = self._proxied(server.port)
        keys = server.known_hosts.read_text().replace(f"[{HOST}]:{server.port}", f"[{HOST}]:*")
        known = self.folder / "known_hosts"
        known.write_text(keys)
        source = self.folder / "ssh.img"
        source.write_bytes(self.data)
        self._options["scp"] = (
            f"known_hosts = {known}\nidentity_file = {server.key}\nallowed_networks = 127.0.0.0/8"
        )
        ref = f"scp://{server.user}@{HOST}:{proxy.port}{source}"
        self._places["scp"] = Place("scp", ref, proxy)


def _lines(options: Mapping[str, object]) -> str:
    return "\n".join(f"{name} = {value}" for name, value in options.items())


def quiet(proxy: TcpProxy) -> None:
    """End what still runs through it, and take the fault away."""
    proxy.fault = NO_FAULT
    proxy.fault_for.clear()
    proxy.catch_up()
    for passage in [*proxy.passages]:
        passage.close()
    proxy.passages.clear()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    """Those of the kernel: Python remembers some that are gone."""
    return len(os.listdir("/proc/self/task"))


def stranger(error: BaseException) -> bool:
    """Whether an error is not what a broken connection should be."""
    broken = isinstance(error, (imagebroker.TransferError, imagebroker.BackendError))
    return not (broken and getattr(error, "retryable", False))
