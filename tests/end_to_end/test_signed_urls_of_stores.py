"""URLs that real object stores sign: one runs out, the next goes on with what has arrived."""

from __future__ import annotations

import hashlib
import hmac
import random
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength, Is, LessThan

import imagebroker
from imagebroker.exceptions import ImageBrokerError, NotAuthorized
from tests.servers.swift import Swift
from tests.servers.tcp import Fault, TcpProxy

MIB = 1 << 20
DATA = random.Random(55).randbytes(8 * MIB)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
CONFIG = (
    "[imagebroker]\nenabled_schemes = http\nretries = 0\nkeep_partial = true\n"
    "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
)

#: Signs the URL of an object at a server that is reached at this port, for so many seconds.
Signer = Callable[[Swift, str, int, int], str]


def by_s3(swift: Swift, container: str, port: int, seconds: int) -> str:
    boto3 = pytest.importorskip("boto3")
    keys = swift.options()
    client = boto3.session.Session().client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name=swift.region,
        aws_access_key_id=keys["access_key"], aws_secret_access_key=keys["secret_key"],
    )  # fmt: skip
    url: str = client.generate_presigned_url(
        "get_object", Params={"Bucket": container, "Key": "disk"}, ExpiresIn=seconds
    )
    return url


def by_swift(swift: Swift, container: str, port: int, seconds: int) -> str:
    user, key = swift.user(), "canary-of-a-container"
    user.call("POST", container, X_Container_Meta_Temp_URL_Key=key)
    path = f"{urlsplit(user.account_url).path}/{container}/disk"
    until = int(time.time()) + seconds
    signed = hmac.new(key.encode(), f"GET\n{until}\n{path}".encode(), "sha256").hexdigest()
    return f"http://127.0.0.1:{port}{path}?temp_url_sig={signed}&temp_url_expires={until}"


@pytest.mark.promise("kept-part")
@pytest.mark.parametrize("checksum", [SHA256, None], ids=["digest", "strong version"])
@pytest.mark.parametrize("sign", [by_s3, by_swift])
def test_a_newly_signed_url_goes_on_where_the_last_one_stopped(
    sign: Signer, checksum: str | None, swift: Swift, tmp_path: Path,
    make_broker: Callable[..., imagebroker.Broker],
) -> None:  # fmt: skip
    container = f"signed-{uuid.uuid4().hex}"
    swift.user().call("PUT", container)
    swift.user().call("PUT", f"{container}/disk", DATA)
    broker, dest = make_broker(CONFIG), tmp_path / "disk"
    with TcpProxy("127.0.0.1", urlsplit(swift.url).port or 0) as proxy:
        proxy.fault_for[0] = Fault(cut_after=5 * MIB)
        with pytest.raises(ImageBrokerError):
            broker.download(None, sign(swift, container, proxy.port, 600), dest, checksum=checksum)
        invalid = sign(swift, container, proxy.port, 601).replace("ignature=", "ignature=0")
        with pytest.raises(NotAuthorized):
            broker.download(None, invalid.replace("_sig=", "_sig=0"), dest, checksum=checksum)
        assert_that(list(tmp_path.glob(".*part")), HasLength(1))
        before = proxy.received
        done = broker.download(
            None, sign(swift, container, proxy.port, 602), dest, checksum=checksum
        )
        assert_that(proxy.received - before, LessThan(5 * MIB))
    assert_that(dest.read_bytes() == DATA, Is(True))
    assert_that((done.size, list(tmp_path.glob(".*part"))), Equals((len(DATA), [])))
