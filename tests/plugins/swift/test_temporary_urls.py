"""Temporary URLs as locations: anybody who has one reads the object, until it expires."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.plugins.swift.conftest import Container
from tests.plugins.swift.test_identity import backend, findings

KEY = "canary-of-the-tempurl-3303"
MIB = 1024 * 1024
DATA = bytes(range(256)) * 4096 * 3


@pytest.fixture
def keyed(container: Container) -> Container:
    """The account has the key: that of a container does not open a container with segments."""
    container.user.call("POST", "", X_Account_Meta_Temp_URL_Key=KEY)
    return container


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha512"])
def test_a_location_is_a_url_that_needs_no_login(keyed: Container, digest: str) -> None:
    broker = keyed.broker(tempurl_key=KEY, tempurl_digest=digest)
    ref = broker.create(None, {"name": "two words/ü.raw"}, DATA).ref
    [location] = broker.get(None, ref, include_locations=True).locations
    answer = requests.get(location.url, headers={"Range": "bytes=1-3"}, timeout=60)
    assert_that((answer.status_code, answer.content), Equals((206, DATA[1:4])))
    assert_that(requests.put(location.url, data=b"x", timeout=60).status_code, Equals(401))
    assert_that(broker.get(None, ref).locations, Equals(None))


def test_without_a_key_there_are_no_locations(container: Container) -> None:
    broker = container.broker()
    ref = broker.create(None, {"name": "disk"}, b"data").ref
    assert_that(broker.get(None, ref, include_locations=True).locations, Equals(()))


def test_it_is_valid_as_long_as_configured(keyed: Container) -> None:
    broker = keyed.broker(tempurl_key=KEY, tempurl_seconds=3600)
    ref = broker.create(None, {"name": "disk"}, b"data").ref
    before = keyed.user.call("HEAD", keyed.name)
    [location] = broker.get(None, ref, include_locations=True).locations
    query = parse_qs(urlsplit(location.url).query)
    now = parsedate_to_datetime(before.headers["Date"]).timestamp()
    assert abs(int(query["temp_url_expires"][0]) - now - 3600) < 600


def test_it_is_a_ref_that_a_broker_without_a_login_downloads(
    keyed: Container, tmp_path: Path
) -> None:
    ref = keyed.broker(tempurl_key=KEY).create(None, {"name": "disk"}, DATA).ref
    image = keyed.broker(tempurl_key=KEY).get(None, ref, include_locations=True)
    [location] = image.locations or ()
    nobody = keyed.make(
        "[imagebroker]\nenabled_schemes = http\n[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    digest = f"sha256:{image.checksums['sha256']}"
    nobody.download(None, location.url, tmp_path / "disk", checksum=digest)
    assert_that((tmp_path / "disk").read_bytes() == DATA, Equals(True))


def test_check_compares_the_key_with_that_of_the_account(keyed: Container) -> None:
    options = keyed.server.swift_options(tempurl_key=KEY)
    assert_that(findings(backend(**options))[1], Contains("has this key"))
    options["tempurl_key"] = "another"
    assert_that(findings(backend(**options))[1], Contains("another key"))
