"""Uploads to Swift: all or nothing, no segment is forgotten, and a killed one goes on."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, HasLength, LessThan

from imagebroker.exceptions import Conflict, InvalidImageRef, UploadFailed
from tests.bounds import HANGS
from tests.plugins.swift.conftest import Container
from tests.servers.tcp import TcpProxy

MIB = 1024 * 1024
DATA = random.Random(7).randbytes(4 * MIB + 17)
DIGEST = hashlib.sha256(DATA).hexdigest()


def chunks(data: bytes = DATA, size: int = 100_000) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def test_a_name_is_used_once(container: Container) -> None:
    broker = container.broker()
    broker.create(None, {"name": "disk"}, b"first")
    for data in (b"second", DATA):
        with pytest.raises(Conflict):
            broker.create(None, {"name": "disk"}, data)
    with broker.open(None, container.ref("images/disk")) as reader:
        assert_that(reader.read(), Equals(b"first"))
    assert_that(container.segment_names(), Equals([]))


@pytest.mark.parametrize("size", [1000, len(DATA)])
def test_an_object_that_appears_meanwhile_is_not_replaced(container: Container, size: int) -> None:
    """And the segments of who comes second are removed."""

    def overtaken() -> Iterator[bytes]:
        yield DATA[: size // 2]
        container.user.call("PUT", f"{container.name}/images/disk", b"first")
        yield DATA[size // 2 : size]

    with pytest.raises(Conflict):
        container.broker().create(None, {"name": "disk"}, overtaken())
    kept = container.user.call("GET", f"{container.name}/images/disk").content
    assert_that(kept, Equals(b"first"))
    assert_that(container.segment_names(), Equals([]))


@pytest.mark.parametrize("name", [None, "", "a//b", "../x", "a/", "x" * 1000])
def test_a_name_that_no_ref_could_have_is_refused(container: Container, name: str | None) -> None:
    with pytest.raises(InvalidImageRef):
        container.broker().create(None, {"name": name}, b"data")


def test_an_upload_that_fails_leaves_no_segment(container: Container) -> None:
    def breaks() -> Iterator[bytes]:
        yield from chunks(DATA[: 3 * MIB])
        raise OSError("the tape is torn")

    broker = container.broker()
    with pytest.raises(UploadFailed, match="torn"):
        broker.create(None, {"name": "disk"}, breaks())
    assert_that(container.segment_names(), Equals([]))
    assert_that(list(broker.get_all(None)), HasLength(0))


#: Uploads until three segments are there, and is killed by its own source.
KILLED = """
import os, signal, sys, time
import imagebroker
from tests.servers.swift import SwiftUser

path, config = sys.argv[1:]
user = SwiftUser(os.environ["ACCOUNT"], os.environ["TOKEN"])
with open(path, "rb") as file:
    data = file.read()

def chunks():
    for at in range(0, len(data), 100_000):
        if at > 3.5 * 2**20:
            while len(user.names(os.environ["SEGMENTS"])) < 3:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        yield data[at : at + 100_000]

with imagebroker.Broker.from_config(config) as broker:
    broker.create(None, {"name": "disk", "size": len(data)}, chunks())
