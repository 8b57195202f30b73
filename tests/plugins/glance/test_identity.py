"""Whose token goes where, and what an identity service may do."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    HasLength,
    Is,
    MatchesSetwise,
    Not,
)

from imagebroker.plugin import (
    ImageBrokerError,
    ImageQuery,
    NotAuthorized,
    PolicyViolation,
)
from tests.plugins.glance_stub import (
    DATA,
    ID,
    REF,
    TOKEN,
    OneImage,
    Request,
    Stub,
    answer,
    asking,
    caller,
    fetched,
    json_answer,
    make_backend,
)
from tests.servers.raw import Connection


@pytest.fixture
def glance() -> Iterator[tuple[Stub, OneImage]]:
    image = OneImage()
    with Stub(image) as stub:
        yield stub, image


# -- whose token, and where it goes ----------------------------------------------------------------


class Keystone:
    """An identity service that gives out numbered tokens and one catalogue."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.issued = 0
        self.answering: Callable[[Request], bytes | None] | None = None

    def __call__(self, request: Request, connection: Connection) -> bytes | None:
        said = self.answering(request) if self.answering else None
        if said is not None:
            return said
        if request.path == "/v3/auth/tokens":
            self.issued += 1
            token = {
                "methods": ["password"],
                "expires_at": "2100-01-01T00:00:00.000000Z",
                "user": {"id": "u", "name": "u", "domain": {"id": "d", "name": "d"}},
                "issued_at": "2026-01-01T00:00:00.000000Z",
                "catalog": self.catalogue,
                "project": {"id": "p", "name": "p", "domain": {"id": "d", "name": "d"}},
            }
            return json_answer({"token": token}, 201, f"X-Subject-Token: service-{self.issued}")
        if request.path == "/v3/auth/catalog":
            return json_answer({"catalog": self.catalogue})
        return answer(404)

    @property
    def catalogue(self) -> list[dict[str, Any]]:
        point = {
            "interface": "public",
            "region_id": "one",
            "region": "one",
            "url": self.endpoint,
            "id": "e",
        }
        return [{"type": "image", "name": "glance", "id": "s", "endpoints": [point]}]


PASSWORD = {
    "auth_type": "v3password", "username": "u", "password": "canary-password", "project_name": "p",
    "user_domain_name": "d", "project_domain_name": "d",
}  # fmt: skip


@pytest.fixture
def keystone(glance: tuple[Stub, OneImage]) -> Iterator[tuple[Stub, Keystone]]:
    identity = Keystone(glance[0].url + "/v2")
    with Stub(identity) as stub:
        yield stub, identity


def test_a_refused_service_token_is_renewed_once(
    glance: tuple[Stub, OneImage], keystone: tuple[Stub, Keystone]
) -> None:
    image = glance[1]
    refused = {"service-1", "service-2"}

    def show(request: Request, _: Connection) -> bytes:
        good = request.headers["x-auth-token"] not in refused
        return json_answer(image.record) if good else answer(401)

    image.show = show
    backend = make_backend(auth_url=f"{keystone[0].url}/v3", **PASSWORD)
    with pytest.raises(NotAuthorized):
        backend.get(None, REF)
    assert_that(keystone[1].issued, Equals(2))
    backend = make_backend(auth_url=f"{keystone[0].url}/v3", **PASSWORD)
    assert_that(backend.get(None, REF).id, Equals(ID))
    refused.add("service-3")
    assert_that(backend.get(None, REF).id, Equals(ID))
    assert_that(keystone[1].issued, Equals(4))


def test_a_refused_token_of_a_caller_is_never_replaced_by_the_service(
    glance: tuple[Stub, OneImage], keystone: tuple[Stub, Keystone]
) -> None:
    stub, image = glance
    image.show = lambda request, _: answer(401)
    backend = make_backend(auth_url=f"{keystone[0].url}/v3", **PASSWORD)
    with pytest.raises(NotAuthorized):
        backend.get(caller(), REF)
    with pytest.raises(NotAuthorized):
        backend.get(caller(None), REF)
    with pytest.raises(NotAuthorized):
        backend.get(caller("two\r\nlines: x"), REF)
    assert_that(stub.requests, HasLength(1))
    assert_that(keystone[1].issued, Equals(0))


