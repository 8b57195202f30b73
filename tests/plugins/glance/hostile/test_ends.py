"""A Glance that breaks off, stalls or trickles."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength, Is, IsInstance, MatchesAll, Not

from imagebroker.plugin import RangeIgnored, TransferError, TransferTimeout
from tests.bounds import HANGS, in_time
from tests.plugins.glance_stub import (
    DATA,
    REF,
    STALL,
    OneImage,
    Request,
    Stub,
    asking,
    caller,
    json_answer,
    opened,
    record,
)
from tests.servers.raw import Connection


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


@pytest.mark.promise("security-34")
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
        assert_that(time.monotonic() - began, in_time(STALL + 1))


def test_a_head_that_trickles_in_ends_too() -> None:
    def show(request: Request, connection: Connection) -> None:
        connection.send_slowly(json_answer(record()), STALL / 4)

    image = OneImage()
    image.show = show
    began = time.monotonic()
    with Stub(image) as stub, pytest.raises(TransferTimeout):
        asking(stub, stall=STALL).open(caller(), REF)
    assert_that(time.monotonic() - began, in_time(2 * STALL + 1))


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
    assert_that(time.monotonic() - began, in_time(3 * STALL + 1))


@pytest.mark.parametrize("after", [0, 10, 100_000])
def test_closing_ends_a_read_that_waits(after: int) -> None:
    image = OneImage()
    waiting = threading.Event()

    def file(request: Request, connection: Connection) -> None:
        connection.sendall(image.good_file(request)[:after])
        waiting.set()
        stub.closing.wait()

    image.file = file
    with Stub(image) as stub, opened(asking(stub, stall=2 * HANGS)) as source:
        failures: list[BaseException] = []

        def read() -> None:
            try:
                b"".join(source.read())
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        waiting.wait(HANGS)
        source.close()
        source.close()
        thread.join(HANGS)
        assert_that(thread.is_alive(), Is(False))
        assert_that(failures, MatchesAll(HasLength(1)))
        assert_that(failures[0], IsInstance(TransferError))


def test_an_abandoned_read_leaves_no_connection(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    ended = threading.Event()

    def file(request: Request, connection: Connection) -> None:
        connection.sendall(image.good_file(request)[:100_000])
        if connection.wait_for_close(HANGS):
            ended.set()

    image.file = file
    with opened(asking(stub)) as source, closing(source.read()) as chunks:
        next(chunks)
    assert_that(ended.wait(HANGS), Is(True))
