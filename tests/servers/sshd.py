"""OpenSSH's sshd, for the user who runs the tests."""

from __future__ import annotations

import functools
import getpass
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from tests.canaries import secret
from tests.servers.process import (
    HOST,
    Server,
    ServerProcess,
    descendants,
    free_ports,
    retried,
)


def missing() -> str | None:
    """Return what to install, or None."""
    if _program() is None:
        return "sshd is not installed: apt-get install openssh-server"
    if shutil.which("ssh-keygen") is None:
        return "ssh-keygen is not installed: apt-get install openssh-client"
    return None


def _program() -> str | None:
    # An absolute path: sshd executes itself again for every connection.
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


class Sshd(Server):
    """An sshd that lets the current user in with ``key``, ``rsa_key`` or ``encrypted_key``.

    ``strange_key`` is not let in, and ``wrong_known_hosts`` has another host key for this server.
    """

    host = HOST
    port: int
    config: Path
    log: Path
    key: Path
    rsa_key: Path
    encrypted_key: Path
    passphrase = secret("correct horse")
    strange_key: Path
    host_keys: dict[str, Path]
    known_hosts: Path
    wrong_known_hosts: Path

    def __init__(
        self,
        *,
        sftp: bool = True,
        force_sftp: bool = False,
        ciphers: str | None = None,
        macs: str | None = None,
        kex: str | None = None,
        settings: Sequence[str] = (),
        directory: Path | None = None,
    ) -> None:
        """``settings`` are more lines of sshd_config; the first line that sets a keyword wins, so
        they come first.
        """
        super().__init__(directory)
        self.user = getpass.getuser()
        self._settings = [*settings]
        if force_sftp:
            self._settings.append("ForceCommand internal-sftp")
        if sftp:
            self._settings.append("Subsystem sftp internal-sftp")
        restricted = {"Ciphers": ciphers, "MACs": macs, "KexAlgorithms": kex}
        self._settings += [f"{name} {value}" for name, value in restricted.items() if value]
        self._process: ServerProcess | None = None

    def url(self, path: str | Path, *, user: str | None = None) -> str:
        """Return ``scp://user@127.0.0.1:port/absolute/path``."""
        return f"scp://{user or self.user}@{HOST}:{self.port}{quote(str(path))}"

    def ssh_options(self, key: Path | None = None) -> list[str]:
        """Return arguments for ``ssh``, ``sftp`` and ``scp``, deaf to the user's own settings."""
        options = {
            "Port": self.port,
            "User": self.user,
            "IdentityFile": key or self.key,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
        }
        pairs = [f"-o{name}={value}" for name, value in options.items()]
        return ["-F/dev/null", *pairs]

    def session_pids(self) -> list[int]:
        """Return the processes of the open connections, to stop or kill them."""
        return sorted(descendants(self._process.pid)) if self._process else []

    def _start(self) -> None:
        if os.geteuid() == 0:
            # Privilege separation wants its empty directory, which is lost at boot.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.config = self.directory / "sshd_config"
        self.log = self.directory / "sshd.log"
        self._make_keys()
        retried(self._launch)

    def _make_keys(self) -> None:
        keys = self.directory / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        self.host_keys = {kind: _key(keys / f"host_{kind}", kind) for kind in ("ed25519", "rsa")}
        self.key = _key(keys / "id_ed25519", "ed25519")
        self.rsa_key = _key(keys / "id_rsa", "rsa")
        self.encrypted_key = _key(keys / "id_encrypted", "ed25519", self.passphrase)
        self.strange_key = _key(keys / "id_strange", "ed25519")
        welcome = [_public(key) for key in (self.key, self.rsa_key, self.encrypted_key)]
        (keys / "authorized_keys").write_text("".join(f"{line}\n" for line in welcome))

    def _launch(self) -> None:
        [self.port] = free_ports(1)
        self.known_hosts = self._known_hosts("known_hosts", [*self.host_keys.values()])
        self.wrong_known_hosts = self._known_hosts("wrong_known_hosts", [self.strange_key])
        self.config.write_text("\n".join(self._configuration()) + "\n")
        self.log.unlink(missing_ok=True)
        argv = [_program() or "sshd", "-D", "-e", "-f", str(self.config)]
        self._process = ServerProcess(argv, log=self.log)
        listening = f"Server listening on {HOST} port {self.port}."
        self._process.wait_until(lambda: listening in self.log.read_text(errors="replace"))

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def _configuration(self) -> list[str]:
        lines = [
            *self._settings,
            f"Port {self.port}",
            f"ListenAddress {HOST}",
            *(f'HostKey "{key}"' for key in self.host_keys.values()),
            f'AuthorizedKeysFile "{self.directory}/keys/authorized_keys"',
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "LogLevel VERBOSE",
            "MaxStartups 100",
            "MaxSessions 100",
            "MaxAuthTries 20",
        ]
        if _version() >= (9, 8):
            # Since 9.8 an address that fails to log in is shut out for a while: here, all tests.
            lines.append("PerSourcePenalties no")
        return lines

    def _known_hosts(self, name: str, keys: Sequence[Path]) -> Path:
        file = self.directory / name
        file.write_text("".join(f"[{HOST}]:{self.port} {_public(key)}\n" for key in keys))
        return file


def _key(file: Path, kind: str, passphrase: str = "") -> Path:
    """Make a key unless a caller's directory has it from an earlier start."""
    if not file.exists():
        private, public = _made(file.name, kind, passphrase)
        file.touch(mode=0o600)
        file.write_bytes(private)
        file.with_name(f"{file.name}.pub").write_bytes(public)
    return file


@functools.cache
def _made(name: str, kind: str, passphrase: str) -> tuple[bytes, bytes]:
    """A key and its public half. All servers of this process have the same: RSA takes long."""
    bits = ["-b", "2048"] if kind == "rsa" else []  # the default 3072 takes three times longer
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        command = ["ssh-keygen", "-q", "-t", kind, *bits, "-N", passphrase, "-C", name, "-f", file]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return file.read_bytes(), file.with_name(f"{name}.pub").read_bytes()


def _public(key: Path) -> str:
    """Return type and base64 of the public key, without its comment."""
    return " ".join(key.with_name(key.name + ".pub").read_text().split()[:2])


@functools.cache
def _version() -> tuple[int, int]:
    text = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
