"""What a host's second process is told when it begins."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagebroker.swarm.certificates import Identity
from imagebroker.swarm.plan import Layout

#: Of a host. That of an address is longer than any of its parts.
_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")


@dataclass(frozen=True)
class Start:
    """One download's part in a swarm."""

    #: Which image: the same for all who want the same bytes.
    topic: str
    size: int
    #: The first chunk that this host wants.
    first: int
    #: The chunk at which it has begun to read before it knew of others.
    opening: int
    #: A directory of this download alone, on a disk with room for the image.
    spool: str
    #: This host's address in the fleet.
    address: str
    #: Where it listens, the first that is free; empty: anywhere.
    ports: Sequence[int]
    members: Sequence[tuple[str, int]]
    rendezvous: Sequence[str]
    ca: str
    certificate: str
    key: str
    #: Bytes a second that it sends to other hosts; 0: as many as it can.
    upload_limit: int = 0
    #: Seconds without any news after which it is not worth while.
    idle_timeout: float = 24.0
    #: The root of the image's hash tree according to its record, in hex; empty: it has none.
    root: str = ""
    #: Where this host stands: others of this rack are preferred.
    rack: str = ""
    #: A directory that all hosts share, where they find each other.
    directory: str = ""
    #: Bytes a second that it takes from other hosts, and that it reads from the backend.
    download_limit: int = 0
    backend_limit: int = 0
    #: Where libtorrent listens; 0: beside the port at which the host is called.
    libtorrent: int = 0

    @functools.cached_property
    def layout(self) -> Layout:
        return Layout(self.size)

    @property
    def identity(self) -> Identity:
        return Identity(Path(self.ca), Path(self.certificate), Path(self.key))

    @property
    def message(self) -> dict[str, Any]:
        return {"t": "start", **asdict(self)}

    @classmethod
    def of(cls, message: dict[str, Any]) -> Start:
        values = {name: value for name, value in message.items() if name != "t"}
        values["members"] = [(host, port) for host, port in values["members"]]
        return cls(**values)


def ports(text: str) -> list[int]:
    """The first half of the range FIRST-LAST, where hosts are called; libtorrent listens in the
    second, as far behind.

    :raises ValueError: it is not a range of ports.
    """
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < first < last < 1 << 16:
        raise ValueError(f"{text!r} is not a range of ports: write it as 7881-7888")
    return list(range(first, first + (last - first + 1) // 2))


def members(texts: Sequence[str], at: Sequence[int]) -> list[tuple[str, int]]:
    """What ADDRESS or NAME (called at all these ports) and ADDRESS:PORT stand for.

    :raises ValueError: one is neither.
    """
    found = []
    for text in texts:
        address, port = _split(text)
        found += [(address, each) for each in ([port] if port else at)]
    return found


def _split(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if not colon or (text.count(":") > 1 and not text.startswith("[")):
        host, port = text, ""
    address = host.strip("[]")
    if not _NAME.fullmatch(address):
        ipaddress.ip_address(address)
    if port and not (port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError(f"{text!r}: the port is not a number from 1 to 65535")
    return address, int(port) if port else None
