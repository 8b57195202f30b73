"""A Glance that lies, stalls, redirects or dies while it is read."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    GreaterThan,
    HasLength,
    Is,
    IsInstance,
    LessThan,
    MatchesAll,
    Not,
)

import imagebroker
from imagebroker.plugin import (
    BackendError,
    Conflict,
    Gone,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    NotReady,
    PolicyViolation,
    QuotaExceeded,
    RangeIgnored,
    TooLarge,
    TransferError,
    TransferTimeout,
    VerificationError,
)
from tests.plugins.glance_stub import (
    DATA,
    ID,
    REF,
    STALL,
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
    opened,
    record,
    ref_of,
)
from tests.servers.certificates import write_certificates
from tests.servers.raw import Connection

OTHER = "6f2504e0-4f89-41d3-9a0c-0305e82c3302"


@pytest.fixture
def glance() -> Iterator[tuple[Stub, OneImage]]:
    image = OneImage()
    with Stub(image) as stub:
        yield stub, image


# -- reading ---------------------------------------------------------------------------------------


def test_the_bytes_of_a_good_server_arrive(glance: tuple[Stub, OneImage]) -> None:
    stub, _ = glance
    assert_that(fetched(asking(stub)), Equals(DATA))
    assert_that(stub.connections, HasLength(1))  # kept alive for show, data, show
    for request in stub.requests:
        assert_that(request.headers["x-auth-token"], Equals(TOKEN))
        assert_that(request.headers["accept-encoding"], Equals("identity"))


def test_a_record_that_is_shown_is_no_leave_to_read_its_data(
    glance: tuple[Stub, OneImage],
) -> None:
    """The role reader sees images that it may not download: no other call's bytes are for it."""
    stub, image = glance
    image.file = lambda request, connection: answer(403, b"forbidden")
    with pytest.raises(NotAuthorized):
        asking(stub).probe(caller(), REF)
    assert_that(stub.count("GET", "/file"), Equals(1))


@pytest.mark.parametrize("status", [400, 416])
def test_a_probe_of_a_store_without_ranges_asks_for_the_whole_and_reads_none_of_it(
    glance: tuple[Stub, OneImage], status: int
) -> None:
    stub, image = glance

    def file(request: Request, connection: Connection) -> bytes:
        return answer(status, b"no ranges") if "range" in request.headers else answer(200, DATA)

    image.file = file
    with opened(asking(stub)) as source:
        found = asking(stub).probe(caller(), REF)
        assert_that(found, Equals(source.image))
    image.file = lambda request, connection: answer(
        status if "range" in request.headers else 403, b"forbidden"
    )
    with pytest.raises(NotAuthorized):
        asking(stub).probe(caller(), REF)


def test_a_probe_asks_for_one_byte(glance: tuple[Stub, OneImage]) -> None:
    stub, _ = glance
    asking(stub).probe(caller(), REF)
    [asked] = [each for each in stub.requests if each.path.endswith("/file")]
    assert_that(asked.headers["range"], Equals("bytes=0-0"))


def test_the_middle_is_asked_for_by_range_and_only_after_another_look(
    glance: tuple[Stub, OneImage],
) -> None:
    stub, _ = glance
    with opened(asking(stub)) as source:
        assert_that(b"".join(source.read(1000)), Equals(DATA[1000:]))
        assert_that(b"".join(source.read(5, 9)), Equals(DATA[5:9]))
        assert_that(b"".join(source.read(0, 9)), Equals(DATA[:9]))
        assert_that(b"".join(source.read(len(DATA))), Equals(b""))
        assert_that(source.seekable, Is(True))
    ranges = [r.headers.get("range") for r in stub.requests if r.path.endswith("/file")]
    assert_that(ranges, Equals(["bytes=1000-", "bytes=5-8", None]))


