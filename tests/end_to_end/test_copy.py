"""A copy from every backend to every one that can create, streamed through one broker.

docs/records.md has the table of these pairs.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is, LessThan, MatchesStructure

import imagebroker
from imagebroker.exceptions import (
    ChecksumMismatch,
    ImageBrokerError,
    UnsupportedOperation,
)
from tests.servers.images import make_qcow2
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.registry import Registry
from tests.servers.sshd import Sshd
from tests.servers.swift import Swift

SOURCES = ("file path", "file id", "http", "scp", "glance", "s3", "oci", "swift")
TARGETS = ("file", "scp", "glance", "s3", "oci", "swift")
#: Those whose records have fields beside the name.
RECORDS = ("file id", "glance", "s3", "oci", "swift")


@dataclass
class Everywhere:
    """One image, everywhere, and a broker that reaches it."""

    broker: imagebroker.Broker
    data: bytes
    refs: dict[str, str]
    directory: Path

    def left_in(self, target: str) -> list[str]:
        """What the target has, whatever its state."""
        found = [image.ref for image in self.broker.get_all(None, backend=target)]
        for status in ("queued", "saving") if target != "scp" else ():
            filters = {"status": status}
            found += [i.ref for i in self.broker.get_all(None, backend=target, filters=filters)]
        return sorted(found) + sorted(os.listdir(self.directory))


@pytest.fixture
def everywhere(
    openstack: OpenStack, nginx: Nginx, sshd: Sshd, swift: Swift, registry: Registry,
    qemu_img: None, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path,
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
        "[imagebroker]\nenabled_schemes = file, http, scp, glance, s3, oci, swift\n"
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
    )
    info = {"name": name, "disk_format": "qcow2", "container_format": "bare", "min_ram": 64}
    refs = {
        "file path": f"file://{path}",
        "http": nginx.url(name),
        "scp": broker.create(None, {"name": name}, data, backend="scp").ref,
        "file id": broker.create(None, info, data, backend="file").ref,
    } | {each: broker.create(None, info, data, backend=each).ref for each in RECORDS[1:]}
    return Everywhere(broker, data, refs, directory)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _lines(options: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {value}\n" for key, value in options.items() if value is not None)


@pytest.mark.parametrize("target", TARGETS)
def test_a_copy_has_the_bytes_and_what_the_original_said(
    everywhere: Everywhere, tmp_path: Path, target: str
) -> None:
    for source in SOURCES:
        ref = everywhere.refs[source]
        info = {"name": f"copy-of-{source.replace(' ', '-')}"}
        copied = everywhere.broker.copy(None, ref, info, backend=target)
        assert_that(copied.name, Equals(info["name"]))
        assert_that(copied.size, Equals(len(everywhere.data)))
        done = everywhere.broker.download(None, copied.ref, tmp_path / "copy")
        assert_that((tmp_path / "copy").read_bytes() == everywhere.data, Is(True))
        assert_that(done.evidence["disk_format"], Equals("qcow2"))
        if target != "scp":
            assert_that(copied, MatchesStructure.byEquality(status="active", disk_format="qcow2"))
            assert_that(copied.min_ram or 0, Equals(64 if source in RECORDS else 0))


def test_the_documented_table_has_these_pairs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
    section = text.split("## Copies")[1].split("\n## ")[0]
    header, _, *rows = [line for line in section.splitlines() if line.startswith("|")]
    assert_that(_cells(header)[1:], Equals([*TARGETS]))
    found = [_cells(row) for row in rows]
    assert_that([row[0] for row in found], Equals([*SOURCES]))
    assert_that({cell for row in found for cell in row[1:]}, Equals({"yes"}))


@pytest.mark.parametrize("target", TARGETS)
def test_a_copy_whose_source_is_not_what_was_asked_for_leaves_nothing(
    everywhere: Everywhere, target: str
) -> None:
    before = everywhere.left_in(target)
    wrong = f"sha256:{hashlib.sha256(b'something else').hexdigest()}"
    for source in SOURCES:
        with pytest.raises(ImageBrokerError) as caught:
            everywhere.broker.copy(
                None, everywhere.refs[source], {"name": "copy"}, backend=target, checksum=wrong
            )
        causes = [caught.value, caught.value.__cause__, caught.value.__context__]
        assert_that(any(isinstance(each, ChecksumMismatch) for each in causes), Is(True))
    assert_that(everywhere.left_in(target), Equals(before))


def test_what_cannot_create_is_refused_before_anything_is_read(everywhere: Everywhere) -> None:
    with pytest.raises(UnsupportedOperation):
        everywhere.broker.copy(None, everywhere.refs["http"], backend="http")


def test_a_large_image_needs_no_file_and_no_memory(everywhere: Everywhere, tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(512 * 1024 * 1024)
        file.write(b"x" * 1_000_000)
    before = _resident()
    everywhere.broker.copy(
        None, f"file://{tmp_path}/large", {"name": "large", "disk_format": "raw"}, backend="file"
    )
    assert_that(_resident() - before, LessThan(32 * 1024))


def _resident() -> int:
    """KiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