"""


def kill_an_upload(container: Container, tmp_path: Path, **options: object) -> None:
    (tmp_path / "data").write_bytes(DATA)
    config = tmp_path / "killed.conf"
    config.write_text(container.config(**options))
    environment = {
        "PATH": os.defpath, "HOME": str(tmp_path), "ACCOUNT": container.user.account_url,
        "TOKEN": container.user.token, "SEGMENTS": container.segments,
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(config)],
        env=environment, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.returncode, Equals(-9), done.stderr)
    assert_that(container.segment_names(), HasLength(3))


@pytest.fixture
def proxy(container: Container) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", container.server.port) as proxy:
        yield proxy


def test_a_killed_upload_goes_on_with_the_segments_that_are_there(
    container: Container, tmp_path: Path, proxy: TcpProxy
) -> None:
    base = f"http://127.0.0.1:{proxy.port}"
    options = {
        "state_dir": tmp_path / "state", "parallel_segments": 1,
        "storage_url": container.user.account_url.replace(container.server.url, base),
    }  # fmt: skip
    kill_an_upload(container, tmp_path, **options)
    broker = container.broker(**options)
    before = proxy.sent
    image = broker.create(None, {"name": "disk", "size": len(DATA)}, chunks())
    assert_that(image.checksums["sha256"], Equals(DIGEST))
    assert_that(proxy.sent - before, LessThan(2 * MIB))  # the fourth segment, and 17 bytes
    assert_that(container.segment_names(), HasLength(5))
    with broker.open(None, image.ref) as reader:
        assert_that(b"".join(reader) == DATA, Equals(True))
    assert_that(list((tmp_path / "state").iterdir()), HasLength(0))
    assert_that(broker.purge(None, older_than=0), HasLength(0))


def test_other_data_does_not_go_on_with_the_segments_of_the_killed_upload(
    container: Container, tmp_path: Path
) -> None:
    options = {"state_dir": tmp_path / "state", "parallel_segments": 1}
    kill_an_upload(container, tmp_path, **options)
    other = DATA[::-1]
    broker = container.broker(**options)
    image = broker.create(None, {"name": "disk", "size": len(other)}, chunks(other))
    with broker.open(None, image.ref) as reader:
        assert_that(b"".join(reader) == other, Equals(True))
    assert_that(container.segment_names(), HasLength(5))


def test_purge_removes_what_a_killed_process_left_and_nothing_else(
    container: Container, tmp_path: Path
) -> None:
    broker = container.broker()
    kept = broker.create(None, {"name": "kept"}, DATA)
    names = container.segment_names()
    for name in names:
        container.user.call("DELETE", f"{container.segments}/{name}")
    assert_that(names, HasLength(5))
    broker.delete(None, kept.ref)
    kill_an_upload(container, tmp_path, parallel_segments=1)
    kept = broker.create(None, {"name": "kept"}, DATA)
    container.user.call("PUT", f"{container.segments}/images/of-another-program/1", b"x")
    assert_that(broker.purge(None, older_than=3600), HasLength(0))
    [found] = broker.purge(None, older_than=0, dry_run=True)
    assert_that(found.ref, Equals(container.ref("images/disk")))
    assert_that(container.segment_names(), HasLength(9))
    broker.purge(None, older_than=0)
    assert_that(container.segment_names(), HasLength(6))
    with broker.open(None, kept.ref) as reader:
        assert_that(b"".join(reader) == DATA, Equals(True))


def test_an_image_whose_segments_are_gone_is_removed_all_the_same(container: Container) -> None:
    broker = container.broker()
    ref = broker.create(None, {"name": "disk"}, DATA).ref
    first = container.segment_names()[0]
    container.user.call("DELETE", f"{container.segments}/{first}")
    broker.delete(None, ref)
    assert_that(container.segment_names(), Equals([]))


def test_segments_that_cannot_be_removed_are_named_with_the_remedy(
    container: Container, proxy: TcpProxy
) -> None:
    """The connection is lost for good in the middle of an upload."""

    def breaks() -> Iterator[bytes]:
        yield DATA[: 3 * MIB]
        while not container.segment_names():
            pass
        proxy.refuse()
        yield DATA[3 * MIB :]

    base = f"http://127.0.0.1:{proxy.port}"
    url = container.user.account_url.replace(container.server.url, base)
    broker = container.broker(storage_url=url, parallel_segments=1)
    with pytest.raises(UploadFailed) as caught:
        broker.create(None, {"name": "disk"}, breaks())
    assert_that(caught.value.hint, Contains("imagebroker purge --backend swift"))
    assert_that(len(container.segment_names()), GreaterThan(0))
    direct = container.broker()
    assert_that(direct.purge(None, older_than=0), HasLength(1))
    assert_that(container.segment_names(), Equals([]))
