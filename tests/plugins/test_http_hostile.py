"""The http backend against servers that lie, break off, stall and flood."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagebroker_http import wire
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, HasLength, Is, LessThan, Not

import imagebroker
from imagebroker.exceptions import Gone, RangeIgnored, TransferTimeout
from imagebroker.model.reference import parse
from imagebroker.plugin import (
    BackendError,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    Limits,
    NotAuthorized,
    TransferError,
)
from tests.plugins.http_peers import (
    STALL,
    answer,
    chunked,
    fetched,
    hang,
    impatient,
    make_backend,
    opened,
    pour,
    server_context,
    serving,
)
from tests.servers.certificates import write_certificates
from tests.servers.raw import Connection, RawServer

BODY = b"0123456789abcdef"
#: Seconds that an error may come after a limit, on a busy machine.
GRACE = 1.0


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificates(tmp_path_factory.mktemp("tls")).parent


def failure(*answers: bytes) -> ImageBrokerError:
    """What fetching an image that is answered like this raises."""
    with serving(*answers) as server, pytest.raises(ImageBrokerError) as caught:
        fetched(f"{server.url}/x")
    assert_that(caught.value.hint, Not(Equals("")))
    return caught.value


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert_that(tracemalloc.get_traced_memory()[1], LessThan(limit))
    finally:
        tracemalloc.stop()


def flooding(begin: bytes, block: bytes) -> RawServer:
    """Sends `begin`, and then `block` without end."""

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(begin)
        while True:
            connection.sendall(block)

    return RawServer(script)


# -- cuts --------------------------------------------------------------------------------------


CUT = {
    "counted": answer(BODY, 'ETag: "1"'),
    "chunked": chunked(BODY[:10], BODY[10:]),
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(BODY),
}


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("framing", CUT)
def test_a_cut_at_any_byte_is_an_error(framing: str, reset: bool) -> None:
    whole = CUT[framing]

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(whole[:index])
        if reset:
            connection.reset()

    with RawServer(script) as server:
        for offset in range(len(whole)):
            got = bytearray()
            with pytest.raises(TransferError) as caught, opened(f"{server.url}/x") as source:
                pour(source.read(), got)
            assert BODY.startswith(got), offset
            assert_that(caught.value.retryable, Is(True))
    assert_that(server.connections, HasLength(len(whole)))


@pytest.mark.parametrize("framing", CUT)
def test_a_cut_of_tls_at_any_byte_is_an_error(framing: str, tls_files: Path) -> None:
    whole = CUT[framing]

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(whole[: index * 5])
        os.close(connection.detach())

    backend = make_backend(ca_file=str(tls_files / "ca.pem"))
    with RawServer(script, tls=server_context(tls_files)) as server:
        for _ in range(0, len(whole), 5):
            with pytest.raises(TransferError):
                fetched(f"{server.url}/x", backend)


def test_bytes_before_a_reset_are_handed_out_over_tls_too(tls_files: Path) -> None:
    data = bytes(100_000)

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(data * 2)[: -len(data)])
        os.close(connection.detach())

    backend = make_backend(ca_file=str(tls_files / "ca.pem"))
    got = bytearray()
    with (
        RawServer(script, tls=server_context(tls_files)) as server,
        opened(f"{server.url}/x", backend) as source,
        pytest.raises(TransferError),
    ):
        pour(source.read(), got)
    assert got == data


def test_bytes_are_handed_out_as_they_arrive(tls_files: Path) -> None:
    for tls in None, server_context(tls_files):
        more = threading.Event()

        def script(connection: Connection, index: int, more: threading.Event = more) -> None:
            connection.read_head()
            connection.sendall(answer(BODY)[:-8])
            more.wait(10)
            connection.sendall(BODY[-8:])

        backend = make_backend(ca_file=str(tls_files / "ca.pem"))
        with RawServer(script, tls=tls) as server, opened(f"{server.url}/x", backend) as source:
            chunks = source.read()
            assert next(chunks) == BODY[:8]
            more.set()
            assert b"".join(chunks) == BODY[8:]


def test_without_a_length_the_end_of_the_connection_is_the_end() -> None:
    for version in "1.0", "1.1":
        with (
            serving(answer(BODY, length=False, version=version)) as server,
            opened(f"{server.url}/x") as source,
        ):
            assert_that(source.image.size, Is(None))
            assert b"".join(source.read()) == BODY


def test_an_unknown_size_is_refused_by_the_broker_unless_allowed(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http\nretry_backoff = 0\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    with serving(answer(BODY, length=False)) as server:
        with pytest.raises(imagebroker.ImageBrokerError):
            broker.download(None, f"{server.url}/x", tmp_path / "dest")
        assert not (tmp_path / "dest").exists()


def test_bytes_beyond_the_length_are_not_read() -> None:
    with (
        serving(answer(BODY).replace(b": 16", b": 10"), answer(b"")) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert b"".join(source.read()) == BODY[:10]


def test_a_connection_with_surplus_bytes_is_not_used_again() -> None:
    part = answer(
        BODY[4:8], "Content-Range: bytes 4-7/16", 'ETag: "1"', status="206 Partial Content"
    )
    whole = answer(BODY, 'ETag: "1"', "Accept-Ranges: bytes")
    with (
        serving(whole, part + part.replace(b"4567", b"XXXX"), part) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert b"".join(source.read(4, 8)) == BODY[4:8]
        assert b"".join(source.read(4, 8)) == BODY[4:8]
        assert_that(server.connections, HasLength(3))


@pytest.mark.parametrize("framing", CUT)
def test_an_answer_that_comes_byte_by_byte_is_the_same(framing: str) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.send_slowly(CUT[framing], 0)

    with RawServer(script) as server:
        assert fetched(f"{server.url}/x") == BODY


# -- framing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "length",
    ["-1", "+16", "0x10", "16.0", "1_6", " ", "16 16", "16;", "16, 17", "16,", "9" * 19, "\xb2"],
)
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    reply = answer(BODY, f"Content-Length: {length}", length=False)
    assert isinstance(failure(reply), TransferError)


def test_two_lengths_must_agree() -> None:
    assert isinstance(failure(answer(BODY, "Content-Length: 15")), TransferError)
    for repeated in (
        answer(BODY, "Content-Length: 16"),
        answer(BODY, "Content-Length: 16, 16", length=False),
    ):
        with serving(repeated) as server:
            assert fetched(f"{server.url}/x") == BODY


@pytest.mark.parametrize(
    "headers",
    [
        ["Transfer-Encoding: chunked", "Content-Length: 16"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: xchunked"],
    ],
)
def test_an_ambiguous_framing_is_refused(headers: list[str]) -> None:
    body = chunked(BODY).partition(b"\r\n\r\n")[2]
    assert isinstance(failure(answer(body, *headers, length=False)), TransferError)


def test_chunks_are_unknown_to_http_1_0() -> None:
    assert isinstance(failure(chunked(BODY).replace(b"1.1", b"1.0", 1)), TransferError)


CHUNKED_HEAD = answer(b"", "Transfer-Encoding: chunked", length=False)


@pytest.mark.parametrize(
    "body",
    [
        b"ZZ\r\nab\r\n0\r\n\r\n",
        b"-5\r\nabcde\r\n0\r\n\r\n",
        b"+2\r\nab\r\n0\r\n\r\n",
        b"0x2\r\nab\r\n0\r\n\r\n",
        b" 2\r\nab\r\n0\r\n\r\n",
        b"1_0\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"\r\nab\r\n0\r\n\r\n",
        b"2\r\nabc\r\n0\r\n\r\n",
        b"2\r\nabXX0\r\n\r\n",
        b"2\r\nab0\r\n\r\n",
        b"f" * 20 + b"\r\nab",
        b"2;" + b"x" * 10_000 + b"\r\nab\r\n0\r\n\r\n",
        b"2;\x00\r\nab\r\n0\r\n\r\n",
        b"2\r\nab\r\n0\r\n" + b"T: x\r\n" * 200 + b"\r\n",
        b"2\r\nab\r\n0\r\nT: " + b"x" * 100_000 + b"\r\n\r\n",
        b"10",
        b"10\r\n",
        b"2\r\nab",
        b"2\r\nab\r\n",
        b"2\r\nab\r\n0\r\n",
    ],
)
def test_chunks_that_do_not_add_up_are_an_error(body: bytes) -> None:
    assert isinstance(failure(CHUNKED_HEAD + body), TransferError)


@pytest.mark.parametrize(
    "body",
    [
        b'2 ;a=b;c="d"\r\nab\r\n01\r\nc\r\n0\r\nX-Sum: 1\r\n\r\n',
        b"2\nab\n1\nc\n0\n\n",
        b"0003\r\nabc\r\n000\r\n\r\n",
    ],
)
def test_what_the_grammar_of_chunks_allows_is_read(body: bytes) -> None:
    with serving(CHUNKED_HEAD + body) as server:
        assert fetched(f"{server.url}/x") == b"abc"


@pytest.mark.parametrize(
    ("begin", "block"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
        (b"HTTP/1.1 200 ", b"y" * 65536),
        (b"", b"y" * 65536),
        (b"", b"\r\n" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\n"),
        (CHUNKED_HEAD + b"2;", b"y" * 65536),
        (CHUNKED_HEAD + b"2\r\nab\r\n0\r\n", b"X: y\r\n" * 1000),
        (CHUNKED_HEAD + b"2\r\nab\r\n0\r\nX: ", b"y" * 65536),
    ],
)
def test_framing_without_end_is_an_error_and_takes_little_memory(
    begin: bytes, block: bytes
) -> None:
    with flooding(begin, block) as server, memory_below(4 << 20), pytest.raises(TransferError):
        fetched(f"{server.url}/x")


@pytest.mark.parametrize(
    "headers", [["X: y"] * 200, ["X: " + "y" * 100_000], ["Y" * 100_000 + ": x"]]
)
def test_too_many_or_too_long_headers_are_an_error(headers: list[str]) -> None:
    assert isinstance(failure(answer(BODY, *headers)), TransferError)


@pytest.mark.parametrize(
    "reply",
    [
        b"\x00\x01\x02\x03",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"<html>hello</html>",
        BODY,
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1 2_0 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 1000 OK\r\n\r\n",
        b"HTTP/1.1\t200 OK\r\n\r\n",
        b"HTTP/1.1 200\x00\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n folded: x\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nX: a\rContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"",
    ],
)
def test_what_is_not_http_1_1_is_an_error(reply: bytes) -> None:
    error = failure(reply)
    assert isinstance(error, TransferError)
    assert str(error).isprintable()


def test_a_few_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    with serving(interim + answer(BODY)) as server:
        assert fetched(f"{server.url}/x") == BODY


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """An answer in which something was cut out, put in or changed."""
    whole = bytearray(draw(st.sampled_from([*CUT.values(), answer(BODY, length=False)])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(whole)))
        stop = draw(st.integers(start, min(len(whole), start + 8)))
        whole[start:stop] = draw(st.binary(max_size=8) | st.sampled_from(SNIPPETS))
    return bytes(whole)


SNIPPETS = [b"\r\n", b"\n", b"\r", b":", b";", b" ", b"\t", b"\x00", b"0", b"-", b"f", b"HTTP/1.1 "]


@given(mangled())
@settings(max_examples=300, deadline=None)
def test_whatever_arrives_is_an_answer_or_a_transfer_error(reply: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(reply)
        theirs.shutdown(socket.SHUT_WR)
        ours.settimeout(5)
        connection = wire.Connection(ours, "http://peer", Limits())
        message = ""
        try:
            head = connection.exchange("GET", "/", [("Host", "peer")])
            assert_that(sum(map(len, connection.body())), LessThan(len(reply)))
            assert 200 <= head.status <= 999
        except TransferError as error:
            message = str(error)
        finally:
            connection.close()
    assert message.isprintable()


# -- statuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (201, TransferError, False),
        (202, TransferError, False),
        (204, ImageNotFound, False),
        (205, ImageNotFound, False),
        (206, TransferError, False),
        (226, TransferError, False),
        (300, TransferError, False),
        (304, TransferError, False),
        (305, TransferError, False),
        (400, BackendError, False),
        (401, NotAuthorized, False),
        (403, NotAuthorized, False),
        (404, ImageNotFound, False),
        (407, NotAuthorized, False),
        (408, BackendError, False),
        (410, Gone, False),
        (416, BackendError, False),
        (418, BackendError, False),
        (429, BackendError, True),
        (451, BackendError, False),
        (500, BackendError, True),
        (501, BackendError, True),
        (502, BackendError, True),
        (503, BackendError, True),
        (504, BackendError, True),
        (599, BackendError, True),
        (600, BackendError, True),
    ],
)
def test_every_status_has_its_error(status: int, error: type[Exception], retryable: bool) -> None:
    found = failure(answer(BODY, status=f"{status} Some reason"))
    assert type(found) is error
    assert_that(found.retryable, Is(retryable))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("-1", None),
        ("1e9", None),
        ("1000000000", 86400.0),  # nobody waits longer than a day
        ("9" * 400, None),
        ("soon", None),
        ("", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 99 Nov 2094 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_passed_on_where_it_makes_sense(value: str, seconds: float | None) -> None:
    error = failure(answer(b"", f"Retry-After: {value}", status="503 Busy"))
    assert_that(error.retry_after, Equals(seconds))


def test_retry_after_may_be_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=90)
    text = later.strftime("%a, %d %b %Y %H:%M:%S GMT")
    error = failure(answer(b"", f"Retry-After: {text}", status="429 Slow down"))
    assert error.retry_after is not None
    assert_that(error.retry_after, GreaterThan(80))
    assert_that(error.retry_after, LessThan(91))


@pytest.mark.parametrize("status", ["404 No", "500 Oops", "302 Found", "401 No"])
def test_an_error_body_without_end_is_not_read(status: str) -> None:
    head = answer(b"", "Location: file:///x", status=status, length=False)
    with (
        flooding(head, b"x" * 65536) as server,
        memory_below(1 << 20),
        pytest.raises(ImageBrokerError),
    ):
        fetched(f"{server.url}/x")


def test_a_reason_with_control_characters_is_harmless() -> None:
    error = failure(answer(b"", status="500 \x1b[31mred"))
    assert isinstance(error, TransferError)
    assert str(error).isprintable()


# -- content -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"QFI\xfb" + bytes(2000), "text/html"),
        (b"QFI\xfb", "text/plain"),
        (b"<html>", "text/html"),
        (b"<html>", "text/plain"),
        (b"<html>", "application/octet-stream"),
        (b"", "text/html"),
        (b"x", "text/html"),
        (bytes(5000), "text/html"),
    ],
)
def test_it_is_the_core_that_judges_the_content(data: bytes, kind: str) -> None:
    with serving(answer(data, f"Content-Type: {kind}")) as server:
        assert fetched(f"{server.url}/x") == data


def test_an_empty_image_is_empty() -> None:
    for reply in answer(b""), chunked():
        with serving(reply) as server:
            assert fetched(f"{server.url}/x") == b""


# -- time --------------------------------------------------------------------------------------


WHOLE = answer(BODY)
STALLS = {
    "before the status": 0,
    "in the status line": 8,
    "inside headers": WHOLE.index(b"\r\n") + 5,
    "before the body": WHOLE.index(b"\r\n\r\n") + 4,
    "inside the body": len(WHOLE) - 5,
    "before the last byte": len(WHOLE) - 1,
}


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("stage", STALLS)
def test_a_stall_ends_in_time(stage: str, tls: bool, tls_files: Path) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(WHOLE[: STALLS[stage]])
        hang(connection)

    with RawServer(script, tls=server_context(tls_files) if tls else None) as server:
        backend = impatient(ca_file=str(tls_files / "ca.pem"))
        began = monotonic()
        with pytest.raises(TransferTimeout):
            fetched(f"{server.url}/x", backend)
        assert_that(monotonic() - began, LessThan(STALL + GRACE))


@pytest.mark.parametrize("reply", [WHOLE, chunked(BODY)])
def test_nobody_waits_for_the_end_of_the_connection(reply: bytes) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(reply)
        hang(connection)

    with RawServer(script) as server:
        began = monotonic()
        assert fetched(f"{server.url}/x", impatient()) == BODY
        assert_that(monotonic() - began, LessThan(STALL))


@pytest.mark.parametrize(
    "head", [answer(BODY, "X: " + "y" * 500), b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + answer(BODY)]
)
def test_headers_that_trickle_in_end_in_time(head: bytes) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.send_slowly(head, STALL / 10)

    with RawServer(script) as server:
        began = monotonic()
        with pytest.raises(TransferTimeout):
            fetched(f"{server.url}/x", impatient())
        assert_that(monotonic() - began, LessThan(STALL + GRACE))


def test_a_body_that_trickles_in_ends_by_the_minimum_rate(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http\nretries = 0\nstall_timeout = 0.5\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(bytes(5000))[:-5000])
        connection.send_slowly(bytes(5000), 0.1)

    with RawServer(script) as server, pytest.raises(TransferError):
        broker.download(None, f"{server.url}/x", tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_a_refused_connection_is_an_error() -> None:
    with serving(b"") as server:
        url = f"{server.url}/x"
    with pytest.raises(TransferError) as caught:
        fetched(url)
    assert_that(caught.value.retryable, Is(True))


def test_a_name_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(TransferError):
        fetched("http://images.invalid/x")


@pytest.mark.parametrize(
    "fields",
    [{"cert": "wrong-host"}, {"cert": "expired"}, {"cert": "not-yet-valid"}, {"cert": "self-signed"},
     {"cert": "no-intermediate"}],
)  # fmt: skip
def test_no_request_is_sent_to_a_server_with_a_bad_certificate(
    fields: dict[str, str], tls_files: Path
) -> None:
    context = server_context(tls_files, fields["cert"])
    with serving(answer(BODY), tls=context) as server:
        with pytest.raises(imagebroker.PolicyViolation):
            fetched(f"{server.url}/x", make_backend(ca_file=str(tls_files / "ca.pem")))
        assert_that(b"".join(server.received), Equals(b""))


def test_a_weak_cipher_is_refused(tls_files: Path) -> None:
    context = server_context(tls_files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("NULL:aNULL:@SECLEVEL=0")
    with serving(answer(BODY), tls=context) as server, pytest.raises(TransferError) as caught:
        fetched(f"{server.url}/x", make_backend(ca_file=str(tls_files / "ca.pem")))
    assert_that(caught.value.retryable, Is(False))


# -- ranges ------------------------------------------------------------------------------------


OPENED = answer(BODY, 'ETag: "1"', "Accept-Ranges: bytes")


def part(
    *headers: str,
    data: bytes = BODY[4:],
    etag: str = 'ETag: "1"',
    status: str = "206 Partial Content",
    length: bool = True,
) -> bytes:
    return answer(data, *filter(None, (etag,)), *headers, status=status, length=length)


def resumed(reply: bytes, start: int = 4, stop: int | None = None) -> bytes:
    """What a read from the middle brings when it is answered like this."""
    with serving(OPENED, reply) as server, opened(f"{server.url}/x") as source:
        return b"".join(source.read(start, stop))


def test_an_exact_range_is_read() -> None:
    assert resumed(part("Content-Range: bytes 4-15/16")) == BODY[4:]
    assert resumed(part("Content-Range: bytes 4-15/16", length=False)) == BODY[4:]
    assert resumed(part("Content-Range: bytes 4-7/16", data=BODY[4:8]), 4, 8) == BODY[4:8]


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Range: bytes 3-15/16"],
        ["Content-Range: bytes 5-15/16"],
        ["Content-Range: bytes 0-15/16"],
        ["Content-Range: bytes 4-14/16"],
        ["Content-Range: bytes 4-16/16"],
        ["Content-Range: bytes 4-15/17"],
        ["Content-Range: bytes 4-15/15"],
        ["Content-Range: bytes 4-15/*"],
        ["Content-Range: bytes */16"],
        ["Content-Range: bytes 15-4/16"],
        ["Content-Range: bytes 4-/16"],
        ["Content-Range: items 4-15/16"],
        ["Content-Range: bytes 4-15"],
        ["Content-Range: bytes +4-15/16"],
        ["Content-Range: "],
        [],
        ["Content-Range: bytes 4-15/16", "Content-Range: bytes 4-15/16"],
        ["Content-Range: bytes 4-15/16", "Content-Range: bytes 0-11/16"],
        ["Content-Range: bytes 4-15/16", "Content-Type: multipart/byteranges; boundary=x"],
        ["Content-Type: multipart/byteranges; boundary=x"],
    ],
)
def test_another_range_than_was_asked_for_is_not_read(headers: list[str]) -> None:
    with pytest.raises(RangeIgnored):
        resumed(part(*headers))


def test_a_range_whose_length_contradicts_it_is_not_read() -> None:
    with pytest.raises(RangeIgnored):
        resumed(part("Content-Range: bytes 4-15/16", data=BODY[4:10]))


def test_a_range_that_is_shorter_than_it_says_is_an_error() -> None:
    with pytest.raises(TransferError):
        resumed(part("Content-Range: bytes 4-15/16", data=BODY[4:10], length=False))


def test_a_range_that_is_longer_than_it_says_is_cut_off() -> None:
    reply = part("Content-Range: bytes 4-7/16", data=BODY[4:], length=False)
    assert resumed(reply, 4, 8) == BODY[4:8]


@pytest.mark.parametrize(
    "reply",
    [
        part("Content-Range: bytes 4-15/16", etag='ETag: "2"'),
        part("Content-Range: bytes 4-15/16", etag='ETag: "2"', status="200 OK", data=BODY),
        part(etag="", status="200 OK", data=BODY),
        part(status="412 Precondition Failed", data=b""),
    ],
)
def test_another_version_in_the_middle_is_a_change(reply: bytes) -> None:
    with pytest.raises(ImageChanged):
        resumed(reply)


@pytest.mark.parametrize(
    "reply",
    [
        answer(BODY, 'ETag: "1"'),
        part("Content-Range: bytes 4-15/16", etag=""),
        part("Content-Range: bytes 4-15/16", etag='ETag: W/"1"'),
        part("Content-Range: bytes */16", status="416 Range Not Satisfiable", data=b""),
        part(status="400 Bad Request", data=b""),
    ],
)
def test_a_server_that_cannot_begin_in_the_middle_is_told_apart(reply: bytes) -> None:
    with pytest.raises(RangeIgnored):
        resumed(reply)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (part(status="404 Not Found"), ImageNotFound),
        (part(status="403 Forbidden"), NotAuthorized),
        (part(status="503 Busy"), BackendError),
        (part("Content-Range: bytes 4-15/16", "Content-Encoding: gzip"), ImageChanged),
        (b"garbage\r\n", TransferError),
    ],
)
def test_other_errors_in_the_middle_are_what_they_are(reply: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        resumed(reply)


def test_a_head_that_lies_does_not_fool_get() -> None:
    for reply in (
        answer(BODY, "Content-Length: 17"),
        answer(b"", status="206 Partial Content"),
    ):
        with serving(reply) as server, pytest.raises(TransferError):
            make_backend().get(None, parse(f"{server.url}/x"))
