"""Who may use an object stays as it is when its record changes; locked objects stay as they are."""

from __future__ import annotations

import base64
import datetime
import hashlib
import logging
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import PolicyViolation
from tests.plugins.s3.conftest import OtherBucket

pytest.importorskip("boto3")
from imagebroker_s3.rights import arguments_of

EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"
KNOWN = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"


def acl(other: OtherBucket, key: str) -> list[tuple[str, str]]:
    found = other.client.get_object_acl(Bucket=other.name, Key=key)["Grants"]
    return sorted(
        (each["Permission"], each["Grantee"].get("URI") or each["Grantee"]["ID"]) for each in found
    )


@pytest.mark.parametrize(
    "how", [{"ACL": "public-read"}, {"ACL": "authenticated-read"}, {"ACL": "private"}]
)
def test_an_update_keeps_the_acl(other: OtherBucket, how: dict[str, str]) -> None:
    other.client.put_object(Bucket=other.name, Key="disk", Body=b"\0", **how)
    before = acl(other, "disk")
    changed = other.broker().update(None, other.ref("disk"), {"tags": ["gold"]})
    assert_that((changed.tags, acl(other, "disk")), Equals((("gold",), before)))


def test_all_kinds_of_rights_are_said_again() -> None:
    owner = {"Type": "CanonicalUser", "ID": "owner"}
    grants: list[dict[str, Any]] = [
        {"Grantee": owner, "Permission": "FULL_CONTROL"},
        {"Grantee": {"Type": "Group", "URI": EVERYBODY}, "Permission": "READ"},
        {"Grantee": {"Type": "Group", "URI": KNOWN}, "Permission": "READ"},
        {"Grantee": {"Type": "CanonicalUser", "ID": "friend"}, "Permission": "READ_ACP"},
        {"Grantee": {"Type": "AmazonCustomerByEmail", "EmailAddress": "a@example.org"},
         "Permission": "WRITE_ACP"},
    ]  # fmt: skip
    assert_that(
        arguments_of({"Owner": owner, "Grants": grants}),
        Equals({
            "GrantFullControl": 'id="owner"',
            "GrantRead": f'uri="{EVERYBODY}", uri="{KNOWN}"',
            "GrantReadACP": 'id="friend"', "GrantWriteACP": 'emailAddress="a@example.org"',
        }),
    )  # fmt: skip
    # Where a bucket has no ACLs, as new ones of AWS, none may be said.
    assert_that(arguments_of({"Owner": owner, "Grants": grants[:1]}), Equals({}))


def test_an_acl_that_these_keys_may_not_read_is_a_warning(
    of_ceph: OtherBucket, caplog: pytest.LogCaptureFixture
) -> None:
    of_ceph.client.put_object(Bucket=of_ceph.name, Key="disk", Body=b"\0", ACL="public-read")
    denied = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": '
        f'"s3:GetObjectAcl", "Resource": "arn:aws:s3:::{of_ceph.name}/*"}}]}}'
    )
    of_ceph.client.put_bucket_policy(Bucket=of_ceph.name, Policy=denied)
    with caplog.at_level(logging.WARNING):
        of_ceph.broker().update(None, of_ceph.ref("disk"), {"tags": ["gold"]})
    assert_that(caplog.text, Contains("may not read its ACL"))


@pytest.mark.parametrize("hold", [True, False])
def test_a_locked_object_is_not_replaced_by_one_that_is_not(
    of_aws: OtherBucket, hold: bool
) -> None:
    bucket = f"{of_aws.name}-locked"
    of_aws.client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=900)
    lock: dict[str, Any] = (
        {"ObjectLockLegalHoldStatus": "ON"} if hold
        else {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    )  # fmt: skip
    digest = base64.b64encode(hashlib.md5(b"\0").digest()).decode()
    of_aws.client.put_object(Bucket=bucket, Key="disk", Body=b"\0", ContentMD5=digest, **lock)
    with pytest.raises(PolicyViolation, match="Object Lock"):
        of_aws.broker().update(None, f"s3://{bucket}/disk", {"tags": ["gold"]})
    assert_that(of_aws.broker().get(None, f"s3://{bucket}/disk").tags, Equals(()))
