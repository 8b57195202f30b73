"""dropbear, the small ssh server of routers and boot images, with OpenSSH's sftp-server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from tests.servers.process import HOST, Server, ServerProcess, accepts, free_ports, retried

_SFTP = Path("/usr/lib/sftp-server")
USER = "root"


def missing() -> str | None:
    """Return what to install, or None."""
    if _program() is None:
        return "dropbear is not installed: apt-get install dropbear-bin"
    if not _SFTP.exists():
        return "sftp-server is not installed: apt-get install openssh-sftp-server"
    return None


def forbidden() -> str | None:
    """Return why this user cannot start it, or None."""
    # It reads authorized_keys only from the home in the user database, which must not be touched.
    usable = os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"]).returncode == 0
    return None if usable else "needs root and a mount namespace: a home of its own for dropbear"


def _program() -> str | None:
    return shutil.which("dropbear") or shutil.which("dropbear", path="/usr/sbin:/usr/local/sbin")


class Dropbear(Server):
    """Lets root in with each of ``keys``, by kind; root's home is ``home`` there."""

    host = HOST
    user = USER
    port: int
    home: Path
    log: Path
    keys: dict[str, Path]
    known_hosts: Path

    def __init__(self, *, arguments: Sequence[str] = ()) -> None:
        super().__init__()
        self._arguments = [*arguments]
        self._process: ServerProcess | None = None

    def url(self, path: str | Path) -> str:
        return f"scp://{USER}@{HOST}:{self.port}{quote(str(path))}"

    def _start(self) -> None:
        self.log = self.directory / "dropbear.log"
        self.home = self.directory / "home"
        folder = self.home / ".ssh"
        folder.mkdir(mode=0o700, parents=True)
        self.home.chmod(0o700)
        kinds = {"ed25519": [], "rsa": ["-b", "2048"], "ecdsa": ["-b", "384"]}
        self.keys = {}
        for kind, size in kinds.items():
            file = self.keys[kind] = self.directory / f"id_{kind}"
            command = ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-f", str(file)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        public = [key.with_name(f"{key.name}.pub").read_text() for key in self.keys.values()]
        (folder / "authorized_keys").write_text("".join(public))
        (folder / "authorized_keys").chmod(0o600)
        made = subprocess.run(
            ["dropbearkey", "-t", "ed25519", "-f", str(self.directory / "host")],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        self._host_key = next(line for line in made.stdout.splitlines() if line.startswith("ssh-"))
        passwd = Path("/etc/passwd").read_text().splitlines()
        others = [line for line in passwd if not line.startswith(f"{USER}:")]
        (self.directory / "passwd").write_text(
            "\n".join([f"{USER}:x:0:0::{self.home}:/bin/sh", *others, ""])
        )
        retried(self._launch)

    def _launch(self) -> None:
        [self.port] = free_ports(1)
        self.known_hosts = self.directory / "known_hosts"
        self.known_hosts.write_text(
            f"[{HOST}]:{self.port} {' '.join(self._host_key.split()[:2])}\n"
        )
        self.log.unlink(missing_ok=True)
        # Only this process and its children see the other user database.
        inside = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'
        argv = [
            "unshare", "-m", "sh", "-c", inside, "sh", str(self.directory / "passwd"),
            _program() or "dropbear", "-F", "-E", "-s", "-r", str(self.directory / "host"),
            "-P", str(self.directory / "pid"), "-p", f"{HOST}:{self.port}", *self._arguments,
        ]  # fmt: skip
        self._process = ServerProcess(argv, log=self.log)
        self._process.wait_until(lambda: accepts(self.port))

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
