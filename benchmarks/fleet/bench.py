"""One way for a fleet to get an image, and what it took."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.fleet.memory import Memory
from benchmarks.fleet.network import Network
from imagebroker.swarm import certificates
from tests.swarm.lies import LIES

_NGINX = """
user root; worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{ listen {address}:8080; root {folder}/www; }}
}}
"""
_CONFIG = """[imagebroker]
enabled_schemes = http
fsync = false
share_downloads = false
{swarm}
[backend:http]
allowed_networks = 10.213.0.0/24
"""
_SWARM = """swarm = true
swarm_address = {address}
swarm_rendezvous = {rendezvous}:7880
swarm_ca = {pki}/ca.pem
swarm_certificate = {pki}/{name}.pem
swarm_key = {pki}/{name}.key
swarm_dir = {folder}/{name}/spool
swarm_from = 1M
"""
_NAMED = re.compile(r"swarm: \S+ \(certificate ([0-9a-f]{16})\).*; left out")


class Way(NamedTuple):
    """How the hosts go about it."""

    title: str
    hosts: int
    swarm: bool = True
    #: Seconds in which they begin.
    over: float = 0.0
    #: So many of them die after a second.
    killed: int = 0
    #: So many of them lie.
    liars: int = 0


class Result(NamedTuple):
    way: Way
    #: Seconds of the host that took longest, each from its own beginning.
    longest: float
    #: Hosts that had the right bytes, of those that neither died nor lied.
    right: int
    hosts: int
    #: Hosts that had wrong bytes and did not know.
    wrong: int
    #: Images that the origin sent, with all headers.
    images: float
    #: Liars that honest hosts have named, and honest hosts that they have.
    named: int
    accused: int
    #: MiB of both processes of a host together, at most.
    memory: float
    #: Seconds of processors for each host, and the part of the machine's that was in use.
    processor: float
    busy: float


class Bench:
    def __init__(self, folder: Path, hosts: int, mib: int, megabits: int, startup: float) -> None:
        self.folder, self.startup = folder, startup
        self.mib, self.megabits = mib, megabits
        self.names = [f"host{number}" for number in range(hosts)]
        self.pki = folder / "pki"
        certificates.init(self.pki, [*self.names, "rendezvous"])
        (folder / "www").mkdir()
        # Piece by piece: what this process holds would be counted for the hosts that it starts.
        numbers, digest = random.Random(1), hashlib.sha256()
        with (folder / "www" / "image.raw").open("wb") as file:
            for _ in range(mib):
                piece = numbers.randbytes(1 << 20)
                file.write(piece)
                digest.update(piece)
        self.digest, self.size = digest.hexdigest(), mib << 20
        _compile()

    def run(self, way: Way) -> Result:
        names = self.names[: way.hosts]
        with Network(["origin", "rendezvous", *names], self.megabits) as network:
            servers = self._servers(network)
            try:
                return _Run(self, way, network, names).measured()
            finally:
                for name in names:
                    network.kill(name)
                for server in servers:
                    server.terminate()  # a master of nginx ends its workers
                    server.wait()

    def _servers(self, network: Network) -> list[subprocess.Popen[bytes]]:
        address = network.addresses["origin"]
        config = self.folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=self.folder, address=address))
        pki = self.pki
        commands = [
            network.within("origin", "nginx", "-e", "stderr", "-c", config),
            network.within(
                "rendezvous", sys.executable, "-m", "imagebroker", "swarm", "rendezvous",
                "--listen", f"{network.addresses['rendezvous']}:7880", "--ca", pki / "ca.pem",
                "--certificate", pki / "rendezvous.pem", "--key", pki / "rendezvous.key",
            ),
        ]  # fmt: skip
        servers = [subprocess.Popen(each, stdout=subprocess.DEVNULL) for each in commands]
        for name, port in (("origin", 8080), ("rendezvous", 7880)):
            where = network.addresses[name], port
            probe = f"import socket; socket.create_connection({where!r})"
            command = network.within(name, sys.executable, "-c", probe)
            _wait(lambda c=command: not subprocess.run(c, capture_output=True).returncode)
        return servers


class _Run:
    """One way, once."""

    def __init__(self, bench: Bench, way: Way, network: Network, names: Sequence[str]) -> None:
        self._bench, self._way, self._network = bench, way, network
        drawn = random.Random(len(names))
        self._liars = drawn.sample(names, way.liars)
        self._honest = [each for each in names if each not in self._liars]
        self._dead = drawn.sample(self._honest, way.killed)
        self._began: dict[str, float] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._pids: dict[str, int] = {}

    def measured(self) -> Result:
        for name in (*self._liars, *self._honest):
            folder = self._bench.folder / name
            subprocess.run(["rm", "-rf", folder], check=True)
            folder.mkdir()
        with Memory(self._pids) as memory:
            return self._measured(memory)

    def _measured(self, memory: Memory) -> Result:
        network, way = self._network, self._way
        before, busy_before, began = network.sent("origin"), _busy(), time.monotonic()
        for number, name in enumerate([*self._liars, *self._honest]):
            time.sleep(max(0.0, began + way.over * number / way.hosts - time.monotonic()))
            self._start(name)
        if self._dead:
            time.sleep(max(0.0, began + 1.0 + self._bench.startup - time.monotonic()))
            for name in self._dead:
                network.kill(name)
        alive = [each for each in self._honest if each not in self._dead]
        longest = processor = 0.0
        ended = []
        for name in alive:
            _, status, usage = os.wait4(self._running[name].pid, 0)
            self._running[name].returncode = os.waitstatus_to_exitcode(status)
            longest = max(longest, self._ended(name) - self._began[name])
            ended += [name] if status == 0 else []
            processor += usage.ru_utime + usage.ru_stime
            processor += sum(_seconds(pid) for pid in network.processes(name))
        busy, all_of_it = (after - at for after, at in zip(_busy(), busy_before, strict=True))
        images = (network.sent("origin") - before) / self._bench.size
        right = sum(self._is_right(name) for name in ended)
        for name in [*self._dead, *self._liars]:
            network.kill(name)
            self._running[name].wait()
        named = self._named(alive)
        liars = self._prints(self._liars)
        return Result(
            way, longest, right, len(alive), len(ended) - right, images,
            named=len(named & liars), accused=len(named - liars),
            memory=max(memory.most(name) for name in alive), processor=processor / len(alive),
            busy=busy / all_of_it,
        )  # fmt: skip

    def _start(self, name: str) -> None:
        folder = self._bench.folder / name
        command = self._lies(name, folder) if name in self._liars else self._loads(name, folder)
        self._began[name] = time.monotonic()
        with open(folder / "log", "wb") as log:
            self._running[name] = subprocess.Popen(
                self._network.within(name, *command), stdout=log, stderr=log
            )
        self._pids[name] = self._running[name].pid

    @property
    def _url(self) -> str:
        return f"http://{self._network.addresses['origin']}:8080/image.raw"

    def _loads(self, name: str, folder: Path) -> Sequence[str | Path]:
        bench, addresses = self._bench, self._network.addresses
        options = _SWARM.format(
            address=addresses[name], rendezvous=addresses["rendezvous"], pki=bench.pki, name=name,
            folder=bench.folder,
        )  # fmt: skip
        config = folder / "imagebroker.conf"
        config.write_text(_CONFIG.format(swarm=options if self._way.swarm else ""))
        return [
            sys.executable, "-m", "imagebroker", "--config-file", config, "-vv", "download",
            self._url, folder / "image.raw", "--checksum", f"sha256:{bench.digest}",
        ]  # fmt: skip

    def _lies(self, name: str, folder: Path) -> Sequence[str | Path]:
        bench, addresses = self._bench, self._network.addresses
        config = {
            "tells": LIES[self._liars.index(name) % len(LIES)], "url": self._url,
            "digest": bench.digest, "size": bench.size, "spool": str(folder / "spool"),
            "address": addresses[name], "members": [],
            "rendezvous": [f"{addresses['rendezvous']}:7880"], "ca": str(bench.pki / "ca.pem"),
            "certificate": str(bench.pki / f"{name}.pem"), "key": str(bench.pki / f"{name}.key"),
        }  # fmt: skip
        return [sys.executable, "-m", "tests.swarm.liar", json.dumps(config)]

    # -- what came of it -------------------------------------------------------------------------

    def _ended(self, name: str) -> float:
        """When the image was in place."""
        image = self._bench.folder / name / "image.raw"
        if not image.exists():
            return time.monotonic()
        return time.monotonic() - (time.time() - image.stat().st_ctime)

    def _is_right(self, name: str) -> bool:
        image = self._bench.folder / name / "image.raw"
        if not image.exists():
            return False
        with open(image, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self._bench.digest

    def _named(self, names: Sequence[str]) -> set[str]:
        """Beginnings of the certificates' fingerprints."""
        logs = [(self._bench.folder / name / "log").read_text() for name in names]
        return {each for log in logs for each in _NAMED.findall(log)}

    def _prints(self, names: Sequence[str]) -> set[str]:
        pki = self._bench.pki
        return {
            certificates.Identity(
                pki / "ca.pem", pki / f"{name}.pem", pki / f"{name}.key"
            ).fingerprint[:16]
            for name in names
        }


def _compile() -> None:
    """As an installation does: where nothing is written beside the sources, each of the hosts would
    compile again what has changed."""
    specs = [importlib.util.find_spec(name) for name in ("imagebroker", "imagebroker_http")]
    folders = [each for spec in specs if spec for each in spec.submodule_search_locations or ()]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], check=True)


def _seconds(pid: int) -> float:
    """Of processors that a process has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _busy() -> tuple[float, float]:
    """Seconds in which the machine's processors worked, and all there were."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    ticks = os.sysconf("SC_CLK_TCK")
    return (sum(fields) - fields[3] - fields[4]) / ticks, sum(fields) / ticks


def _wait(ready: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not ready():
        if time.monotonic() > ends:
            raise RuntimeError("a server does not answer")
        time.sleep(0.1)
