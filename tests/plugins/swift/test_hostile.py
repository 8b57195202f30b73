"""A server that is not what it says, or breaks in the middle of a large object."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from imagebroker_swift import SwiftBackend
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

from imagebroker.exceptions import (
    BackendError,
    ImageBrokerError,
    MalformedAnswer,
    NotAuthorized,
    PolicyViolation,
    TransferError,
)
from imagebroker.model.reference import in_form, parse
from imagebroker.plugin import ImageQuery
from tests.plugins.swift.conftest import Container
from tests.plugins.swift.test_identity import backend
from tests.servers.raw import Connection, RawServer

TOKEN = "canary-token-of-a-hostile-server-3304"
REF = in_form(parse("swift://images/disk"), SwiftBackend.ref_form)

Script = Callable[[str, str], bytes]


def answer(status: str, body: bytes = b"", *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Hostile:
    """A server whose login works, and that answers the rest by a script."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.asked: list[str] = []
        self.server = RawServer(self._serve)

    def _serve(self, connection: Connection, index: int) -> None:
        head = connection.read_head().decode("latin-1")
        line = head.partition("\r\n")[0]
        self.asked.append(line)
        method, target, _ = line.split(" ")
        if target == "/auth/v1.0":
            connection.sendall(answer("200 OK", b"", f"X-Auth-Token: {TOKEN}",
                                      f"X-Storage-Url: {self.server.url}/v1/AUTH_x"))  # fmt: skip
            return
        connection.sendall(self._script(method, target))

    def backend(self, **options: Any) -> SwiftBackend:
        login = {"auth_type": "v1password", "username": "a:b", "password": "canary-password"}
        url = f"{self.server.url}/auth/v1.0"
        return backend(**{"auth_url": url, "create_in": "images", **login, **options})


def asked_of(script: Script, ask: Callable[[SwiftBackend], object], **options: Any) -> Exception:
    """The error that comes of it."""
    hostile = Hostile(script)
    with hostile.server:
        made = hostile.backend(**options)
        try:
            with pytest.raises(ImageBrokerError) as caught:
                ask(made)
        finally:
            made.close()
    assert_that(str(caught.value), Not(Contains("canary")))
    return caught.value


def listed(made: SwiftBackend) -> object:
    return list(made.get_all(None, ImageQuery()))


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"{}", b"[" * 100_000, b'[{"name": "a", "name": "b"}]', b"\xff", b"[1e999]"],
)
def test_a_list_that_is_none_is_the_servers_fault(body: bytes) -> None:
    error = asked_of(lambda method, target: answer("200 OK", body), listed)
    assert_that(error, Not(Equals(None)))
    assert isinstance(error, MalformedAnswer)


def test_a_list_that_never_ends_is_ended() -> None:
    """Every page is the same one: the marker makes no difference."""
    page = json.dumps([{"name": "a", "bytes": 1}]).encode()
    hostile = Hostile(
        lambda method, target: answer("200 OK", page if "format=json" in target else b"")
    )
    with hostile.server:
        made = hostile.backend()
        found = list(made.get_all(None, ImageQuery()))
        made.close()
    assert_that(found, HasLength(2))


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        ("401 Unauthorized", NotAuthorized, False), ("403 Forbidden", NotAuthorized, False),
        ("498 Rate Limited", BackendError, True), ("503 Busy", BackendError, True),
        ("302 Found", BackendError, False), ("418 Teapot", BackendError, False),
        ("422 Unprocessable", TransferError, True),
    ],
)  # fmt: skip
def test_a_status_means_what_it_says(
    status: str, kind: type[ImageBrokerError], retryable: bool
) -> None:
    fields = ("Location: http://127.0.0.1:9/elsewhere", "Retry-After: 7")
    error = asked_of(
        lambda method, target: answer(status, b"", *fields), lambda made: made.get(None, REF)
    )
    assert isinstance(error, kind)
    assert_that(error.retryable, Equals(retryable))


