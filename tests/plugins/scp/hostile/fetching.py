"""How a file is fetched from a server that lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.plugins import ssh_peer
from tests.plugins.scp_peers import fetched, make_backend
from tests.servers.sshd import Sshd

KIB = 1024
MIB = 1024 * 1024


def fetch_from(
    kind: Callable[[Any], ssh_peer.Peer],
    sshd: Sshd,
    folder: Path,
    *,
    stall: float = 10,
    **options: Any,
) -> bytes:
    """The file that such a server has."""
    with ssh_peer.ssh_server(kind, folder) as (url, known):
        key = str(sshd.key)
        return fetched(
            f"{url}/image", make_backend(stall=stall, identity_file=key, **known, **options)
        )