@pytest.mark.parametrize("status", [200, 400, 416])
def test_a_range_that_is_not_honoured_is_reported_and_not_tried_again(
    glance: tuple[Stub, OneImage], status: int
) -> None:
    stub, image = glance
    image.file = lambda request, _: answer(status, DATA if status == 200 else b"no ranges here")
    with opened(asking(stub)) as source:
        with pytest.raises(RangeIgnored):
            next(source.read(1000))
        assert_that(source.seekable, Is(False))


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Range: bytes 999-255999/256000"],
        ["Content-Range: bytes 1000-255998/256000"],
        ["Content-Range: bytes 1000-255999/256001"],
        ["Content-Range: bytes 1000-255999/*"],
        ["Content-Range: bytes 1000-255999/256000", "Content-Range: bytes 0-1/256000"],
        ["Content-Type: multipart/byteranges; boundary=x"],
        [],
    ],
)
def test_a_206_with_another_range_is_never_spliced(
    glance: tuple[Stub, OneImage], headers: list[str]
) -> None:
    stub, image = glance
    image.file = lambda request, _: answer(206, DATA[1000:], *headers)
    with opened(asking(stub)) as source, pytest.raises(RangeIgnored):
        next(source.read(1000))


def test_without_a_strong_digest_there_is_no_resuming(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    image.record.update(os_hash_algo="md5", os_hash_value=hashlib.md5(DATA).hexdigest())
    with opened(asking(stub)) as source:
        assert_that(source.seekable, Is(False))
        assert_that(source.image.version, Is(None))


@pytest.mark.parametrize(
    ("changes", "checksums"),
    [
        ({"os_hash_algo": None}, {"unnamed": record()["os_hash_value"]}),
        ({"os_hash_value": ""}, {"sha512": ""}),
        ({"os_hash_value": None}, {"sha512": ""}),
        ({"os_hash_algo": "crc32"}, {"crc32": record()["os_hash_value"]}),
        ({"os_hash_algo": None, "os_hash_value": None}, {}),
        ({"os_hash_algo": "sha512", "os_hash_value": "AB" * 64}, {"sha512": "ab" * 64}),
    ],
)
def test_odd_digests_stay_visible(
    glance: tuple[Stub, OneImage], changes: dict[str, Any], checksums: dict[str, str]
) -> None:
    stub, image = glance
    image.record.update(changes, checksum=None)
    with opened(asking(stub)) as source:
        assert_that(dict(source.image.checksums), Equals(checksums))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("queued", NotReady), ("saving", NotReady), ("importing", NotReady),
        ("uploading", NotReady), ("deactivated", PolicyViolation), ("deleted", Gone),
        ("pending_delete", Gone), ("killed", Gone), ("on fire", BackendError),
        (None, BackendError),
    ],
)  # fmt: skip
def test_only_an_active_image_is_opened(
    glance: tuple[Stub, OneImage], status: str | None, kind: type[Exception]
) -> None:
    stub, image = glance
    image.record["status"] = status
    with pytest.raises(kind) as caught:
        asking(stub).open(caller(), REF)
    assert_that(bool(caught.value.hint), Is(True))  # type: ignore[attr-defined]
    assert_that(stub.count("GET", "/file"), Equals(0))


