"""For the tests of the scp backend: backends that reach this host, and misbehaving servers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imagebroker_scp import ScpBackend
from imagebroker_scp.key_lifetime import DEFAULT, KeyLifetime

from imagebroker.model.reference import check_form, parse
from imagebroker.plugin import BackendHost, ImageSource, Limits, Options
from imagebroker.policy.addresses import Policy, networks
from tests.servers.sshd import Sshd

#: Releases of paramiko whose packets are read by the backend itself: those that it knows, or as
#: `test_paramiko_releases.py` says.
TESTED = os.environ["IMAGEBROKER_TESTED_PARAMIKO"].split() if (
    "IMAGEBROKER_TESTED_PARAMIKO" in os.environ
) else None  # fmt: skip

#: Short enough that a test of a stall ends soon, long enough for a busy machine.
STALL = 1.0


def make_backend(
    sshd: Sshd | None = None,
    *,
    stall: float = 10,
    reach: str = "127.0.0.0/8",
    personal: bool = False,
    keys: KeyLifetime = DEFAULT,
    tested: Collection[str] | None = TESTED,
    **options: Any,
) -> ScpBackend:
    """A backend as the core makes it, that may log in to `sshd`."""
    defaults = {option.dest: option.default for option in ScpBackend.options}
    access = {} if sshd is None else {
        "known_hosts": str(sshd.known_hosts), "identity_file": str(sshd.key)
    }  # fmt: skip
    return ScpBackend(
        BackendHost(
            name="scp",
            options=Options({**defaults, "endpoint": [], "proxy": None, **access, **options}),
            limits=Limits(connect_timeout=5, stall_timeout=stall),
            policy=Policy(allowed_networks=networks([reach])),
            personal=personal,
        ),
        keys,
        tested,
    )


def configuration(**options: Any) -> str:
    """The config of a broker that has the scp backend alone."""
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    return (
        "[imagebroker]\nenabled_schemes = scp\nretry_backoff = 0\n"
        f"[backend:scp]\nallowed_networks = 127.0.0.0/8\n{lines}"
    )


@contextmanager
def opened(url: str, backend: ScpBackend) -> Iterator[ImageSource]:
    """The source of a URL, closed at the end."""
    ref = parse(url)
    check_form(ref, ScpBackend.ref_form)
    source = backend.open(None, ref)
    try:
        yield source
    finally:
        source.close()


def fetched(url: str, backend: ScpBackend, start: int = 0, stop: int | None = None) -> bytes:
    """All bytes of a URL, or those from `start` to `stop`."""
    with opened(url, backend) as source:
        return b"".join(bytes(chunk) for chunk in source.read(start, stop))


def hashed_name(host: str) -> str:
    """A host as `ssh-keygen -H` writes it."""
    salt = os.urandom(20)
    digest = hmac.new(salt, host.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def public_key(private: Path) -> str:
    """Type and base64 of the public key beside a private one."""
    return " ".join(private.with_name(private.name + ".pub").read_text().split()[:2])


def open_sockets() -> int:
    """How many descriptors of this process are sockets."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def ssh_threads() -> list[threading.Thread]:
    """paramiko's threads."""
    return [each for each in threading.enumerate() if type(each).__module__.startswith(
        ("paramiko", "imagebroker_scp")
    )]  # fmt: skip


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
