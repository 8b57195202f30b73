"""A host that downloads slowly, and a program that wants its bytes."""

from __future__ import annotations

from typing import Any

from tests.servers.nginx import Nginx
from tests.swarm.fleet import Fleet, intruded, published

MIB = 1024 * 1024
#: Bytes a second of the backend.
SLOW = MIB // 2


class Scene:
    """A host that downloads slowly, and what an intruder gets of it."""

    def __init__(self, fleet: Fleet, nginx: Nginx) -> None:
        fleet.with_list()
        self.fleet = fleet
        self.host, self.other = fleet.hosts
        self.host.configure("swarm_linger = 30")
        self.data, self.checksum = published(nginx.root, "image.raw", 6 * MIB)
        self.host.download(nginx.url("image.raw", prefix="slow"), self.checksum)
        self.host.read_until("listening at")

    def intrudes(self, answers: str, **changed: Any) -> dict[str, Any]:
        return intruded(self.host, self.other, self.data, self.checksum, answers, **changed)