def test_a_record_without_data_is_not_ready(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    image.file = lambda request, _: answer(204)
    with opened(asking(stub)) as source, pytest.raises(NotReady):
        next(source.read())


def test_an_empty_image_is_empty(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    image.record = record(b"")
    for said in (answer(204), answer(200, b"")):
        image.file = lambda request, _, said=said: said  # type: ignore[misc]
        assert_that(fetched(asking(stub)), Equals(b""))


@pytest.mark.parametrize("difference", [-1, -1000, 1, 1000])
def test_a_body_of_another_length_than_the_record_is_refused_before_the_first_byte(
    glance: tuple[Stub, OneImage], difference: int
) -> None:
    stub, image = glance
    body = (DATA + b"x" * 1000)[: len(DATA) + difference]
    image.file = lambda request, _: answer(200, body)
    kind: type[Exception] = TooLarge if difference > 0 else TransferError
    with opened(asking(stub)) as source, pytest.raises(kind) as caught:
        next(source.read())
    assert_that(str(caught.value), Contains(str(len(DATA) + difference)))


def chunked(data: bytes, *, end: bool = True) -> bytes:
    head = answer(200, b"", "Transfer-Encoding: chunked", length=False)
    return head + b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if end else b"")


@pytest.mark.parametrize(
    ("data", "end", "kind"),
    [(DATA, True, None), (DATA + b"x", True, TooLarge), (DATA[:-1], True, TransferError),
     (DATA[:-1], False, TransferError)],
)  # fmt: skip
def test_a_body_without_a_length_is_held_to_the_record(
    glance: tuple[Stub, OneImage], data: bytes, end: bool, kind: type[Exception] | None
) -> None:
    stub, image = glance

    def file(request: Request, connection: Connection) -> None:
        connection.sendall(chunked(data, end=end))

    image.file = file
    if kind is None:
        assert_that(fetched(asking(stub)), Equals(DATA))
        return
    with pytest.raises(kind):
        fetched(asking(stub))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "rot13"])
def test_an_encoded_body_is_not_decoded(glance: tuple[Stub, OneImage], encoding: str) -> None:
    stub, image = glance
    image.file = lambda request, _: answer(200, DATA, f"Content-Encoding: {encoding}")
    with opened(asking(stub)) as source, pytest.raises(TransferError):
        next(source.read())


@pytest.mark.parametrize("name", ["identity", "none", "aws-chunked", "utf-8"])
def test_what_names_no_coding_says_nothing(glance: tuple[Stub, OneImage], name: str) -> None:
    stub, image = glance
    image.file = lambda request, _: answer(200, DATA, f"Content-Encoding: {name}")
    assert_that(fetched(asking(stub)), Equals(DATA))


@pytest.mark.parametrize("length", ["+256000", "256000, 256000", "0x3e800", "-1", "lots"])
def test_an_odd_length_is_refused(glance: tuple[Stub, OneImage], length: str) -> None:
    stub, image = glance
    image.file = lambda request, _: answer(200, DATA, f"Content-Length: {length}", length=False)
    with opened(asking(stub)) as source, pytest.raises(TransferError):
        b"".join(source.read())


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("after", [0, 10, 60, 200, 100_000])
def test_a_cut_at_any_place_is_an_error_that_may_be_retried(
    glance: tuple[Stub, OneImage], after: int, reset: bool
) -> None:
    stub, image = glance

    def file(request: Request, connection: Connection) -> None:
        connection.sendall(image.good_file(request)[:after])
        if reset:
            connection.reset()

    image.file = file
    with opened(asking(stub)) as source:
        with pytest.raises(TransferError) as caught:
            b"".join(source.read())
        assert_that(caught.value.retryable, Is(True))
        image.file = None
        assert_that(b"".join(source.read(1000)), Equals(DATA[1000:]))


def test_a_head_that_is_cut_anywhere_is_an_error(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    whole = image.good_file(Request("GET", "", [], {"range": "bytes=1000-"}, b""))
    cut_at = 0

    def file(request: Request, connection: Connection) -> None:
        connection.sendall(whole[:cut_at])

    image.file = file
    with opened(asking(stub)) as source:
        for cut_at in range(whole.index(b"\r\n\r\n") + 4):  # noqa: B007 - seen by the server
            with pytest.raises(TransferError) as caught:
                next(source.read(1000))
            assert_that(caught.value, Not(IsInstance(RangeIgnored)))
        assert_that(source.seekable, Is(True))


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01\x02\x00\x01", b"\x00\x00\x12\x04\x00\x00",
        b"<html>hello", b"\r\n\r\n", b"HTTP/1.1 two hundred\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n", b"x" * 1_000_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    ],
)  # fmt: skip
def test_what_is_not_http_is_an_error(glance: tuple[Stub, OneImage], said: bytes) -> None:
    stub, image = glance

    def file(request: Request, connection: Connection) -> None:
        connection.sendall(said)

    image.file = file
    with opened(asking(stub)) as source, pytest.raises(TransferError):
        next(source.read())


