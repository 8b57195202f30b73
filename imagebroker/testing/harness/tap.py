"""A tap on the connections of a backend: it records them, and injects faults."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace

from oslo_config import cfg

from imagebroker.backends.backend import BackendHost, ImageBackend, Options
from imagebroker.config.settings import Section, Settings, parse_backend
from imagebroker.policy.addresses import Policy
from imagebroker.testing.faults.sockets import pair
from imagebroker.testing.faults.tcp_proxy import NO_FAULT, Wires
from imagebroker.testing.harness.audit import guarded

#: What the facade may connect to in the kit: servers of this host.
LOOPBACK = ("127.0.0.0/8", "::1/128")


class Tap:
    """The connections that the backends of one test make through the facade."""

    def __init__(self) -> None:
        #: Connections made from now on pass through these.
        self.wires: Wires | None = None
        #: The fault is over once it has struck.
        self.once = True
        #: Refuse every address.
        self.closed = False
        #: `(host, port)` of every connection that was made.
        self.targets: list[tuple[str, int]] = []

    @property
    def connections(self) -> int:
        return len(self.targets)

    def connected(self, sock: socket.socket, host: str, port: int, timeout: float) -> socket.socket:
        """What a backend gets that has connected to a server: through the wires, if there are."""
        self.targets.append((host, port))
        wires = self.wires
        if wires is None:
            return sock
        if self.once and any(each.struck.is_set() for each in wires.passages):
            wires.fault = NO_FAULT
        if wires.fault.refuse:
            sock.close()
        near, far = pair()
        wires.join(far, lambda: sock)
        near.settimeout(timeout)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return near

    def close(self) -> None:
        """End the wires; connections made from now on go straight."""
        wires, self.wires = self.wires, None
        if wires is not None:
            wires.close()


@dataclass(frozen=True)
class TappedPolicy(Policy):
    """The real policy; what it has connected is handed to the tap."""

    tap: Tap | None = None

    def connect(
        self,
        host: str,
        port: int,
        *,
        timeout: float,
        own: int | None = None,
        prefer: str | None = None,
    ) -> socket.socket:
        with guarded():
            sock = super().connect(host, port, timeout=timeout, own=own, prefer=prefer)
            return sock if self.tap is None else self.tap.connected(sock, host, port, timeout)


class TappedHost(BackendHost):
    """The real host, whose calls are known to come from the facade."""

    def open_beneath(self, root: str | os.PathLike[str], path: str | bytes) -> int:
        with guarded():
            return super().open_beneath(root, path)


class TappedSettings(Settings):
    """The real settings, whose policies belong to a tap."""

    def __init__(
        self, conf: cfg.ConfigOpts, tap: Tap, chunk_size: int, titles: Iterable[str] = ()
    ) -> None:
        """`titles`: the sections of backends; oslo.config lists only those of files."""
        super().__init__(conf)
        self.limits = replace(self.limits, chunk_size=chunk_size)
        self._tap = tap
        self._titles = tuple(titles)

    def sections(self) -> list[Section]:
        return [parse_backend(title) for title in self._titles]

    def policy(self, section: Section, options: Options, servers: Iterable[str] = ()) -> Policy:
        found = super().policy(section, options, servers)
        if self._tap.closed:
            return TappedPolicy(allowed_ports=found.allowed_ports, tap=self._tap)
        return TappedPolicy(
            found.allowed_networks, found.allowed_ports, found.configured, tap=self._tap
        )

    def host(self, section: Section, cls: type[ImageBackend]) -> TappedHost:
        """What a backend of this section gets from the core."""
        values = self.backend(section, cls.options, cls.require_checksum)
        return TappedHost(
            name=section.name,
            options=values,
            instance=section.instance,
            limits=self.limits,
            policy=self.policy(section, values, cls.servers),
        )
