"""HAProxy in front of web servers: one address, and each request goes to the next of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.servers.process import HOST, Server, ServerProcess, accepts, free_ports, retried


def missing() -> str | None:
    """Return what to install, or None."""
    return None if _program() else "HAProxy is not installed: apt-get install haproxy"


def _program() -> str | None:
    # Not in the PATH of users other than root.
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


class HAProxy(Server):
    """Balances http over servers on this host, round robin, as it does by default."""

    log: Path
    port: int

    def __init__(
        self,
        ports: Sequence[int],
        directory: Path | None = None,
        *,
        tls: Path | None = None,
        rules: str = "",
    ) -> None:
        """``ports``: those of the servers behind it; ``tls``: the key and chain to show.

        ``rules``: further lines of its configuration.
        """
        super().__init__(directory)
        self.ports = list(ports)
        self._tls, self._rules = tls, rules
        self._process: ServerProcess | None = None

    def url(self, path: str) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{HOST}:{self.port}/{path.lstrip('/')}"

    def _start(self) -> None:
        self.log = self.directory / "haproxy.log"
        retried(self._launch)

    def _launch(self) -> None:
        self.log.unlink(missing_ok=True)
        (self.port,) = free_ports(1)
        configuration = self.directory / "haproxy.cfg"
        servers = "\n".join(
            f"  server s{number} {HOST}:{port}" for number, port in enumerate(self.ports)
        )
        listen = f"{HOST}:{self.port}" + (f" ssl crt {self._tls}" if self._tls else "")
        configuration.write_text(_CONFIGURATION % {"listen": listen} + f"{servers}\n{self._rules}")
        argv = [_program() or "haproxy", "-db", "-f", str(configuration)]
        self._process = ServerProcess(argv, log=self.log)
        self._process.wait_until(lambda: accepts(self.port))

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()


# One thread: each keeps a turn of its own otherwise, and the order could not be foretold.
_CONFIGURATION = """
global
  nbthread 1
defaults
  mode http
  timeout connect 10s
  timeout client 30s
  timeout server 30s
listen images
  bind %(listen)s
  balance roundrobin
"""