@pytest.mark.parametrize("after", [0, 10, 60, 100_000])
def test_a_stall_at_any_place_ends(after: int) -> None:
    image = OneImage()

    def file(request: Request, connection: Connection) -> None:
        connection.sendall(image.good_file(request)[:after])
        stub.closing.wait()

    image.file = file
    began = time.monotonic()
    with Stub(image) as stub, opened(asking(stub, stall=STALL)) as source:
        with pytest.raises(TransferTimeout):
            b"".join(source.read())
        assert_that(time.monotonic() - began, LessThan(STALL + 1))


def test_a_head_that_trickles_in_ends_too() -> None:
    def show(request: Request, connection: Connection) -> None:
        connection.send_slowly(json_answer(record()), STALL / 4)

    image = OneImage()
    image.show = show
    began = time.monotonic()
    with Stub(image) as stub, pytest.raises(TransferTimeout):
        asking(stub, stall=STALL).open(caller(), REF)
    assert_that(time.monotonic() - began, LessThan(2 * STALL + 1))


def test_a_record_that_trickles_in_ends_too() -> None:
    def show(request: Request, connection: Connection) -> None:
        head, end, body = json_answer(record()).partition(b"\r\n\r\n")
        connection.sendall(head + end)
        connection.send_slowly(body, STALL / 4)

    image = OneImage()
    image.show = show
    began = time.monotonic()
    with Stub(image) as stub, pytest.raises(TransferTimeout):
        asking(stub, stall=STALL).open(caller(), REF)
    assert_that(time.monotonic() - began, LessThan(3 * STALL + 1))


@pytest.mark.parametrize("after", [0, 10, 100_000])
def test_closing_ends_a_read_that_waits(after: int) -> None:
    image = OneImage()
    waiting = threading.Event()

    def file(request: Request, connection: Connection) -> None:
        connection.sendall(image.good_file(request)[:after])
        waiting.set()
        stub.closing.wait()

    image.file = file
    with Stub(image) as stub, opened(asking(stub, stall=60)) as source:
        failures: list[BaseException] = []

        def read() -> None:
            try:
                b"".join(source.read())
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        waiting.wait(5)
        source.close()
        source.close()
        thread.join(5)
        assert_that(thread.is_alive(), Is(False))
        assert_that(failures, MatchesAll(HasLength(1)))
        assert_that(failures[0], IsInstance(TransferError))


def test_an_abandoned_read_leaves_no_connection(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    ended = threading.Event()

    def file(request: Request, connection: Connection) -> None:
        connection.sendall(image.good_file(request)[:100_000])
        if connection.wait_for_close(5):
            ended.set()

    image.file = file
    with opened(asking(stub)) as source, closing(source.read()) as chunks:
        next(chunks)
    assert_that(ended.wait(5), Is(True))


# -- what changes between show and data ------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"status": "deactivated"}, {"status": "queued"}, {"size": 7}, {"disk_format": "qcow2"},
        {"os_hash_value": "ab" * 64}, {"os_hash_algo": "sha256"}, {"checksum": "ab" * 16},
    ],
)  # fmt: skip
def test_a_record_that_changed_meanwhile_is_noticed_at_the_end(
    glance: tuple[Stub, OneImage], change: dict[str, Any]
) -> None:
    stub, image = glance
    with opened(asking(stub)) as source:
        chunks = source.read()
        next(chunks)
        image.record.update(change)
        with pytest.raises(ImageChanged):
            list(chunks)


