"""Ceph's S3 server and a stand-in of AWS: what Swift's S3 API has not, or has in another way."""

from __future__ import annotations

import hashlib
import random
import uuid
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is

from imagebroker.exceptions import Conflict, ImageNotFound, NotAuthorized, NotReady, TransferError
from tests.plugins.s3.conftest import OtherBucket
from tests.servers.radosgw import DOMAIN
from tests.servers.squid import Squid
from tests.servers.squid import missing as no_squid

pytest.importorskip("boto3")
#: Two whole parts, and a bit.
DATA = random.Random(11).randbytes(10 * 1024 * 1024 + 17)
SHA256 = hashlib.sha256(DATA).hexdigest()


def test_an_image_in_parts_is_stored_listed_read_changed_and_removed(
    other: OtherBucket, tmp_path: Path
) -> None:
    broker = other.broker()
    image = broker.create(None, {"name": "a disk+1", "tags": ["gold"]}, DATA)
    assert_that(image.checksums["sha256"], Equals(SHA256))
    assert_that([each.ref for each in broker.get_all(None)], Equals([image.ref]))
    done = broker.download(None, image.ref, tmp_path / "disk")
    assert_that(done.evidence["sha256"], Equals(SHA256))
    # Asked for the ACL of an object in parts that was never given one, moto answers HTTP 500.
    other.client.put_object_acl(Bucket=other.name, Key="images/a disk+1", ACL="private")
    changed = broker.update(None, image.ref, {"tags": ["silver"]})
    assert_that((changed.tags, changed.checksums["sha256"]), Equals((("silver",), SHA256)))
    broker.delete(None, image.ref)
    with pytest.raises(ImageNotFound):
        broker.get(None, image.ref)


def test_a_name_is_used_once(other: OtherBucket) -> None:
    broker = other.broker()
    broker.create(None, {"name": "disk"}, b"first")
    with pytest.raises(Conflict, match="already exists"):
        broker.create(None, {"name": "disk"}, b"second")
    found = other.client.get_object(Bucket=other.name, Key="images/disk")["Body"].read()
    assert_that(found, Equals(b"first"))


def test_a_version_is_read_by_its_id(other: OtherBucket, tmp_path: Path) -> None:
    other.client.put_bucket_versioning(
        Bucket=other.name, VersioningConfiguration={"Status": "Enabled"}
    )
    old, new = (
        other.client.put_object(Bucket=other.name, Key="disk", Body=data)["VersionId"]
        for data in (b"old", b"new")
    )
    broker = other.broker()
    assert_that(broker.get(None, other.ref("disk")).version, Equals(new))
    broker.download(None, f"{other.ref('disk')}?versionId={old}", tmp_path / "disk")
    assert_that((tmp_path / "disk").read_bytes(), Equals(b"old"))


@pytest.mark.parametrize(
    "key",
    ["a b", "a+b", "a%2Fb", "a//b", "ä/日本", "/begins", "a?b#c&d=e", "x" * 900],
)
def test_a_key_of_any_text_is_read(other: OtherBucket, key: str, tmp_path: Path) -> None:
    """As somebody else stored it; the ref is the one that an instance gives."""
    data = b"\0" + key.encode()
    other.client.put_object(Bucket=other.name, Key=f"images/{key}", Body=data)
    (image,) = other.broker().get_all(None)
    other.broker().download(None, image.ref, tmp_path / "disk")
    assert_that((tmp_path / "disk").read_bytes(), Equals(data))


def test_what_other_programs_keep_at_an_object_stays(other: OtherBucket) -> None:
    told = {"ContentType": "application/x-qcow2", "CacheControl": "max-age=60"}
    other.client.put_object(
        Bucket=other.name, Key="disk", Body=b"data", Metadata={"owner": "them"}, **told
    )
    changed = other.broker().update(None, other.ref("disk"), {"tags": ["gold"]})
    assert_that(changed.tags, Equals(("gold",)))
    found = other.client.head_object(Bucket=other.name, Key="disk")
    assert_that({name: found[name] for name in told}, Equals(told))
    assert_that(found["Metadata"]["owner"], Equals("them"))


