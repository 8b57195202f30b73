"""The ids that services give our requests are in the log and in the errors of the call."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is, MatchesRegex, Not

import imagebroker
from imagebroker.compat.nova import API
from tests.compat import exceptions
from tests.plugins.s3.conftest import Bucket, bucket
from tests.servers.openstack import OpenStack
from tests.servers.raw import Connection, RawServer

__all__ = ["bucket"]

MakeBroker = Callable[[str], imagebroker.Broker]
MISSING = "00000000-0000-4000-8000-000000000000"
REQUEST_ID = r"req-[0-9a-f-]{36}"


@pytest.fixture(autouse=True)
def at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="imagebroker.calls")


@pytest.fixture
def broker(openstack: OpenStack, make_broker: MakeBroker) -> imagebroker.Broker:
    options = "\n".join(f"{key} = {value}" for key, value in openstack.auth_options("red").items())
    return make_broker(
        "[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\nretry_backoff = 0\n"
        f"[backend:glance]\n{options}\nallowed_networks = 127.0.0.0/8\n"
    )


def logged(caplog: pytest.LogCaptureFixture) -> list[list[str]]:
    """The ids in each line about a call."""
    lines = [r.getMessage() for r in caplog.records if r.name == "imagebroker.calls"]
    found = [re.search(r" request_ids=(\S+)", line) for line in lines]
    return [match[1].split(",") if match else [] for match in found]


class TestGlance:
    def test_an_error_names_the_request(
        self, broker: imagebroker.Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(imagebroker.ImageNotFound) as caught:
            broker.get(None, MISSING)
        found = caught.value.request_id
        assert_that(found, MatchesRegex(f"{REQUEST_ID}$"))
        assert_that(str(caught.value), Contains(str(found)))
        assert_that(logged(caplog)[0][-1], Equals(found))

    def test_a_transfer_names_all_of_its_requests(
        self,
        broker: imagebroker.Broker,
        openstack: OpenStack,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        image = openstack.create_image(os.urandom(1000))
        broker.download(None, image, tmp_path / "image")
        with broker.open(None, image) as reader:
            reader.read()
        of_download, of_open, of_read = logged(caplog)
        assert_that(len(of_download) > 2, Equals(True))  # Keystone, the record, the data
        assert_that(set(of_read) - set(of_open), Not(HasLength(0)))  # the data

    def test_nova_gets_it_with_its_own_exception(self, broker: imagebroker.Broker) -> None:
        api = API(broker, exceptions)
        with pytest.raises(exceptions.ImageNotFound) as caught:
            api.get(None, MISSING)
        found = caught.value.request_id  # type: ignore[attr-defined]
        assert_that(found, MatchesRegex(f"{REQUEST_ID}$"))
        assert_that("\n".join(caught.value.__notes__), Contains(found))


class TestKeystone:
    def test_an_error_names_keystones_request(
        self, openstack: OpenStack, make_broker: MakeBroker
    ) -> None:
        options = openstack.auth_options("red") | {"password": "wrong"}
        lines = "\n".join(f"{key} = {value}" for key, value in options.items())
        broker = make_broker(
            "[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\n"
            f"[backend:glance]\n{lines}\nallowed_networks = 127.0.0.0/8\n"
        )
        with pytest.raises(imagebroker.NotAuthorized) as caught:
            broker.get(None, MISSING)
        found = str(caught.value.request_id)
        assert_that(found, MatchesRegex(f"{REQUEST_ID}$"))


def test_s3_too(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(imagebroker.ImageNotFound) as caught:
        bucket.broker().get(None, f"s3://{bucket.name}/images/nothing")
    assert_that(caught.value.request_id, MatchesRegex("tx[0-9a-f]+-"))
    assert_that(logged(caplog)[-1][-1], Equals(caught.value.request_id))


class TestAnyServer:
    @pytest.mark.parametrize("header", ["X-Trans-Id", "x-amz-request-id", "X-Request-Id"])
    def test_each_attempt_is_logged_with_its_own(
        self,
        make_broker: MakeBroker,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        header: str,
    ) -> None:
        with RawServer(answering(header, "one", "two")) as server:
            with pytest.raises(imagebroker.BackendError) as caught:
                fetch(make_broker, server, tmp_path)
        assert_that(caught.value.request_id, Equals("two"))
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert_that(warnings[0], Contains("(request one)"))
        assert_that(logged(caplog)[-1], Equals(["one", "two"]))

    def test_an_error_without_an_answer_has_none_of_an_earlier_request(
        self, make_broker: MakeBroker, tmp_path: Path
    ) -> None:
        def serve(connection: Connection, index: int) -> None:
            connection.read_head()
            if index == 0:
                connection.sendall(busy("X-Trans-Id", "one"))

        with RawServer(serve) as server, pytest.raises(imagebroker.TransferError) as caught:
            fetch(make_broker, server, tmp_path)
        assert_that(caught.value.request_id, Is(None))

    @pytest.mark.parametrize("value", ["", "a b", "x" * 500, "a\x1b[31m", "<script>"])
    def test_what_is_no_id_is_not_shown(
        self, make_broker: MakeBroker, tmp_path: Path, value: str
    ) -> None:
        with RawServer(answering("X-Request-Id", value)) as server:
            with pytest.raises(imagebroker.BackendError) as caught:
                fetch(make_broker, server, tmp_path)
        assert_that(caught.value.request_id, Is(None))


def fetch(make_broker: MakeBroker, server: RawServer, folder: Path) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http\nretries = 1\nretry_backoff = 0\n"
        f"[backend:http]\nallowed_networks = 127.0.0.0/8\nallowed_ports = {server.port}\n"
    )
    broker.download(None, f"http://{server.host}:{server.port}/x", folder / "x")


def answering(header: str, *values: str) -> Callable[[Connection, int], None]:
    """A server that is busy, and says so with these ids, one after the other."""

    def serve(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(busy(header, values[min(index, len(values) - 1)]))

    return serve


def busy(header: str, value: str) -> bytes:
    return (
        f"HTTP/1.1 503 Busy\r\n{header}: {value}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    ).encode("latin-1")
