"""Framing that is ambiguous or endless is refused."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import LessThan

from imagebroker.plugin import TransferError
from tests.plugins.http.hostile.answers import BODY, CUT, failure, flooding, memory_below
from tests.plugins.http_peers import answer, chunked, fetched, read_answer, serving


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


@pytest.mark.promise("web-server-liberties")
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


@pytest.mark.promise("web-server-liberties")
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


@pytest.mark.promise("security-33")
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


@pytest.mark.promise("security-33")
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
    with theirs, ours:
        theirs.sendall(reply)
        theirs.shutdown(socket.SHUT_WR)
        ours.settimeout(5)
        message = ""
        try:
            status, body = read_answer(ours)
            assert_that(len(body), LessThan(len(reply)))
            assert 200 <= status <= 999
        except TransferError as error:
            message = str(error)
    assert message.isprintable()
