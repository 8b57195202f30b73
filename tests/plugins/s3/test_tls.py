"""S3 and Swift behind TLS, as a load balancer ends it before most of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

import imagebroker
from imagebroker.exceptions import PolicyViolation
from tests.plugins.s3.conftest import Bucket
from tests.plugins.swift.conftest import Container
from tests.servers import haproxy
from tests.servers.certificates import write_certificates
from tests.servers.fixtures import require
from tests.servers.swift import Swift

DATA = random.Random(9).randbytes(11 * 1024 * 1024)


@pytest.fixture
def secure(swift: Swift, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The https URL of the server, and the file with the authority to trust."""
    require(haproxy.missing())
    ca_file = write_certificates(tmp_path / "tls")
    with haproxy.HAProxy([swift.port], tls=tmp_path / "tls" / "good.pem") as proxy:
        yield proxy.url("").rstrip("/"), ca_file


def store_and_read(broker: imagebroker.Broker, dest: Path) -> None:
    """In parts, with every request of both ways."""
    ref = broker.create(None, {"name": "disk", "tags": ["gold"]}, DATA).ref
    assert_that([image.ref for image in broker.get_all(None)], Equals([ref]))
    broker.download(None, ref, dest)
    assert_that(dest.read_bytes() == DATA, Equals(True))
    broker.delete(None, ref)


def test_s3_over_tls(bucket: Bucket, secure: tuple[str, Path], tmp_path: Path) -> None:
    url, ca_file = secure
    store_and_read(bucket.broker(endpoint_url=url, ca_file=ca_file), tmp_path / "disk")
    with pytest.raises(PolicyViolation) as caught:
        bucket.broker(endpoint_url=url).get(None, f"s3://{bucket.name}/images/disk")
    assert_that(caught.value.hint, Contains("ca_file"))


def test_swift_over_tls(
    swift: Swift, make_broker: Callable[..., imagebroker.Broker], secure: tuple[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    url, ca_file = secure
    container = Container(swift, make_broker)
    login = {"auth_url": f"{url}/auth/v1.0", "ca_file": ca_file, "segment_size": 5}
    account = container.user.account_url.replace(swift.url, url)
    store_and_read(container.broker(**login, storage_url=account), tmp_path / "disk")
    with pytest.raises(PolicyViolation, match="its token to http:"):
        container.broker(**login).get(None, container.ref("images/disk"))