def test_an_empty_object_is_refused_as_an_image(other: OtherBucket, tmp_path: Path) -> None:
    """Not as a range that the server cannot give."""
    other.client.put_object(Bucket=other.name, Key="empty", Body=b"")
    with pytest.raises(TransferError, match=r"/empty is empty"):
        other.broker().download(None, other.ref("empty"), tmp_path / "disk")
    assert_that(list(tmp_path.glob("*disk*")), HasLength(0))


def test_what_is_missing_is_named(other: OtherBucket) -> None:
    broker = other.broker()
    with pytest.raises(ImageNotFound, match="NoSuchKey"):
        broker.get(None, other.ref("none"))
    with pytest.raises(ImageNotFound, match="NoSuchBucket") as caught:
        broker.get(None, f"s3://no-{uuid.uuid4().hex}/disk")
    assert_that(caught.value.hint, Contains("bucket"))


def test_a_bucket_in_the_name_of_the_host(of_ceph: OtherBucket, tmp_path: Path) -> None:
    if problem := no_squid():
        pytest.skip(problem)
    with Squid(origin=of_ceph.server.port) as proxy:
        broker = of_ceph.broker(
            endpoint_url=f"http://{DOMAIN}", addressing_style="virtual", proxy=proxy.url
        )
        image = broker.create(None, {"name": "disk"}, DATA)
        broker.download(None, image.ref, tmp_path / "disk")
        asked = {url.split("/")[2] for _, _, url, _ in proxy.requests(at_least=1)}
    assert_that((tmp_path / "disk").read_bytes() == DATA, Is(True))
    assert_that(asked, Equals({f"{of_ceph.name}.{DOMAIN}"}))


def test_refused_keys_are_told_apart(of_ceph: OtherBucket) -> None:
    """An answer to a HEAD has no reason: it is asked for."""
    for options, reason, remedy in (
        ({"access_key": "nobody"}, "InvalidAccessKeyId", "access_key"),
        ({"secret_key": "canary-wrong"}, "SignatureDoesNotMatch", "secret_key"),
    ):
        with pytest.raises(NotAuthorized, match=reason) as caught:
            of_ceph.broker(**options).get(None, of_ceph.ref("disk"))
        assert_that(caught.value.hint, Contains(remedy))


def test_a_public_object_needs_no_keys(of_ceph: OtherBucket) -> None:
    of_ceph.client.put_object(Bucket=of_ceph.name, Key="disk", Body=b"\0yes", ACL="public-read")
    broker = of_ceph.broker(access_key="", secret_key="")
    with broker.open(None, of_ceph.ref("disk")) as reader:
        assert_that(reader.read(), Equals(b"\0yes"))


def test_an_archived_object_has_to_be_restored_first(of_aws: OtherBucket, tmp_path: Path) -> None:
    of_aws.client.put_object(
        Bucket=of_aws.name, Key="disk", Body=b"cold", StorageClass="DEEP_ARCHIVE"
    )
    with pytest.raises(NotReady, match="InvalidObjectState") as caught:
        of_aws.broker().download(None, of_aws.ref("disk"), tmp_path / "disk")
    assert_that(caught.value.hint, Contains("restore"))
    assert_that(list(tmp_path.glob(".disk*")), HasLength(0))


def test_checksums_of_any_kind_in_an_object_do_not_matter(
    of_aws: OtherBucket, tmp_path: Path
) -> None:
    for kind in ("CRC32", "SHA256"):
        of_aws.client.put_object(Bucket=of_aws.name, Key=kind, Body=DATA, ChecksumAlgorithm=kind)
        of_aws.broker().download(None, of_aws.ref(kind), tmp_path / kind)
        assert_that((tmp_path / kind).read_bytes() == DATA, Is(True))


def test_a_list_of_more_than_a_page_is_complete(of_aws: OtherBucket) -> None:
    names = [f"images/{number:04}" for number in range(23)]
    for name in names:
        of_aws.client.put_object(Bucket=of_aws.name, Key=name, Body=b"")
    found = [each.ref for each in of_aws.broker().get_all(None, sort_key="name", sort_dir="asc")]
    assert_that(found, Equals([of_aws.ref(name) for name in names]))
