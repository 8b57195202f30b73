"""Uploads to S3: in checked parts, all or nothing, and a killed one goes on."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, LessThan

from imagebroker.exceptions import Conflict, InvalidImageRef, NotAuthorized, UploadFailed
from tests.bounds import HANGS
from tests.plugins.s3.conftest import Bucket
from tests.servers.tcp import TcpProxy

MIB = 1024 * 1024
DATA = random.Random(7).randbytes(13 * MIB + 17)
DIGEST = hashlib.sha256(DATA).hexdigest()


def chunks(data: bytes = DATA, size: int = 100_000) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("rewindable", [True, False])
def test_an_image_in_parts_has_its_digest_and_arrives_whole(
    bucket: Bucket, tmp_path: Path, rewindable: bool
) -> None:
    broker = bucket.broker()
    source = DATA if rewindable else chunks()
    image = broker.create(None, {"name": "linux/disk.raw", "tags": ["a", "b"]}, source)
    assert_that(image.ref, Equals(f"s3://{bucket.name}/images/linux/disk.raw"))
    assert_that((image.size, image.checksums["sha256"]), Equals((len(DATA), DIGEST)))
    assert_that(image.tags, Equals(("a", "b")))
    done = broker.download(None, image.ref, tmp_path / "disk.raw")
    assert_that((tmp_path / "disk.raw").read_bytes() == DATA, Equals(True))
    assert_that(done.evidence["checked_against"], Equals(("sha256 of the record",)))
    assert_that(bucket.uploads(), HasLength(0))


def test_a_name_is_used_once(bucket: Bucket) -> None:
    broker = bucket.broker()
    broker.create(None, {"name": "disk"}, b"first")
    for data in (b"second", DATA):
        with pytest.raises(Conflict):
            broker.create(None, {"name": "disk"}, data)
    with broker.open(None, f"s3://{bucket.name}/images/disk") as reader:
        assert_that(reader.read(), Equals(b"first"))
    for name in (None, "", "a//b", "../x", "a/"):
        with pytest.raises(InvalidImageRef):
            broker.create(None, {"name": name}, b"data")


def test_an_upload_that_fails_leaves_no_part(bucket: Bucket) -> None:
    def breaks() -> Iterator[bytes]:
        yield from chunks(DATA[: 11 * MIB])
        raise OSError("the tape is torn")

    broker = bucket.broker()
    with pytest.raises(UploadFailed, match="torn"):
        broker.create(None, {"name": "disk"}, breaks())
    assert_that(bucket.uploads(), HasLength(0))
    assert_that(list(broker.get_all(None)), HasLength(0))


#: Uploads with two parts, and is killed by its own source in the middle of the third.
KILLED = """
import os, signal, sys, time
import imagebroker

path, config = sys.argv[1:]
with open(path, "rb") as file:
    data = file.read()

def chunks():
    for at in range(0, len(data), 100_000):
        if at > 11 * 2**20:
            while len(parts()) < 2:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        yield data[at : at + 100_000]

def parts():
    import boto3
    from tests.servers.swift import Swift
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads") or ()
    for each in uploads:
        found = client.list_parts(Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])
        return found.get("Parts") or ()
    return ()

from tests.servers.swift import Swift
server = Swift()
server.port = int(os.environ["SWIFT_PORT"])
client, bucket = server.client(), os.environ["BUCKET"]
with imagebroker.Broker.from_config(config) as broker:
    broker.create(None, {"name": "disk", "size": len(data)}, chunks())
"""


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", bucket.server.port) as proxy:
        yield proxy


def test_a_killed_upload_goes_on_with_the_parts_that_are_there(
    bucket: Bucket, tmp_path: Path, proxy: TcpProxy
) -> None:
    (tmp_path / "data").write_bytes(DATA)
    options = {
        "state_dir": tmp_path / "state", "parallel_parts": 1,
        "endpoint_url": f"http://127.0.0.1:{proxy.port}",
    }  # fmt: skip
    config = tmp_path / "killed.conf"
    config.write_text(bucket.config(**options))
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SWIFT_PORT": str(bucket.server.port),
        "BUCKET": bucket.name, "PYTHONPATH": str(Path(__file__).parents[3]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(config)],
        env=environment, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.returncode, Equals(-9), done.stderr)
    assert_that(bucket.uploads(), HasLength(1))
    broker = bucket.broker(**options)
    before = proxy.sent
    image = broker.create(None, {"name": "disk", "size": len(DATA)}, chunks())
    assert_that(image.checksums["sha256"], Equals(DIGEST))
    assert_that(bucket.uploads(), HasLength(0))
    assert_that(proxy.sent - before, LessThan(4 * MIB))  # the third part alone
    with broker.open(None, image.ref) as reader:
        assert_that(b"".join(reader) == DATA, Equals(True))
    assert_that(list((tmp_path / "state").iterdir()), HasLength(0))


def test_purge_aborts_what_a_killed_process_left(bucket: Bucket) -> None:
    key = "images/left"
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    broker = bucket.broker()
    assert_that(broker.purge(None, older_than=3600), HasLength(0))
    [found] = broker.purge(None, older_than=0, dry_run=True)
    assert_that(found.ref, Equals(f"s3://{bucket.name}/{key}"))
    assert_that(bucket.uploads(), HasLength(1))
    broker.purge(None, older_than=0)
    assert_that(bucket.uploads(), HasLength(0))


def test_wrong_keys_and_the_environment(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "broker:broker")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-a-service")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    broker = bucket.broker()
    ref = broker.create(None, {"name": "disk"}, b"data").ref
    with pytest.raises(NotAuthorized) as caught:
        bucket.broker(secret_key="canary-wrong-secret").get(None, ref)
    assert "canary" not in str(caught.value)


def test_records_change_and_protected_images_stay(bucket: Bucket) -> None:
    broker = bucket.broker()
    info = {"name": "disk", "properties": {"os": "ä b", "x": "1"}, "min_disk": 3}
    ref = broker.create(None, info, DATA).ref
    changed = broker.update(None, ref, {"protected": True, "properties": {"x": None}})
    assert_that(dict(changed.properties), Equals({"os": "ä b"}))
    assert_that((changed.min_disk, changed.checksums["sha256"]), Equals((3, DIGEST)))
    with pytest.raises(Exception, match="protected"):
        broker.delete(None, ref)
    broker.update(None, ref, {"protected": False})
    with broker.open(None, ref) as reader:
        assert_that(b"".join(reader) == DATA, Equals(True))
    broker.delete(None, ref)
    assert_that(list(broker.get_all(None)), HasLength(0))


def test_what_another_program_stored_is_an_image_too(bucket: Bucket) -> None:
    key = "images/two words/ü+%.raw"
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=bytes(6))
    broker = bucket.broker()
    [image] = broker.get_all(None)
    assert_that(image.ref, Contains("/images/two%20words/%C3%BC+%25.raw"))
    assert_that((image.name, image.size), Equals(("ü+%.raw", 6)))
    with broker.open(None, image.ref) as reader:
        assert_that(reader.read(), Equals(bytes(6)))