def test_a_login_that_is_refused_again_is_not_tried_for_ever() -> None:
    hostile = Hostile(lambda method, target: answer("401 Unauthorized"))
    with hostile.server, pytest.raises(NotAuthorized):
        hostile.backend().open(None, REF)
    assert_that(hostile.asked, HasLength(4))  # two logins, and two requests


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1/v1", "http://user:password@127.0.0.1/v1", "http://127.0.0.1/v1?x=y", "x"],
)
def test_an_account_at_no_http_url_is_refused(url: str) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer("200 OK", b"", f"X-Auth-Token: {TOKEN}", f"X-Storage-Url: {url}"))

    with RawServer(script) as server:
        login = {"auth_type": "v1password", "username": "a:b", "password": "c"}
        made = backend(auth_url=f"{server.url}/auth/v1.0", **login)
        with pytest.raises(MalformedAnswer):
            made.get(None, REF)


def test_a_token_does_not_follow_to_an_address_that_the_policy_forbids() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        fields = f"X-Auth-Token: {TOKEN}", "X-Storage-Url: http://169.254.169.254/v1/AUTH_x"
        connection.sendall(answer("200 OK", b"", *fields))

    with RawServer(script) as server:
        login = {"auth_type": "v1password", "username": "a:b", "password": "c"}
        made = backend(auth_url=f"{server.url}/auth/v1.0", **login)
        with pytest.raises(PolicyViolation):
            made.get(None, REF)


@pytest.mark.parametrize(
    "manifest",
    [b"[{}]", b'[{"name": 7}]', b'[{"name": "/c/o", "bytes": "x"}]', b"{}", b'["x"]'],
)
def test_a_manifest_that_is_none_removes_nothing(manifest: bytes) -> None:
    def script(method: str, target: str) -> bytes:
        if method == "GET":
            return answer("200 OK", manifest)
        return answer("200 OK", b"", "X-Static-Large-Object: True", 'ETag: "x"')

    hostile = Hostile(script)
    with hostile.server, pytest.raises(MalformedAnswer):
        hostile.backend().delete(None, REF)
    assert_that([line for line in hostile.asked if line.startswith("DELETE")], Equals([]))


def test_a_dynamic_object_of_a_whole_container_does_not_empty_it() -> None:
    """Swift itself makes none."""
    hostile = Hostile(lambda method, target: answer("200 OK", b"", "X-Object-Manifest: images/"))
    with hostile.server:
        hostile.backend().delete(None, REF)
    removed = [line.split()[1] for line in hostile.asked if line.startswith("DELETE")]
    assert_that(removed, Equals(["/v1/AUTH_x/images/disk"]))


def test_manifests_that_name_each_other_end() -> None:
    loop = json.dumps([
        {"name": "/images/disk", "bytes": 1, "hash": "x", "sub_slo": True}
    ]).encode()  # fmt: skip

    def script(method: str, target: str) -> bytes:
        if method == "GET":
            return answer("200 OK", loop)
        return answer("200 OK", b"", "X-Static-Large-Object: True", 'ETag: "x"')

    hostile = Hostile(script)
    with hostile.server, pytest.raises(MalformedAnswer, match="nested"):
        hostile.backend().delete(None, REF)
    assert_that([line for line in hostile.asked if line.startswith("DELETE")], Equals([]))


def test_a_segment_that_is_gone_is_an_error_and_no_short_image(container: Container) -> None:
    broker = container.broker()
    ref = broker.create(None, {"name": "disk"}, bytes(3 * 1024 * 1024)).ref
    container.user.call("DELETE", f"{container.segments}/{container.segment_names()[1]}")
    with pytest.raises(ImageBrokerError) as caught, broker.open(None, ref) as reader:
        for _ in reader:
            pass
    assert_that(isinstance(caught.value, (TransferError, BackendError)), Equals(True))


def test_a_segment_that_was_replaced_is_an_error_and_no_other_image(container: Container) -> None:
    """The manifest names its ETag."""
    broker = container.broker()
    ref = broker.create(None, {"name": "disk"}, bytes(3 * 1024 * 1024)).ref
    name = container.segment_names()[1]
    container.user.call("PUT", f"{container.segments}/{name}", b"x" * 1024 * 1024)
    with pytest.raises(ImageBrokerError), broker.open(None, ref) as reader:
        for _ in reader:
            pass
