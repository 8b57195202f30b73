"""A bucket in another region than the one of the options: the server names it, and is believed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

import imagebroker
from imagebroker.exceptions import NotAuthorized
from tests.plugins.s3.conftest import Bucket, OtherBucket
from tests.servers import haproxy
from tests.servers.fixtures import require

pytest.importorskip("boto3")
from imagebroker_s3.errors import error_of

#: Two parts.
DATA = b"\0" + bytes(range(256)) * 24_000
#: What AWS answers to a request that is signed for another region than that of the bucket.
REDIRECT = """\
  acl for_it req.hdr(authorization) -m sub /eu-west-1/s3/aws4_request
  http-request return status 301 content-type application/xml hdr x-amz-bucket-region eu-west-1 \
string "<Error><Code>PermanentRedirect</Code><Message>No.</Message></Error>" unless for_it
"""


def every_verb(broker: imagebroker.Broker, bucket: str) -> None:
    made = broker.create(None, {"name": "disk", "tags": ["gold"]}, DATA)
    assert_that([image.ref for image in broker.get_all(None)], Equals([made.ref]))
    found = io.BytesIO()
    broker.download(None, made.ref, found)
    assert_that(found.getvalue() == DATA, Is(True))
    assert_that(broker.update(None, made.ref, {"tags": ["tin"]}).tags, Equals(("tin",)))
    broker.delete(None, made.ref)
    assert_that(bucket, Equals(made.ref.split("/")[2]))


def test_a_server_that_names_its_region_in_the_error_is_believed(bucket: Bucket) -> None:
    """Swift's; with a HEAD it says nothing."""
    every_verb(bucket.broker(region="eu-west-9"), bucket.name)


@pytest.fixture
def far(of_aws: OtherBucket) -> Iterator[OtherBucket]:
    """A bucket in eu-west-1."""
    require(haproxy.missing())
    with haproxy.HAProxy([of_aws.server.port], rules=REDIRECT) as proxy:
        of_aws.url = proxy.url("").rstrip("/")
        yield of_aws


def test_a_redirect_to_another_region_is_followed(far: OtherBucket) -> None:
    far.client.put_object(Bucket=far.name, Key="images/disk", Body=DATA)
    every_read = far.broker(endpoint_url=far.url)
    (image,) = every_read.get_all(None)
    for broker in (every_read, far.broker(endpoint_url=far.url)):
        found = io.BytesIO()
        broker.download(None, image.ref, found)
        assert_that(found.getvalue() == DATA, Is(True))
    made = far.broker(endpoint_url=far.url).create(None, {"name": "another"}, DATA)
    assert_that(made.size, Equals(len(DATA)))


def test_check_says_which_region_to_set(far: OtherBucket, make_backend: Callable[..., Any]) -> None:
    options = far.server.options(create_in=far.name, endpoint_url=far.url)
    findings = list(make_backend(**options).check(None))
    assert_that([each.level for each in findings], Equals(["ok", "warning"]))
    assert_that(findings[1].remedy, Equals("set region = eu-west-1"))
    assert_that(len(list(make_backend(**options, region="eu-west-1").check(None))), Equals(1))


@pytest.mark.parametrize(
    ("found", "headers", "hint"),
    [
        ({"Code": "AuthorizationHeaderMalformed", "Region": "eu-west-1"}, {},
         "set region = eu-west-1"),
        ({"Code": "301"}, {"x-amz-bucket-region": "ap-south-2"}, "set region = ap-south-2"),
        ({"Code": "PermanentRedirect", "Endpoint": "b.s3.example.org"}, {}, "b.s3.example.org"),
        ({"Code": "301"}, {}, "check region and endpoint_url"),
        ({"Code": "AuthorizationHeaderMalformed"}, {}, "check region"),
    ],
)  # fmt: skip
def test_an_error_about_the_region_has_the_value_to_set(
    found: dict[str, str], headers: dict[str, str], hint: str
) -> None:
    """Where it is not followed."""
    status = 301 if found["Code"] in ("301", "PermanentRedirect") else 400
    told = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    error = error_of("s3://b/disk", {"Error": found, "ResponseMetadata": told})
    assert_that(isinstance(error, NotAuthorized), Is(True))
    assert_that(error.hint, Contains(hint))