def test_a_record_that_changed_is_noticed_before_resuming(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    with opened(asking(stub)) as source:
        with closing(source.read()) as chunks:
            next(chunks)
        image.record["os_hash_value"] = "ab" * 64
        with pytest.raises(ImageChanged):
            next(source.read(100))


def test_an_image_deleted_after_its_bytes_began_may_arrive(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    with opened(asking(stub)) as source:
        chunks = source.read()
        first = bytes(next(chunks))
        image.show = lambda request, _: answer(404)
        assert_that(first + b"".join(chunks), Equals(DATA))


def test_a_digest_that_is_computed_late_is_no_change(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    image.record.update(os_hash_algo=None, os_hash_value=None)
    with opened(asking(stub)) as source:
        chunks = source.read()
        first = bytes(next(chunks))
        image.record.update(record())
        assert_that(first + b"".join(chunks), Equals(DATA))


# -- statuses --------------------------------------------------------------------------------------

STATUSES = [
    (300, TransferError, False), (400, InvalidImageRef, False), (401, NotAuthorized, False),
    (403, NotAuthorized, False), (404, ImageNotFound, False), (409, Conflict, False),
    (410, Gone, False), (413, QuotaExceeded, False), (418, BackendError, False),
    (429, BackendError, True), (500, BackendError, True), (501, BackendError, False),
    (502, BackendError, True), (503, BackendError, True), (504, BackendError, True),
]  # fmt: skip


@pytest.mark.parametrize("where", ["show", "file"])
@pytest.mark.parametrize(("status", "kind", "retryable"), STATUSES)
def test_each_status_has_its_error(
    glance: tuple[Stub, OneImage], where: str, status: int, kind: type[Exception], retryable: bool
) -> None:
    stub, image = glance
    setattr(image, where, lambda request, _: answer(status, b"<h1>no</h1> way"))
    with pytest.raises(kind) as caught:
        fetched(asking(stub))
    error = caught.value
    assert isinstance(error, ImageBrokerError)
    assert_that(error.retryable, Is(retryable))
    assert_that(bool(error.hint), Is(True))
    ending = "/file" if where == "file" else ID
    assert_that(stub.count("GET", ending), Equals(1))


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("5", 5, 5),
        (timedelta(seconds=600), 500, 600),
        (timedelta(seconds=-600), 0, 0),
    ],
    ids=["seconds", "a date to come", "a date that is past"],
)
def test_a_wish_to_be_asked_later_is_passed_on(
    glance: tuple[Stub, OneImage], status: int, value: str | timedelta, least: float, most: float
) -> None:
    stub, image = glance
    if isinstance(value, timedelta):  # reckoned now: tests may be collected long before they run
        value = format_datetime(datetime.now(UTC) + value, usegmt=True)
    image.show = lambda request, _: answer(status, b"", f"Retry-After: {value}")
    with pytest.raises(BackendError) as caught:
        fetched(asking(stub))
    after = caught.value.retry_after
    assert after is not None
    assert_that(least <= after <= most, Is(True))


@pytest.mark.parametrize("value", ["-1", "1e9", "soon", "", "٣", "9" * 30])
def test_a_garbled_wish_is_ignored(glance: tuple[Stub, OneImage], value: str) -> None:
    stub, image = glance
    header = f"Retry-After: {value}".encode().decode("latin-1")
    image.show = lambda request, _: answer(503, b"", header)
    with pytest.raises(BackendError) as caught:
        fetched(asking(stub))
    assert_that(caught.value.retry_after, Is(None))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["show", "file"])
def test_no_redirect_is_followed(glance: tuple[Stub, OneImage], where: str, status: int) -> None:
    stub, image = glance
    with Stub(OneImage()) as trap:
        setattr(image, where, lambda request, _: answer(status, b"", f"Location: {trap.url}/x"))
        with pytest.raises(PolicyViolation):
            fetched(asking(stub))
        assert_that(trap.connections, HasLength(0))


