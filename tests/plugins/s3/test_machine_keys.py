"""The keys of the machine's role: only where the deployer says so, and for nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, Not

from imagebroker.exceptions import ConfigError, NotAuthorized, PolicyViolation, TransferError
from imagebroker.plugin import BackendHost, Options
from tests.plugins.s3.conftest import Bucket
from tests.servers.aws_metadata import AwsMetadata
from tests.servers.swift import ACCESS_KEY, SECRET_KEY

DATA = random.Random(7).randbytes(300_000)


@pytest.fixture
def machine() -> Iterator[AwsMetadata]:
    with AwsMetadata(ACCESS_KEY, SECRET_KEY) as server:
        yield server


def options(url: str) -> dict[str, object]:
    """In place of keys."""
    return {"access_key": "", "secret_key": "", "credentials": "metadata", "metadata_url": url}


def test_an_image_is_stored_and_read_with_the_keys_of_the_machine(
    bucket: Bucket, machine: AwsMetadata, tmp_path: Path
) -> None:
    broker = bucket.broker(**options(machine.url))
    image = broker.create(None, {"name": "disk"}, DATA)
    broker.download(None, image.ref, tmp_path / "disk")
    assert_that((tmp_path / "disk").read_bytes() == DATA, Is(True))
    assert_that(machine.asked[0], Equals(("PUT", "/latest/api/token")))
    assert_that(machine.times_asked_for_keys(), Equals(1))


def test_keys_that_will_not_last_are_asked_for_again(
    bucket: Bucket, machine: AwsMetadata, tmp_path: Path
) -> None:
    machine.lifetime = timedelta(minutes=2)
    broker = bucket.broker(**options(machine.url))
    image = broker.create(None, {"name": "disk"}, DATA)
    before = machine.times_asked_for_keys()
    broker.download(None, image.ref, tmp_path / "disk")
    assert_that(machine.times_asked_for_keys() > before, Is(True))


def test_without_the_option_nobody_asks_the_service(bucket: Bucket, machine: AwsMetadata) -> None:
    broker = bucket.broker(**options(machine.url) | {"credentials": "keys"})
    with pytest.raises(Exception, match="answers"):
        broker.get(None, f"s3://{bucket.name}/images/disk")
    assert_that(machine.asked, Equals([]))


def test_the_permission_is_for_these_requests_only(machine: AwsMetadata) -> None:
    host = BackendHost("s3", Options({"metadata_url": machine.url}))
    with pytest.raises(PolicyViolation):
        host.connect("127.0.0.1", machine.port)
    with pytest.raises(PolicyViolation):
        host.redirect("https://s3.example.org/a/b", "http://169.254.169.254/latest/")
    host.for_server(machine.url).connect("127.0.0.1", machine.port).close()
    with pytest.raises(PolicyViolation):
        host.for_server("http://169.254.169.254").connect("127.0.0.1", machine.port)


def test_a_machine_without_a_role_has_no_keys(bucket: Bucket) -> None:
    with AwsMetadata(ACCESS_KEY, SECRET_KEY, role=None) as machine:
        broker = bucket.broker(**options(machine.url))
        with pytest.raises(NotAuthorized, match="this machine has no role") as caught:
            broker.get(None, f"s3://{bucket.name}/images/disk")
    assert_that(caught.value.hint, Contains("instance profile"))


def test_where_there_is_no_such_service_the_error_names_it(bucket: Bucket) -> None:
    with AwsMetadata(ACCESS_KEY, SECRET_KEY) as machine:
        url = machine.url
    broker = bucket.broker(**options(url))
    with pytest.raises(TransferError) as caught:
        broker.get(None, f"s3://{bucket.name}/images/disk")
    assert_that(caught.value.hint, Contains("metadata_url"))
    assert_that(str(caught.value), Not(Contains("canary")))


def test_keys_and_the_machine_are_not_both_wanted(bucket: Bucket, machine: AwsMetadata) -> None:
    broker = bucket.broker(credentials="metadata", metadata_url=machine.url)
    with pytest.raises(ConfigError, match="has keys, and credentials is metadata"):
        broker.get(None, f"s3://{bucket.name}/images/disk")
