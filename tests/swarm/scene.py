"""A host that downloads slowly, and a program that wants its bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.servers.nginx import Nginx
from tests.swarm.fleet import Fleet, published

MIB = 1024 * 1024
#: Bytes a second of the backend.
SLOW = MIB // 2
#: A program: not imported here, because it imports libtorrent.
INTRUDER = Path(__file__).with_name("intruder.py")


class Scene:
    """A host that downloads slowly, and what an intruder gets of it."""

    def __init__(self, fleet: Fleet, nginx: Nginx) -> None:
        fleet.with_list()
        self.fleet = fleet
        self.host, self.other = fleet.hosts
        self.host.configure("swarm_linger = 30")
        self.data, self.checksum = published(nginx.root, "image.raw", 16 * MIB)
        self.host.download(nginx.url("image.raw", prefix="slow"), self.checksum)
        self.host.read_until("reading chunks")

    def intrudes(self, answers: str, **changed: Any) -> dict[str, Any]:
        image = self.fleet.directory / "image.raw"
        image.write_bytes(self.data)
        pki, name = self.fleet.pki, self.other.name
        config = {
            "image": str(image), "digest": self.checksum.partition(":")[2], "answers": answers,
            "spool": str(self.fleet.directory / "intruder"), "address": self.other.address,
            "host": self.host.address, "port": 7881, "ca": str(pki / "ca.pem"),
            "certificate": str(pki / f"{name}.pem"), "key": str(pki / f"{name}.key"),
        } | changed  # fmt: skip
        done = subprocess.run(
            [sys.executable, INTRUDER, json.dumps(config)],
            capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
        if done.returncode:
            return {"told": [], "bytes": 0, "error": done.stderr}
        found: dict[str, Any] = json.loads(done.stdout)
        return found
