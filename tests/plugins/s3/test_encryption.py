"""Objects that the server encrypts: with its own keys, with a key service's, with their owner's."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is

from imagebroker.exceptions import ConfigError, NotAuthorized, UnsupportedOperation
from tests.plugins.s3.conftest import OtherBucket
from tests.servers.radosgw import KMS_KEY

pytest.importorskip("boto3")
from imagebroker_s3.errors import error_of

#: Two parts.
DATA = b"\0" + os.urandom(7 * 1024 * 1024)
OF_KEY_SERVICE = {"encryption": "aws:kms", "kms_key_id": KMS_KEY}


@pytest.mark.parametrize("data", [DATA, b"\0small"], ids=["parts", "whole"])
def test_an_image_is_encrypted_with_a_key_of_the_key_service(
    other: OtherBucket, data: bytes
) -> None:
    broker = other.broker(**OF_KEY_SERVICE)
    made = broker.create(None, {"name": "disk"}, data)
    found = other.client.head_object(Bucket=other.name, Key="images/disk")
    assert_that((found["ServerSideEncryption"], found["SSEKMSKeyId"]), Equals(("aws:kms", KMS_KEY)))
    read = io.BytesIO()
    other.broker().download(None, made.ref, read)
    assert_that(read.getvalue() == data, Is(True))


def test_an_update_keeps_the_encryption(of_aws: OtherBucket) -> None:
    of_aws.client.put_object(
        Bucket=of_aws.name, Key="disk", Body=b"\0", ServerSideEncryption="aws:kms",
        SSEKMSKeyId="another",
    )  # fmt: skip
    of_aws.broker().update(None, of_aws.ref("disk"), {"tags": ["gold"]})
    found = of_aws.client.head_object(Bucket=of_aws.name, Key="disk")
    assert_that(found["SSEKMSKeyId"], Equals("another"))


@pytest.mark.parametrize("data", [DATA, b"\0small"], ids=["parts", "whole"])
def test_what_a_server_does_not_encrypt_as_it_is_told_is_not_left_there(
    of_ceph: OtherBucket, data: bytes
) -> None:
    """This release of Ceph takes AES256 for an object, says nothing, and does nothing."""
    with pytest.raises(UnsupportedOperation, match="does not encrypt") as caught:
        of_ceph.broker(encryption="AES256").create(None, {"name": "disk"}, data)
    assert_that(caught.value.hint, Contains("encryption"))
    listed = of_ceph.client.list_objects_v2(Bucket=of_ceph.name).get("Contents", [])
    uploads = of_ceph.client.list_multipart_uploads(Bucket=of_ceph.name).get("Uploads", [])
    assert_that([*listed, *uploads], HasLength(0))


def test_a_key_that_the_key_service_does_not_have_is_named(of_ceph: OtherBucket) -> None:
    broker = of_ceph.broker(encryption="aws:kms", kms_key_id="no-such-key")
    with pytest.raises(NotAuthorized, match="no-such-key") as caught:
        broker.create(None, {"name": "disk"}, DATA)
    assert_that(caught.value.hint, Contains("kms_key_id"))


def test_an_object_with_its_owners_key_is_told_from_one_with_wrong_credentials(
    of_ceph: OtherBucket,
) -> None:
    of_ceph.client.put_object(
        Bucket=of_ceph.name, Key="disk", Body=b"\0", SSECustomerAlgorithm="AES256",
        SSECustomerKey=os.urandom(32),
    )  # fmt: skip
    broker = of_ceph.broker()
    for call in (
        lambda: broker.get(None, of_ceph.ref("disk")),
        lambda: broker.download(None, of_ceph.ref("disk"), io.BytesIO()),
    ):
        with pytest.raises(UnsupportedOperation) as caught:
            call()
        assert_that(caught.value.hint, Contains("SSE-C"))


@pytest.mark.parametrize(
    ("found", "kind", "hint"),
    [
        ({"Code": "InvalidRequest", "Message": "The object was stored using a form of Server Side "
          "Encryption. The correct parameters must be provided to retrieve the object."},
         UnsupportedOperation, "SSE-C"),
        ({"Code": "KMS.DisabledException", "Message": "arn:aws:kms:… is disabled."},
         NotAuthorized, "is enabled"),
        ({"Code": "AccessDenied", "Message": "User: arn:aws:iam::1:user/x is not authorized to "
          "perform: kms:Decrypt on the resource associated with this ciphertext"},
         NotAuthorized, "kms:Decrypt"),
        ({"Code": "AccessDenied", "Message": "Access Denied"}, NotAuthorized, "policy allows"),
    ],
)  # fmt: skip
def test_what_aws_says_of_keys_is_understood(
    found: dict[str, str], kind: type[Exception], hint: str
) -> None:
    """In its own words, as no server here has them."""
    status = 400 if found["Code"] != "AccessDenied" else 403
    response: dict[str, Any] = {"Error": found, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = error_of("s3://b/disk", response)
    assert_that(type(error), Equals(kind))
    assert_that(error.hint, Contains(hint))


def test_a_key_without_the_service_is_a_mistake(of_ceph: OtherBucket) -> None:
    with pytest.raises(ConfigError, match="kms_key_id"):
        of_ceph.broker(kms_key_id="a-key").get(None, of_ceph.ref("disk"))
