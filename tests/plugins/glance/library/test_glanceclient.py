"""What the installed glanceclient and keystoneauth do of their own accord.

Each of these would be an error of ours if the backend relied on it: the neighbouring tests show
that it does not. Where a new version of a library changes one, the code that avoids it can go.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from glanceclient import exc
from glanceclient.v2.client import Client
from keystoneauth1 import session, token_endpoint
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    GreaterThan,
    HasLength,
    LessThan,
    MatchesAll,
    MatchesListwise,
)

from tests.plugins.glance_stub import (
    DATA,
    ID,
    TOKEN,
    OneImage,
    Request,
    Stub,
    answer,
    json_answer,
    record,
)
from tests.servers.raw import Connection

#: As much of it as the model needs: the fields that are not custom properties.
SCHEMA = {
    "name": "image",
    "properties": {"id": {"type": "string"}, "tags": {"type": "array"}},
    "additionalProperties": {"type": "string"},
}


class WithSchema(OneImage):
    """A Glance that also has the schema, and lets records be created and changed."""

    def __call__(self, request: Request, connection: Connection) -> bytes | None:
        if request.path == "/v2/schemas/image":
            return json_answer(SCHEMA)
        if request.method in ("POST", "PATCH"):
            return json_answer({"id": ID})
        return super().__call__(request, connection)


@pytest.fixture
def glance() -> Iterator[tuple[Stub, OneImage]]:
    image = WithSchema()
    with Stub(image) as stub:
        yield stub, image


def client(stub: Stub, auth: Any = None, **options: Any) -> Client:
    """glanceclient as its documentation has it."""
    auth = auth or token_endpoint.Token(stub.url, TOKEN)
    return Client(session=session.Session(auth), endpoint_override=stub.url, **options)


def test_it_quotes_the_headers_that_it_is_given(glance: tuple[Stub, OneImage]) -> None:
    stub, _ = glance
    client(stub).http_client.get(f"/v2/images/{ID}", headers={"Range": "bytes=5-"})
    assert_that(stub.requests[0].headers["range"], Equals("bytes%3D5-"))


def test_its_update_cannot_remove_the_last_tag(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    image.record = {"id": ID, "tags": ["last"]}
    client(stub).images.update(ID, tags=[])
    [patch] = [each for each in stub.requests if each.method == "PATCH"]
    assert_that(patch.json, Equals([]))


def test_its_create_takes_a_property_named_backend_for_an_option(
    glance: tuple[Stub, OneImage],
) -> None:
    stub, _ = glance
    client(stub).images.create(backend="blue", colour="red")
    [made] = [each for each in stub.requests if each.method == "POST"]
    assert_that(made.json, Equals({"colour": "red"}))
    assert_that(made.headers["x-image-meta-store"], Equals("blue"))


def test_an_error_without_a_content_type_is_a_key_error(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    image.show = lambda request, _: answer(503, b"busy")
    with pytest.raises(KeyError):
        client(stub).images.get(ID)


def test_a_content_type_with_a_parameter_loads_the_whole_image(
    glance: tuple[Stub, OneImage],
) -> None:
    stub, image = glance
    kind = "Content-Type: application/octet-stream; charset=x"
    image.file = lambda request, _: answer(200, DATA, kind)
    response, body = client(stub).http_client.get(f"/v2/images/{ID}/file")
    assert_that(response.raw.tell(), Equals(len(DATA)))
    assert_that(body, Equals(None))


def test_a_401_sends_a_body_again_that_was_read_already(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    image.file = lambda request, _: answer(
        204 if len(stub.requests) > 1 else 401, b"", "Content-Type: text/plain"
    )

    class Renewed(token_endpoint.Token):  # type: ignore[misc]
        def invalidate(self) -> bool:
            return True

    auth = Renewed(stub.url, TOKEN)
    client(stub, auth).images.upload(ID, io.BytesIO(DATA))
    assert_that([each.body for each in stub.requests], Equals([DATA, b""]))


def test_its_pager_goes_wherever_next_leads_and_takes_the_token_along(
    glance: tuple[Stub, OneImage],
) -> None:
    stub, _ = glance
    with Stub(lambda request, _: json_answer({"images": []})) as other:
        stub.answering = lambda request, _: (
            json_answer(SCHEMA)
            if "schemas" in request.path
            else json_answer({"images": [record()], "next": f"{other.url}/v2/images"})
        )
        list(client(stub).images.list())
        assert_that(other.requests[0].headers["x-auth-token"], Equals(TOKEN))


def test_its_pager_follows_next_for_ever(glance: tuple[Stub, OneImage]) -> None:
    stub, _ = glance
    stub.answering = lambda request, _: (
        json_answer(SCHEMA)
        if "schemas" in request.path
        else json_answer({"images": [record()], "next": "/v2/images?marker=again"})
    )
    pages = client(stub).images.list()
    assert_that([next(pages).id for _ in range(50)], Equals([ID] * 50))


def test_it_fetches_the_schema_before_it_shows_a_record(glance: tuple[Stub, OneImage]) -> None:
    stub, _ = glance
    client(stub).images.get(ID)
    assert_that(stub.count("GET", "/v2/schemas/image"), Equals(1))


def test_an_echoed_token_is_logged_unless_there_is_another_logger(
    glance: tuple[Stub, OneImage], caplog: pytest.LogCaptureFixture
) -> None:
    stub, image = glance
    caplog.set_level(logging.DEBUG)
    image.show = lambda request, _: json_answer({"code": TOKEN}, 403)
    for logger, count in ((logging.Logger("quiet", logging.INFO), 0), (None, 1)):
        with pytest.raises((exc.HTTPForbidden, AttributeError)):
            client(stub, logger=logger).images.get(ID)
        shown = [each for each in caplog.records if TOKEN in each.getMessage()]
        assert_that(shown, HasLength(count))
        caplog.clear()


def test_it_waits_until_a_clock_that_was_set_back_is_right_again(
    glance: tuple[Stub, OneImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, _ = glance
    made = client(stub)
    now, waited = time.time(), list[float]()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    monkeypatch.setattr(time, "sleep", waited.append)
    made.http_client.get(f"/v2/images/{ID}")
    monkeypatch.undo()
    assert_that(waited, MatchesListwise([MatchesAll(GreaterThan(3500), LessThan(3700))]))


def test_an_error_whose_json_is_no_object_of_objects_is_an_attribute_error(
    glance: tuple[Stub, OneImage],
) -> None:
    stub, image = glance
    image.show = lambda request, _: json_answer({"message": "no"}, 403)
    with pytest.raises(AttributeError) as caught:
        client(stub).images.get(ID)
    assert_that(str(caught.value), Contains("get"))