def test_glance_and_keystone_are_told_the_callers_request(
    glance: tuple[Stub, OneImage], keystone: tuple[Stub, Keystone]
) -> None:
    """Of every request: for the catalogue, the service's token and the record."""
    backend = make_backend(
        auth_url=f"{keystone[0].url}/v3", endpoint=[], send_service_user_token=True, **PASSWORD
    )
    asked = f"req-{uuid.uuid4()}"
    context = RequestContext(auth_token=TOKEN, global_request_id=asked)
    backend.get(context, REF)
    paths = [request.path for request in keystone[0].requests]
    assert_that(paths, MatchesSetwise(Equals("/v3/auth/catalog"), Equals("/v3/auth/tokens")))
    for request in (*keystone[0].requests, *glance[0].requests):
        assert_that(request.headers["x-openstack-request-id"], Equals(asked))
    backend.get(None, REF)
    assert_that(glance[0].requests[-1].headers.get("x-openstack-request-id"), Is(None))


def test_a_context_brings_its_own_catalogue(glance: tuple[Stub, OneImage]) -> None:
    stub, _ = glance
    context = caller()
    for catalogue in (
        [{"type": "image", "name": "glance",
          "endpoints": [{"publicURL": stub.url, "region": "one"}]}],
        Keystone(stub.url).catalogue,
    ):  # fmt: skip
        context.service_catalog = catalogue
        assert_that(make_backend().get(context, REF).id, Equals(ID))


@pytest.mark.promise("security-10")
def test_what_a_catalogue_names_must_be_allowed(
    glance: tuple[Stub, OneImage], keystone: tuple[Stub, Keystone]
) -> None:
    stub, _ = glance
    backend = make_backend(
        reach="127.0.0.2/32", auth_url=f"{keystone[0].url}/v3", endpoint=[], **PASSWORD
    )
    with pytest.raises(PolicyViolation):
        backend.get(None, REF)
    assert_that(stub.connections, HasLength(0))


@pytest.mark.parametrize("url", ["ftp://h/", "http://u:p@h/", "", None, 7, "http://h/?a=b", "//h/"])
def test_an_odd_url_in_the_catalogue_is_refused(
    glance: tuple[Stub, OneImage], keystone: tuple[Stub, Keystone], url: Any
) -> None:
    keystone[1].endpoint = url
    backend = make_backend(auth_url=f"{keystone[0].url}/v3", **PASSWORD)
    with pytest.raises(ImageBrokerError):
        backend.get(None, REF)
    with pytest.raises(ImageBrokerError):
        backend.get(caller(), REF)


@pytest.mark.parametrize(
    "said",
    [
        answer(200, b"<html>"), json_answer({"token": 7}, 201, "X-Subject-Token: t"),
        json_answer({}, 201), json_answer([], 201, "X-Subject-Token: t"), answer(500), answer(503),
        answer(201, b"x" * 9_000_000), answer(302, b"", "Location: http://127.0.0.1:1/v3/auth/tokens"),
        answer(300, b"{}"), answer(401), answer(403), answer(404), answer(429), answer(204),
        json_answer({"token": {"expires_at": "x", "catalog": "y"}}, 201, "X-Subject-Token: t"),
        answer(200, b"x", "Content-Encoding: gzip"),
    ],
)  # fmt: skip
def test_a_keystone_that_talks_nonsense_is_an_error_of_ours(
    keystone: tuple[Stub, Keystone], said: bytes
) -> None:
    keystone[1].answering = lambda request: said
    backend = make_backend(auth_url=f"{keystone[0].url}/v3", **PASSWORD)
    with pytest.raises(ImageBrokerError) as caught:
        backend.get(None, REF)
    assert_that(str(caught.value), Not(Contains("canary")))


