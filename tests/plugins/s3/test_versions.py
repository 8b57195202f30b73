"""Buckets that keep versions: one version is read to its end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Not

from imagebroker.exceptions import ImageChanged, TransferError
from tests.plugins.s3.conftest import Bucket

MIB = 1024 * 1024
DATA = random.Random(3).randbytes(6 * MIB)


@pytest.fixture
def versioned(bucket: Bucket) -> Bucket:
    bucket.client.put_bucket_versioning(
        Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"}
    )
    return bucket


def put(bucket: Bucket, data: bytes) -> str | None:
    answer = bucket.client.put_object(Bucket=bucket.name, Key="images/disk", Body=data)
    found: str | None = answer.get("VersionId")
    return found


def test_the_version_of_an_image_is_its_version_id(versioned: Bucket) -> None:
    broker, ref = versioned.broker(), f"s3://{versioned.name}/images/disk"
    first = put(versioned, DATA)
    assert_that(broker.get(None, ref).version, Equals(first))
    second = put(versioned, DATA)
    assert_that(broker.get(None, ref).version, Equals(second))
    assert_that(broker.get(None, f"{ref}?versionId={first}").version, Equals(first))


def test_without_versions_it_is_the_etag(bucket: Bucket) -> None:
    put(bucket, DATA)
    version = bucket.broker().get(None, f"s3://{bucket.name}/images/disk").version
    assert_that((version or "")[:1], Equals('"'))


def test_a_download_ends_with_the_version_that_it_began_with(
    versioned: Bucket, tmp_path: Path
) -> None:
    """Even if the connection is lost after another version is there."""
    broker, ref = versioned.broker(), f"s3://{versioned.name}/images/disk"
    put(versioned, DATA)
    with broker.open(None, ref) as reader:
        first = reader.read(MIB)
        put(versioned, DATA[::-1])
        assert_that(first + b"".join(reader) == DATA, Equals(True))
    broker.download(None, ref, tmp_path / "disk")
    assert_that((tmp_path / "disk").read_bytes() == DATA[::-1], Equals(True))


def test_without_versions_another_one_is_never_joined_to_the_first(bucket: Bucket) -> None:
    from imagebroker.model.reference import in_form, parse
    from tests.plugins.s3.test_identity import backend

    put(bucket, DATA)
    made = backend(**bucket.server.options())
    ref = in_form(parse(f"s3://{bucket.name}/images/disk"), made.ref_form)
    source = made.open(None, ref)
    put(bucket, DATA[::-1])
    with pytest.raises((ImageChanged, TransferError)):
        list(source.read(3 * MIB))
    source.close()


def test_an_update_makes_another_version_with_the_same_bytes(versioned: Bucket) -> None:
    broker, ref = versioned.broker(), f"s3://{versioned.name}/images/disk"
    first = put(versioned, DATA)
    changed = broker.update(None, ref, {"tags": ["gold"]})
    assert_that(changed.tags, Equals(("gold",)))
    assert_that(changed.version, Not(Equals(first)))
    with broker.open(None, ref) as reader:
        assert_that(b"".join(reader) == DATA, Equals(True))
    assert_that(broker.get(None, f"{ref}?versionId={first}").tags, Equals(()))
