"""squid, the proxy, with or without a password."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.bounds import HANGS
from tests.canaries import secret
from tests.servers.process import HOST, Server, ServerProcess, accepts, free_ports, retried

#: With what has to be escaped in a URL.
PASSWORD = secret("p@ss:w/rd%kanarie 7e1f")
_CHECKER = Path("/usr/lib/squid/basic_ncsa_auth")


def missing() -> str | None:
    """Return what to install, or None."""
    if _program() is None or not _CHECKER.exists():
        return "squid is not installed: apt-get install squid"
    return None


def _program() -> str | None:
    # Not in the PATH of users other than root.
    return shutil.which("squid") or shutil.which("squid", path="/usr/sbin:/usr/local/sbin")


class Squid(Server):
    """Lets everybody through, or whoever has the password (Basic); stores nothing."""

    log: Path
    access_log: Path
    port: int

    def __init__(
        self, *, user: str | None = None, password: str = PASSWORD, origin: int | None = None
    ) -> None:
        """:param origin: the port on this host that answers for every name."""
        super().__init__()
        self._origin = origin
        self.user = user
        self.password = password
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def requests(self, *, at_least: int = 0) -> list[tuple[str, str, str, int]]:
        """User (or ``-``), method, URL and status of each request, oldest first.

        squid logs a request when it has ended: say how many must be there, and this waits.
        """
        deadline = time.monotonic() + HANGS
        while True:
            text = self.access_log.read_text() if self.access_log.exists() else ""
            lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
            found = [line.split() for line in lines if " error:" not in line]
            if len(found) >= at_least:
                return [(user, method, url, int(code)) for user, method, url, code in found]
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(found)} of {at_least} requests in {self.access_log}")
            time.sleep(0.01)

    def _start(self) -> None:
        self.log = self.directory / "squid.log"
        self.access_log = self.directory / "access.log"
        if os.geteuid() == 0:
            shutil.chown(self.directory, "proxy")  # what it becomes
        if self.user is not None:
            made = subprocess.run(
                ["openssl", "passwd", "-apr1", "-stdin"],
                input=self.password, check=True, capture_output=True, text=True,
            )  # fmt: skip
            (self.directory / "passwords").write_text(f"{self.user}:{made.stdout}")
            (self.directory / "passwords").chmod(0o644)
        retried(self._launch)

    def _launch(self) -> None:
        self.log.unlink(missing_ok=True)
        (self.port,) = free_ports(1)
        configuration = self.directory / "squid.conf"
        configuration.write_text(self._configuration())
        argv = [_program() or "squid", "-N", "-f", str(configuration)]
        self._process = ServerProcess(argv, log=self.log)
        self._process.wait_until(lambda: accepts(self.port))

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def _configuration(self) -> str:
        who = "all"
        lines = []
        if self.user is not None:
            who = "known"
            lines = [
                f"auth_param basic program {_CHECKER} {self.directory}/passwords",
                "auth_param basic children 2",
                "acl known proxy_auth REQUIRED",
            ]
        if self._origin is not None:
            lines += [
                f"cache_peer {HOST} parent {self._origin} 0 no-query originserver default"
                " login=PASSTHRU",
                "never_direct allow all",
            ]
        return _CONFIGURATION % {
            "listen": f"{HOST}:{self.port}",
            "directory": self.directory,
            "authentication": "\n".join(lines),
            "who": who,
        }


_CONFIGURATION = """
http_port %(listen)s
visible_hostname squid.test
pid_filename none
cache deny all
cache_log %(directory)s/cache.log
coredump_dir none
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
logformat plain %%un %%rm %%ru %%>Hs
access_log stdio:%(directory)s/access.log logformat=plain
buffered_logs off
%(authentication)s
http_access allow %(who)s
http_access deny all
"""
