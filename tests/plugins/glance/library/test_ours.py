"""What glanceclient and keystoneauth do of their own accord does not reach anybody through us."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, MatchesAll, Not

from imagebroker.plugin import (
    BackendError,
    Image,
    ImageBrokerError,
    ImageData,
    ImageQuery,
    NotAuthorized,
    TransferError,
)
from tests.plugins.glance.stored_uploads import Store
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
    opened,
    record,
    ref_of,
)
from tests.servers.raw import Connection

QUEUED = {"status": "queued", "size": None, "os_hash_algo": None, "os_hash_value": None}


def test_a_range_is_asked_for_as_it_is_written(store: tuple[Stub, Store]) -> None:
    image = OneImage()
    with Stub(image) as stub, opened(asking(stub)) as source:
        assert_that(b"".join(source.read(5, 9)), Equals(DATA[5:9]))
        [asked] = [each for each in stub.requests if each.path.endswith("/file")]
        assert_that(asked.headers["range"], Equals("bytes=5-8"))


def test_the_last_tag_can_be_removed(store: tuple[Stub, Store]) -> None:
    stub, images = store
    images.images[ID] = record(tags=["last"])
    changed = asking(stub).update(caller(), ref_of(ID), {"tags": []}, None, False)
    assert_that(changed.tags, Equals(()))


@pytest.mark.parametrize("name", ["backend", "items", "changes", "patch", "schema_", "validate"])
def test_a_property_may_have_any_name(store: tuple[Stub, Store], name: str) -> None:
    """Also one that is a parameter or an attribute in glanceclient."""
    stub, _ = store
    backend = asking(stub)
    made = backend.create(caller(), Image(ref="", name="x", properties={name: "blue"}), None)
    assert_that(dict(made.properties), Equals({name: "blue"}))
    changed = backend.update(
        caller(), ref_of(str(made.id)), {"properties": {name: "red"}}, None, False
    )
    assert_that(dict(changed.properties), Equals({name: "red"}))
    assert_that(
        [each for each in stub.requests if "x-image-meta-store" in each.headers], HasLength(0)
    )


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (None, b"busy"), ("text/plain", b"busy"), ("text/html", b"<p>busy</p>"),
        ("application/json", b'{"message": "busy"}'), ("application/json", b'["busy"]'),
        ("application/json", b"busy"), ("application/json; charset=nonsense", b'{"a": "\xff"}'),
        (None, b"\xff\xfe"), (None, b""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["get", "get_all", "delete", "open"])
def test_an_error_of_the_server_is_one_whatever_type_it_has(
    kind: str | None, body: bytes, verb: str
) -> None:
    headers = [] if kind is None else [f"Content-Type: {kind}"]
    with Stub(lambda request, _: answer(503, body, *headers)) as stub:
        backend = asking(stub)
        calls: dict[str, Callable[[], object]] = {
            "get": lambda: backend.get(caller(), REF),
            "get_all": lambda: list(backend.get_all(caller(), ImageQuery())),
            "delete": lambda: backend.delete(caller(), REF),
            "open": lambda: backend.open(caller(), REF),
        }
        with pytest.raises(BackendError) as caught:
            calls[verb]()
        assert_that(str(caught.value), Contains("503"))


@pytest.mark.parametrize(
    "kind", ["application/octet-stream; x=y", "text/plain", "application/json"]
)
def test_data_arrives_as_it_is_sent_whatever_type_it_has(kind: str) -> None:
    image, half = OneImage(), len(DATA) // 2
    arrived = threading.Event()

    def file(request: Request, connection: Connection) -> None:
        whole = answer(200, DATA, f"Content-Type: {kind}")
        connection.sendall(whole[:-half])
        arrived.wait(30)  # a client that wanted all of it would wait, too
        connection.sendall(whole[-half:])

    image.file = file
    with Stub(image) as stub, opened(asking(stub)) as source, closing(source.read()) as chunks:
        first = next(chunks)
        arrived.set()
        assert_that(bytes(first) + b"".join(chunks), Equals(DATA))


def test_data_that_cannot_be_rewound_is_sent_once_even_if_the_token_is_refused(
    store: tuple[Stub, Store],
) -> None:
    stub, images = store
    images.images[ID] = record(b"", **QUEUED)
    images.instead["PUT", "file"] = answer(401)
    backend = asking(stub)
    with pytest.raises(NotAuthorized):
        backend.update(caller(), ref_of(ID), {}, ImageData(iter([DATA])), False)
    assert_that([each.body for each in stub.requests if each.method == "PUT"], Equals([DATA]))


@pytest.mark.parametrize("size", [len(DATA), None])
def test_data_is_sent_with_its_length_where_that_is_known(
    store: tuple[Stub, Store], size: int | None
) -> None:
    """Stores that must reserve space for an image are slow without."""
    stub, images = store
    images.images[ID] = record(b"", **QUEUED)
    data = ImageData(iter([DATA[:1000], DATA[1000:]]), size)
    asking(stub).update(caller(), ref_of(ID), {}, data, False)
    [sent] = [each for each in stub.requests if each.method == "PUT"]
    assert_that(sent.body, Equals(DATA))
    names = {"content-length", "x-openstack-image-size"}
    found = {name: value for name, value in sent.headers.items() if name in names}
    assert_that(found, Equals(dict.fromkeys(names, str(size)) if size else {}))


@pytest.mark.parametrize("path", ["", "/v2/images", "/v2/images?marker=x"])
def test_the_next_page_is_asked_of_the_same_server(path: str) -> None:
    def page(request: Request, connection: Connection) -> bytes:
        following = f"{other.url}{path}" if len(stub.requests) == 1 else None
        shown = record(id=ID[:-1] + str(len(stub.requests)))
        return json_answer({"images": [shown], **({"next": following} if following else {})})

    with Stub(OneImage()) as other, Stub(page) as stub:
        assert_that(list(asking(stub).get_all(caller(), ImageQuery())), HasLength(2))
        assert_that(other.connections, HasLength(0))


def test_a_list_that_never_ends_is_an_error() -> None:
    page = {"images": [record()], "next": "/v2/images?marker=again"}
    with Stub(lambda request, _: json_answer(page)) as stub, pytest.raises(TransferError):
        list(asking(stub).get_all(caller(), ImageQuery()))


def test_nothing_is_asked_for_but_what_is_needed(store: tuple[Stub, Store]) -> None:
    """No schemas and no versions, which glanceclient asks for."""
    stub, images = store
    images.images[ID] = record()
    backend = asking(stub)
    backend.get(caller(), ref_of(ID))
    made = backend.create(caller(), Image(ref="", name="x", disk_format="raw"), ImageData(DATA))
    backend.delete(caller(), ref_of(str(made.id)))
    own = f"/v2/images/{made.id}"
    assert_that(
        [(each.method, each.path) for each in stub.requests],
        Equals([
            ("GET", f"/v2/images/{ID}"), ("POST", "/v2/images"), ("PUT", f"{own}/file"),
            ("GET", own), ("PATCH", own), ("GET", own), ("DELETE", own),
        ]),
    )  # fmt: skip


@pytest.mark.parametrize("status", [200, 401, 403, 500])
def test_a_token_that_a_server_echoes_is_not_in_the_log(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    image = OneImage(echo=TOKEN, url="http://user:canary-password@host/x")
    if status != 200:
        image.show = lambda request, _: json_answer({"code": 1, "message": TOKEN}, status)
    with Stub(image) as stub:
        backend = asking(stub)
        if status == 200:
            fetched(backend)
        else:
            with pytest.raises(ImageBrokerError):
                backend.get(caller(), REF)
    messages = [each.getMessage() for each in caplog.records]
    assert_that(
        "".join(messages), MatchesAll(Not(Contains(TOKEN)), Not(Contains("canary-password")))
    )
    assert_that([each for each in messages if not each.isprintable()], Equals([]))


@pytest.mark.parametrize("token", ["canary\r\nX-Other: x", " canary", "canary\n"])
def test_a_token_that_cannot_be_sent_is_in_no_error(token: str) -> None:
    """requests and http.client show the header that they refuse."""
    with Stub(OneImage()) as stub:
        backend = asking(stub, auth_type="admin_token", token=token)
        with pytest.raises(ImageBrokerError) as caught:
            backend.get(None, REF)
        error = caught.value
        assert_that(f"{error}{error.hint}{error.__cause__}", Not(Contains("canary")))
        assert_that(stub.requests, HasLength(0))
