"""`python -m benchmarks.fleet`: hosts that download one image at once, in network namespaces.

Needs root, nginx, iproute2 and libtorrent. Each link has the same rate in both directions, that of
the origin too. Times are those of whole commands, from the first start to the last end.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.fleet.network import Network
from imagebroker.swarm import certificates

_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log stderr;
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


class Result(NamedTuple):
    """One way to do it."""

    title: str
    #: Seconds until the last host had it, and hosts that had the right bytes.
    last: float
    right: int
    hosts: int
    #: Images that the origin sent, with all headers.
    images: float
    #: MiB of the process that speaks with other hosts, at most.
    memory: float


class Bench:
    def __init__(self, folder: Path, asked: argparse.Namespace) -> None:
        self.folder, self.asked = folder, asked
        self.names = [f"host{number}" for number in range(asked.hosts)]
        self.pki = folder / "pki"
        certificates.init(self.pki, [*self.names, "rendezvous"])
        (folder / "www").mkdir()
        data = random.Random(1).randbytes(asked.mib << 20)
        (folder / "www" / "image.raw").write_bytes(data)
        self.digest, self.size = hashlib.sha256(data).hexdigest(), len(data)

    def run(
        self, title: str, hosts: int, *, swarm: bool = True, over: float = 0.0, killed: int = 0
    ) -> Result:
        """`over`: seconds in which the hosts begin; `killed`: so many die after 1 s."""
        names = self.names[:hosts]
        with Network(["origin", "rendezvous", *names], self.asked.megabits) as network:
            servers = self._servers(network)
            try:
                return self._measured(title, network, names, swarm, over, killed)
            finally:
                for name in names:
                    for pid in network.processes(name):
                        os.kill(pid, signal.SIGKILL)
                for server in servers:
                    server.kill()
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

    def _measured(
        self, title: str, network: Network, names: list[str], swarm: bool, over: float, killed: int
    ) -> Result:
        before, began = network.sent("origin"), time.monotonic()
        running = {}
        for number, name in enumerate(names):
            time.sleep(max(0.0, began + over * number / len(names) - time.monotonic()))
            running[name] = self._download(network, name, swarm)
        dead = random.Random(len(names)).sample(names, killed)
        if dead:
            time.sleep(max(0.0, began + 1.0 + self.asked.startup - time.monotonic()))
            for name in dead:
                for pid in network.processes(name):
                    os.kill(pid, signal.SIGKILL)
        right, last, memory = 0, 0.0, 0.0
        for name in [each for each in names if each not in dead]:
            status = running[name].wait()
            last = max(last, self._ended(name) - began)
            right += status == 0 and self._is_right(name)
            memory = max([memory, *(_peak(pid) for pid in network.processes(name))])
        for name in dead:
            running[name].wait()
        images = (network.sent("origin") - before) / self.size
        return Result(title, last, right, len(names) - len(dead), images, memory)

    def _download(self, network: Network, name: str, swarm: bool) -> subprocess.Popen[bytes]:
        folder = self.folder / name
        subprocess.run(["rm", "-rf", folder], check=True)
        folder.mkdir()
        options = _SWARM.format(
            address=network.addresses[name], rendezvous=network.addresses["rendezvous"],
            pki=self.pki, name=name, folder=self.folder,
        )  # fmt: skip
        config = folder / "imagebroker.conf"
        config.write_text(_CONFIG.format(swarm=options if swarm else ""))
        url = f"http://{network.addresses['origin']}:8080/image.raw"
        command = network.within(
            name, sys.executable, "-m", "imagebroker", "--config-file", config, "-vv", "download",
            url, folder / "image.raw", "--checksum", f"sha256:{self.digest}",
        )  # fmt: skip
        log = open(folder / "log", "wb")  # noqa: SIM115 - it is the process's
        with log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _ended(self, name: str) -> float:
        """When the image was in place."""
        image = self.folder / name / "image.raw"
        if not image.exists():
            return time.monotonic()
        return time.monotonic() - (time.time() - image.stat().st_ctime)

    def _is_right(self, name: str) -> bool:
        with open(self.folder / name / "image.raw", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.digest


def _peak(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(line.split()[1]) / 1024


def _wait(ready: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30
    while not ready():
        if time.monotonic() > ends:
            raise RuntimeError("a server does not answer")
        time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--megabits", type=int, default=100)
    parser.add_argument("--startup", type=float, default=0.5, help="seconds of a command's start")
    parser.add_argument("--keep", type=Path, help="leave logs in this directory")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleet-") as temporary:
        bench = Bench(asked.keep or Path(temporary), asked)
        hosts, alone = asked.hosts, 0.0
        print(f"{asked.mib} MiB, {asked.megabits} Mbit/s for each host and for the origin\n")
        print("| way | hosts with it | last host | of one host | images sent | MiB of memory |")
        print("|---|---|---|---|---|---|")
        for run in (
            lambda: bench.run("one host, no swarm", 1, swarm=False),
            lambda: bench.run("one host, alone in a swarm", 1),
            lambda: bench.run(f"{hosts} hosts, no swarm", hosts, swarm=False),
            lambda: bench.run(f"{hosts} hosts, a swarm", hosts),
            lambda: bench.run(f"{hosts} hosts, a quarter killed after 1 s", hosts,
                              killed=hosts // 4),
            lambda: bench.run(f"{hosts} hosts that begin over 5 s", hosts, over=5.0),
        ):  # fmt: skip
            got = run()
            alone = alone or got.last
            print(
                f"| {got.title} | {got.right} of {got.hosts} | {got.last:.1f} s "
                f"| {got.last / alone:.2f} x | {got.images:.2f} | {got.memory:.0f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