@pytest.mark.promise("security-18")
def test_a_password_is_not_sent_where_keystone_points(keystone: tuple[Stub, Keystone]) -> None:
    with Stub(Keystone("http://h/")) as trap:
        away = f"Location: {trap.url}/v3/auth/tokens"
        keystone[1].answering = lambda request: answer(307, b"", away)
        backend = make_backend(auth_url=f"{keystone[0].url}/v3", **PASSWORD)
        with pytest.raises(ImageBrokerError):
            backend.get(None, REF)
        assert_that(trap.connections, HasLength(0))


@pytest.mark.promise("security-20")
def test_no_secret_is_logged_or_shown(
    glance: tuple[Stub, OneImage],
    keystone: tuple[Stub, Keystone],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    backend = make_backend(
        auth_url=f"{keystone[0].url}/v3", send_service_user_token=True, **PASSWORD
    )
    fetched(backend)
    assert_that(glance[0].requests[-1].headers["x-service-token"], Equals("service-1"))
    glance[1].show = lambda request, _: answer(
        401, f"bad token {request.headers['x-auth-token']}".encode()
    )
    with pytest.raises(NotAuthorized) as caught:
        fetched(backend)
    glance[1].show = lambda request, _: answer(
        403, f"service-1 is no good, nor {request.headers['x-auth-token']}".encode()
    )
    with pytest.raises(NotAuthorized) as refused:
        backend.get(None, REF)
    errors = (refused.value, caught.value)
    shown = caplog.text + repr(backend.host) + "".join(f"{e} {e!r} {e.hint}" for e in errors)
    for secret in (TOKEN, "canary-password", "service-1"):
        assert_that(shown, Not(Contains(secret)))


@pytest.mark.parametrize(
    "token", [None, "", "two words", "line\r\nX-Auth-Token: x", "t" * 20_000, 7]
)
@pytest.mark.parametrize("verb", ["open", "get", "get_all", "delete"])
def test_a_context_without_a_proper_token_is_refused_and_never_the_service(
    glance: tuple[Stub, OneImage], keystone: tuple[Stub, Keystone], verb: str, token: Any
) -> None:
    backend = asking(glance[0], auth_url=f"{keystone[0].url}/v3", **PASSWORD)
    context = caller()
    context.auth_token = token
    calls: dict[str, Callable[[], object]] = {
        "open": lambda: backend.open(context, REF),
        "get": lambda: backend.get(context, REF),
        "get_all": lambda: list(backend.get_all(context, ImageQuery())),
        "delete": lambda: backend.delete(context, REF),
    }
    with pytest.raises(NotAuthorized):
        calls[verb]()
    assert_that(glance[0].requests + keystone[0].requests, HasLength(0))


@pytest.mark.promise("security-19")
def test_the_environment_changes_nothing(
    glance: tuple[Stub, OneImage], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub, _ = glance
    with Stub(OneImage()) as trap:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, trap.url)
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login canary password canary\n")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("OS_TOKEN", "canary")
        assert_that(fetched(asking(stub)), Equals(DATA))
        assert_that(trap.connections, HasLength(0))
        for request in stub.requests:
            assert_that(str(request), Not(Contains("canary\n")))
            assert_that(request.headers, Not(Contains("authorization")))


def test_a_configured_proxy_is_used(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    backend = make_backend(endpoint=["http://images.example:9292/"], proxy=stub.url)
    image.__class__ = type("Proxied", (OneImage,), {"__call__": _as_proxy})
    assert_that(fetched(backend), Equals(DATA))


def _as_proxy(self: OneImage, request: Request, connection: Connection) -> bytes | None:
    assert_that(request.headers["host"], Equals("images.example:9292"))
    inner = Request(request.method, request.path, request.query, request.headers, request.body)
    return OneImage.__call__(self, inner, connection)