def test_an_endless_error_body_is_left_unread(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance

    def show(request: Request, connection: Connection) -> None:
        connection.sendall(b"HTTP/1.1 500 No\r\n\r\n")
        sent = 0
        while sent < 1 << 30:
            sent += connection.send(b"x" * 65536)

    image.show = show
    with pytest.raises(BackendError) as caught:
        fetched(asking(stub))
    assert_that(len(str(caught.value)), LessThan(1100))


def test_an_error_text_is_one_clean_line(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    body = b"<html><head><title>t</title></head><body>bad\r\n\x1b[31m <b>luck</b> &amp; more"
    image.show = lambda request, _: answer(404, body + b"x" * 100_000)
    with pytest.raises(ImageNotFound) as caught:
        fetched(asking(stub))
    assert_that(
        str(caught.value), MatchesAll(Contains("bad \\x1b[31m luck & more"), Not(Contains("\n")))
    )


@pytest.mark.parametrize("header", ["X no colon", "X\x1b[31m", " folded", "X : y\r\nno colon"])
def test_a_header_that_cannot_be_read_is_an_error_and_not_in_the_log_as_it_came(
    glance: tuple[Stub, OneImage], header: str, caplog: pytest.LogCaptureFixture
) -> None:
    stub, image = glance
    image.show = lambda request, _: answer(200, b"{}", header)
    with pytest.raises(TransferError):
        asking(stub).open(caller(), REF)
    assert_that(
        [r.getMessage() for r in caplog.records if not r.getMessage().isprintable()], Equals([])
    )


# -- malformed records -----------------------------------------------------------------------------

MALFORMED = {
    "not JSON": b"<html>login</html>",
    "a list": b"[]",
    "a number": b"7",
    "duplicate keys": json.dumps(record()).encode()[:-1] + b', "size": 1}',
    "NaN": json.dumps({**record(), "size": float("nan")}).encode(),
    "infinite": json.dumps(record()).encode().replace(b'"min_ram": 0', b'"min_ram": 1e999'),
    "a very long number": json.dumps(record()).encode().replace(b"256000", b"9" * 10_000),
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep lists": b"[" * 90_000,
    "many objects": b'{"a":[' + b",".join([b"{}"] * 200_000) + b"]}",
    "lone surrogate": json.dumps(record()).encode().replace(b'"stub"', b'"\\ud800"'),
    "bad UTF-8": b'{"id": "\xff"}',
    "size is text": json.dumps(record(size="7")).encode(),
    "size is true": json.dumps(record(size=True)).encode(),
    "size is negative": json.dumps(record(size=-1)).encode(),
    "size is a fraction": json.dumps(record(size=1.5)).encode(),
    "status is a list": json.dumps(record(status=["active"])).encode(),
    "tags is text": json.dumps(record(tags="a")).encode(),
    "tags hold numbers": json.dumps(record(tags=[1])).encode(),
    "hash is a number": json.dumps(record(os_hash_value=7)).encode(),
    "hash is an object": json.dumps(record(os_hash_algo={})).encode(),
    "id of another image": json.dumps(record(id=OTHER)).encode(),
    "no id": json.dumps(record(id=None)).encode(),
    "longer than any record": json.dumps(record(x="y" * 3_000_000)).encode(),
    "empty": b"",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_record_is_an_error_of_the_server(
    glance: tuple[Stub, OneImage], name: str
) -> None:
    stub, image = glance
    image.show = lambda request, _: answer(200, MALFORMED[name], "Content-Type: application/json")
    with pytest.raises(TransferError) as caught:
        asking(stub).open(caller(), REF)
    assert_that(len(str(caught.value)), LessThan(1100))


def test_unknown_attributes_are_properties_and_garbled_times_are_unknown(
    glance: tuple[Stub, OneImage],
) -> None:
    stub, image = glance
    image.record.update(updated_at="the day after", created_at="2026-01-02T03:04:05", os_type="x",
                        new_thing={"a": [1]})  # fmt: skip
    found = asking(stub).get(caller(), REF)
    assert_that(dict(found.properties), Equals({"os_type": "x", "new_thing": {"a": [1]}}))
    assert_that(found.updated_at, Is(None))
    assert_that(found.created_at, Equals(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))


def test_an_unknown_size_stays_unknown(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    image.record["size"] = None
    with opened(asking(stub)) as source:
        assert_that(source.image.size, Is(None))
        assert_that(b"".join(source.read()), Equals(DATA))


def test_locations_are_given_once_each_and_only_when_asked_for(
    glance: tuple[Stub, OneImage],
) -> None:
    stub, image = glance
    image.record.update(
        direct_url="file:///a",
        locations=[{"url": "file:///a", "metadata": {"mountpoint": "/"}}, {"url": "http://b/"}],
    )
    backend = asking(stub)
    assert_that(backend.get(caller(), REF).locations, Is(None))
    found = backend.get(caller(), REF, include_locations=True).locations
    assert_that([each.url for each in found], Equals(["file:///a", "http://b/"]))
    for evil in ([{"metadata": {}}], ["file:///a"], {"url": "x"}, [{"url": 7}]):
        image.record["locations"] = evil
        with pytest.raises(TransferError):
            backend.get(caller(), REF, include_locations=True)


# -- several servers -------------------------------------------------------------------------------


def closed_port() -> str:
    with Stub(OneImage()) as gone:
        return gone.endpoint


def test_the_next_server_is_asked_when_one_refuses_or_is_in_trouble() -> None:
    with Stub(OneImage()) as good, Stub(lambda request, _: answer(503)) as busy:
        for _ in range(8):  # whatever the shuffled order
            backend = make_backend(endpoint=[closed_port(), busy.endpoint, good.endpoint])
            assert_that(fetched(backend), Equals(DATA))


def test_a_server_that_dies_half_way_is_followed_by_another() -> None:
    dying, healthy = OneImage(), OneImage()

    def file(request: Request, connection: Connection) -> None:
        connection.sendall(dying.good_file(request)[:100_000])

    dying.file = file
    with Stub(dying) as first, Stub(healthy) as second:
        backend = make_backend(endpoint=[first.endpoint, second.endpoint])
        backend._keystone.endpoints.sort(key=lambda url: url != first.endpoint)
        got: list[bytes] = []
        with opened(backend) as source:
            with pytest.raises(TransferError):
                got.extend(source.read())
            have = sum(map(len, got))
            assert_that(have, MatchesAll(GreaterThan(0), LessThan(len(DATA))))
            got.extend(source.read(have))
        assert_that(b"".join(got), Equals(DATA))
        assert_that(second.count("GET", "/file"), Equals(1))


def test_the_order_of_servers_differs_between_instances() -> None:
    urls = [f"http://127.0.0.1:{9000 + number}/" for number in range(6)]
    orders = {tuple(make_backend(endpoint=urls)._keystone.endpoints) for _ in range(20)}
    assert_that(len(orders), GreaterThan(1))


def test_when_all_servers_are_dead_the_error_names_each() -> None:
    ports = [closed_port() for _ in range(3)]
    with pytest.raises(TransferError) as caught:
        fetched(make_backend(endpoint=ports))
    assert_that(caught.value.retryable, Is(True))
    for url in ports:
        assert_that(str(caught.value), Contains(url.split("/")[2].split(":")[1]))


def test_a_server_with_a_certificate_that_nobody_trusts_is_passed_over(tmp_path: Path) -> None:
    cafile = write_certificates(tmp_path)

    def tls(name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / f"{name}.pem")
        return context

    with Stub(OneImage(), tls=tls("good")) as good, ExitStack() as stack:
        for name in ("wrong-host", "expired", "self-signed", "not-yet-valid", "no-intermediate"):
            bad = stack.enter_context(Stub(OneImage(), tls=tls(name)))
            backend = make_backend(endpoint=[bad.endpoint], cafile=str(cafile))
            with pytest.raises(PolicyViolation) as caught:
                fetched(backend)
            assert_that(caught.value.hint, Contains("cafile"))
            assert_that(bad.requests, HasLength(0))
            backend = make_backend(endpoint=[bad.endpoint, good.endpoint], cafile=str(cafile))
            assert_that(fetched(backend), Equals(DATA))
        with pytest.raises(PolicyViolation):  # the system's authorities do not know this one
            fetched(make_backend(endpoint=[good.endpoint]))
        insecure = make_backend(endpoint=[bad.endpoint], insecure=True, allow_insecure=True)
        assert_that(fetched(insecure), Equals(DATA))


def test_ids_reach_the_path_only_as_uuids(glance: tuple[Stub, OneImage]) -> None:
    for text in ("../../v3/tokens", "x?y=1", "x%2f.."):
        with pytest.raises(ImageBrokerError):
            ref_of(text)
    assert_that(glance[0].requests, HasLength(0))


# -- the whole way, through a broker ---------------------------------------------------------------

MakeBroker = Callable[[str], imagebroker.Broker]


def through(stub: Stub, make_broker: MakeBroker, core: str = "") -> imagebroker.Broker:
    return make_broker(
        f"[imagebroker]\nenabled_schemes = glance\nretry_backoff = 0\n{core}\n"
        f"[backend:glance]\nendpoint = {stub.endpoint}\n"
    )


WITHOUT_DIGEST = {"os_hash_algo": None, "os_hash_value": None}


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"os_hash_value": "ab" * 64}, True),
        ({"os_hash_algo": None}, False),
        ({"os_hash_value": ""}, False),
        ({"os_hash_algo": "crc32"}, False),
        ({"os_hash_algo": "shake_128"}, False),
        ({"os_hash_algo": "md5", "os_hash_value": hashlib.md5(DATA).hexdigest()}, False),
        ({**WITHOUT_DIGEST, "checksum": None}, False),
        (WITHOUT_DIGEST, False),
    ],
)
def test_what_no_strong_digest_proves_is_not_stored(
    glance: tuple[Stub, OneImage],
    make_broker: MakeBroker,
    tmp_path: Path,
    changes: dict[str, Any],
    asked: bool,
) -> None:
    stub, image = glance
    image.record.update(changes)
    with pytest.raises((VerificationError, PolicyViolation)):
        through(stub, make_broker).download(caller(), f"glance:{ID}", tmp_path / "image")
    assert_that((tmp_path / "image").exists(), Is(False))
    assert_that(stub.count("GET", "/file"), Equals(int(asked)))


def test_md5_alone_will_do_where_the_deployer_says_so(
    glance: tuple[Stub, OneImage], make_broker: MakeBroker, tmp_path: Path
) -> None:
    stub, image = glance
    image.record.update(WITHOUT_DIGEST)
    broker = through(stub, make_broker, "allow_md5 = true")
    broker.download(caller(), f"glance:{ID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))


def test_another_images_bytes_of_the_same_size_are_noticed(
    glance: tuple[Stub, OneImage], make_broker: MakeBroker, tmp_path: Path
) -> None:
    stub, image = glance
    image.data = bytes(len(DATA))
    with pytest.raises(VerificationError):
        through(stub, make_broker).download(caller(), f"glance:{ID}", tmp_path / "image")
    assert_that((tmp_path / "image").exists(), Is(False))


def test_a_server_that_ignores_ranges_costs_a_new_beginning(
    glance: tuple[Stub, OneImage], make_broker: MakeBroker, tmp_path: Path
) -> None:
    stub, image = glance
    asked: list[str | None] = []

    def file(request: Request, connection: Connection) -> bytes | None:
        asked.append(request.headers.get("range"))
        if len(asked) == 1:
            connection.sendall(image.good_file(request)[:100_000])
            return None
        return answer(200, DATA)

    image.file = file
    through(stub, make_broker).download(caller(), f"glance:{ID}", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))
    assert_that(asked[0], Is(None))
    assert_that(asked[-1], Is(None))
