"""One image in every place, and a broker that reaches them all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import imagebroker
from tests.servers import ceph
from tests.servers.ceph import Ceph
from tests.servers.images import make_qcow2
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.registry import Registry
from tests.servers.sshd import Sshd
from tests.servers.swift import Swift

SOURCES = ("file path", "file id", "http", "scp", "glance", "s3", "oci", "swift", "rbd")
TARGETS = ("file", "scp", "glance", "s3", "oci", "swift", "rbd")
#: Those whose records have fields beside the name.
RECORDS = ("file id", "glance", "s3", "oci", "swift", "rbd")


@dataclass
class Everywhere:
    """One image, everywhere, and a broker that reaches it."""

    broker: imagebroker.Broker
    data: bytes
    refs: dict[str, str]
    directory: Path

    def to(self, target: str) -> list[tuple[str, str]]:
        """What can be copied there: each source, and the ref of its image."""
        if target not in self.refs and target == "rbd":
            pytest.skip(ceph.of_another_python() or "")
        return list(self.refs.items())

    def left_in(self, target: str) -> list[str]:
        """What the target has, whatever its state."""
        found = [image.ref for image in self.broker.get_all(None, backend=target)]
        for status in ("queued", "saving") if target != "scp" else ():
            filters = {"status": status}
            found += [i.ref for i in self.broker.get_all(None, backend=target, filters=filters)]
        return sorted(found) + sorted(os.listdir(self.directory))


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Ceph | None:
    """Ceph, where its modules are for this Python."""
    found: Ceph | None = None
    if ceph.of_another_python() is None:
        ceph.modules()
        found = request.getfixturevalue("ceph")
    return found


@pytest.fixture
def everywhere(
    openstack: OpenStack, nginx: Nginx, sshd: Sshd, swift: Swift, registry: Registry,
    cluster: Ceph | None, qemu_img: None, make_broker: Callable[..., imagebroker.Broker],
    tmp_path: Path,
) -> Everywhere:  # fmt: skip
    name, directory = f"copied-{uuid.uuid4().hex}.qcow2", tmp_path / "scp"
    directory.mkdir()
    path = make_qcow2(tmp_path / name, 64 * 1024 * 1024)
    data = path.read_bytes()
    (nginx.root / name).write_bytes(data)
    place = f"copied-{uuid.uuid4().hex}"
    swift.client().create_bucket(Bucket=place)
    swift.user().call("PUT", f"{place}-container")
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = file, http, scp, glance, s3, oci, swift, rbd\n"
        "retry_backoff = 0\n"
        f"[backend:file]\nstore_dir = {tmp_path}/store\nallowed_paths = {tmp_path}\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
        f"[backend:scp]\nendpoint = {sshd.url(directory)}/\nknown_hosts = {sshd.known_hosts}\n"
        f"identity_file = {sshd.key}\nallowed_networks = 127.0.0.0/8\n"
        f"[backend:glance]\nendpoint = {openstack.endpoint}/\n"
        + _lines(openstack.auth_options("red"))
        + "[backend:s3]\n"
        + _lines(swift.options(create_in=place))
        + "[backend:swift]\n"
        + _lines(swift.swift_options(create_in=f"{place}-container"))
        + "[backend:oci]\nallowed_networks = 127.0.0.0/8\n"
        + _lines(registry.options(create_in=f"{registry.address}/{place}"))
        + "[backend:rbd]\n"
        + _lines({} if cluster is None else cluster.options())
    )
    recording = [each for each in RECORDS[1:] if each != "rbd" or cluster is not None]
    info = {"name": name, "disk_format": "qcow2", "container_format": "bare", "min_ram": 64}
    refs = {
        "file path": f"file://{path}",
        "http": nginx.url(name),
        "scp": broker.create(None, {"name": name}, data, backend="scp").ref,
        "file id": broker.create(None, info, data, backend="file").ref,
    } | {each: broker.create(None, info, data, backend=each).ref for each in recording}
    return Everywhere(broker, data, refs, directory)


def _lines(options: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {value}\n" for key, value in options.items() if value is not None)
