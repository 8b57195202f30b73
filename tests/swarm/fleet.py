"""A fleet on the loopback interface: each host is a process with an address of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from imagebroker.swarm import certificates
from tests.servers.nginx import Nginx

needs_libtorrent = pytest.mark.skipif(
    importlib.util.find_spec("libtorrent") is None,
    reason="libtorrent is not installed: pip install 'imagebroker[swarm]'",
)
#: A program: not imported here, because it imports libtorrent.
_INTRUDER = Path(__file__).with_name("intruder.py")
COMMAND = [sys.executable, "-m", "imagebroker"]


class Host:
    """One host: `download` starts a process, `wait` tells how it ended."""

    def __init__(self, fleet: Fleet, name: str, address: str) -> None:
        self.fleet, self.name, self.address = fleet, name, address
        self.directory = fleet.directory / name
        self.directory.mkdir(parents=True)
        self.image = self.directory / "image.raw"
        self.config = self.directory / "imagebroker.conf"
        self._process: subprocess.Popen[str] | None = None
        self.output = ""

    def configure(self, *lines: str) -> Host:
        pki = self.fleet.pki
        self.config.write_text("\n".join([
            "[imagebroker]", "enabled_schemes = http", "share_downloads = false", "swarm = true",
            f"swarm_address = {self.address}", f"swarm_ca = {pki / 'ca.pem'}",
            f"swarm_certificate = {pki / self.name}.pem", f"swarm_key = {pki / self.name}.key",
            f"swarm_dir = {self.directory / 'spool'}", "swarm_from = 1M", "swarm_linger = 10",
            *self.fleet.options, *lines, "[backend:http]", "allowed_networks = 127.0.0.0/8",
        ]))  # fmt: skip
        return self

    def download(self, url: str, checksum: str) -> Host:
        return self.command("download", url, self.image, "--checksum", checksum)

    def command(self, *arguments: str | Path) -> Host:
        """Start a command of imagebroker on this host."""
        return self.start([*COMMAND, "--config-file", self.config, "-vv", *arguments])

    def start(self, argv: Sequence[str | Path]) -> Host:
        self._process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        return self

    @property
    def pid(self) -> int | None:
        """Of the first process; None before it begins and after `end`."""
        return None if self._process is None else self._process.pid

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def read_until(self, text: str) -> str:
        """Wait for a line of its log."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if text in line:
                return line
        raise AssertionError(f"{self.name} never says {text!r}:\n{self.output}")

    def wait(self) -> int:
        self.output += self.process.communicate()[0]
        return self.process.returncode

    @property
    def spooled(self) -> list[Path]:
        """What is left of its downloads."""
        spool = self.directory / "spool"
        return list(spool.iterdir()) if spool.exists() else []

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


class Fleet:
    """Hosts, their certificates, and how they find each other."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory, self.pki = directory, directory / "pki"
        # Loopback addresses that no other test has.
        network = f"127.{random.randrange(16, 250)}.{random.randrange(250)}"
        names = [f"host{number}" for number in range(count)]
        certificates.init(self.pki, [*names, "rendezvous"])
        self.options: list[str] = []
        self._stack = ExitStack()
        self.hosts = [
            Host(self, name, f"{network}.{number}") for number, name in enumerate(names, start=1)
        ]
        for host in self.hosts:
            self._stack.callback(host.end)
        self.rendezvous: subprocess.Popen[str] | None = None

    def with_rendezvous(self) -> Fleet:
        pki = self.pki
        self.rendezvous = subprocess.Popen(
            [*COMMAND, "swarm", "rendezvous", "--listen", "127.0.0.1:0", "--ca", pki / "ca.pem",
             "--certificate", pki / "rendezvous.pem", "--key", pki / "rendezvous.key"],
            stdout=subprocess.PIPE, text=True, cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        self._stack.callback(self.rendezvous.communicate)
        self._stack.callback(self.rendezvous.kill)
        assert self.rendezvous.stdout is not None
        port = self.rendezvous.stdout.readline().rpartition(":")[2].strip()
        return self._configured(f"swarm_rendezvous = 127.0.0.1:{port}")

    def with_list(self) -> Fleet:
        return self._configured(f"swarm_members = {', '.join(h.address for h in self.hosts)}")

    def _configured(self, *options: str) -> Fleet:
        self.options = list(options)
        for host in self.hosts:
            host.configure()
        return self

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """As many hosts as a test's parameter says, four by default."""
    found = Fleet(tmp_path / "fleet", getattr(request, "param", 4))
    yield found
    found.close()


def published(root: Path, name: str, size: int, seed: int = 1) -> tuple[bytes, str]:
    """An image in a server's folder, and its checksum."""
    data = random.Random(seed).randbytes(size)
    (root / name).write_bytes(data)
    return data, f"sha256:{hashlib.sha256(data).hexdigest()}"


def served(folder: Path, rate: int) -> Nginx:
    """The backend: at its place `slow`, it sends so many bytes a second."""
    (folder / "www").mkdir()
    return Nginx(folder / "www", slow_rate=rate, directory=folder / "nginx")


def intruded(
    host: Host, other: Host, data: bytes, checksum: str, answers: str, **changed: Any
) -> dict[str, Any]:
    """What `host` says, and sends, to somebody who has the certificate of `other`."""
    fleet = host.fleet
    image = fleet.directory / "image.raw"
    image.write_bytes(data)
    config = {
        "image": str(image), "digest": checksum.partition(":")[2], "answers": answers,
        "spool": str(fleet.directory / f"intruder-{random.getrandbits(64):x}"),
        "address": other.address, "host": host.address, "port": 7881,
        "ca": str(fleet.pki / "ca.pem"), "certificate": str(fleet.pki / f"{other.name}.pem"),
        "key": str(fleet.pki / f"{other.name}.key"),
    } | changed  # fmt: skip
    done = subprocess.run(
        [sys.executable, _INTRUDER, json.dumps(config)],
        capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    if done.returncode:
        return {"told": [], "bytes": 0, "error": done.stderr}
    found: dict[str, Any] = json.loads(done.stdout)
    return found
