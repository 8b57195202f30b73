"""`get` of a file without a record: what its first bytes show."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, LessThan, MatchesStructure

import imagebroker
from tests.servers.images import make_qcow2
from tests.servers.nginx import Nginx
from tests.servers.sshd import Sshd

MIB = 1024 * 1024


@pytest.fixture
def broker(
    make_broker: Callable[..., imagebroker.Broker], sshd: Sshd, tmp_path: Path
) -> imagebroker.Broker:
    return make_broker(
        "[imagebroker]\nenabled_schemes = file, http, scp\nretry_backoff = 0\n"
        f"[backend:file]\nallowed_paths = {tmp_path}\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
        f"[backend:scp]\nknown_hosts = {sshd.known_hosts}\nidentity_file = {sshd.key}\n"
        "allowed_networks = 127.0.0.0/8\n"
    )


def refs_of(path: Path, nginx: Nginx, sshd: Sshd) -> list[str]:
    name = f"{uuid.uuid4().hex}-{path.name}"
    (nginx.root / name).write_bytes(path.read_bytes())
    return [f"file://{path}", nginx.url(name), sshd.url(path)]


def test_format_and_virtual_size_are_detected(
    broker: imagebroker.Broker, nginx: Nginx, sshd: Sshd, qemu_img: None, tmp_path: Path
) -> None:
    qcow2 = make_qcow2(tmp_path / "a.qcow2", 64 * MIB)
    (tmp_path / "b.raw").write_bytes(os.urandom(3 * MIB))
    for path, found, size in ((qcow2, "qcow2", 64 * MIB), (tmp_path / "b.raw", "raw", 3 * MIB)):
        for ref in refs_of(path, nginx, sshd):
            assert_that(broker.get(None, ref), MatchesStructure.byEquality(
                size=path.stat().st_size, disk_format=found, virtual_size=size))  # fmt: skip


@pytest.mark.parametrize("content", [b"QFI\xfb" + b"\xff" * 4096, b"QFI\xfb", b""])
def test_content_that_is_no_acceptable_image_has_no_format_and_is_no_error(
    broker: imagebroker.Broker, nginx: Nginx, sshd: Sshd, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "odd").write_bytes(content)
    for ref in refs_of(tmp_path / "odd", nginx, sshd):
        image = broker.get(None, ref)
        assert_that((image.size, image.disk_format), Equals((len(content), None)))


def test_only_the_decisive_bytes_are_read(
    broker: imagebroker.Broker, nginx: Nginx, tmp_path: Path
) -> None:
    name = f"{uuid.uuid4().hex}.raw"
    with open(nginx.root / name, "wb") as file:
        file.truncate(512 * MIB)
    assert_that(broker.get(None, nginx.url(name)).disk_format, Equals("raw"))
    ends = time.monotonic() + 20
    # nginx notes a request when it is over for both sides.
    while not (ranges := [r.range for r in nginx.requests(name) if r.range]):
        assert_that(time.monotonic(), LessThan(ends))
        time.sleep(0.02)
    assert_that(ranges, Equals(["bytes=536868864-536870911"]))
