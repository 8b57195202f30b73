"""The log of a server, and a backend with an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imagebroker_scp import ScpBackend

from tests.plugins.scp_peers import make_backend, public_key
from tests.servers.sshd import Sshd

MIB = 1024 * 1024


def log_of(server: Sshd) -> str:
    return server.log.read_text(errors="replace")


def known_hosts_line(server: Sshd, kind: str = "ed25519") -> str:
    return f"[127.0.0.1]:{server.port} {public_key(server.host_keys[kind])}"


def with_known_hosts(server: Sshd, tmp_path: Path, *lines: str) -> Any:
    file = tmp_path / "known_hosts"
    file.write_text("".join(f"{line}\n" for line in lines))
    return make_backend(server, known_hosts=str(file))


def with_endpoint(sshd: Sshd, folder: Path, **options: Any) -> ScpBackend:
    return make_backend(sshd, endpoint=[sshd.url(folder) + "/"], **options)
