"""A Glance that lies about an image is found out."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is

from imagebroker.plugin import (
    BackendError,
    Gone,
    NotAuthorized,
    NotReady,
    PolicyViolation,
    RangeIgnored,
    TooLarge,
    TransferError,
)
from tests.plugins.glance_stub import (
    DATA,
    REF,
    TOKEN,
    OneImage,
    Request,
    Stub,
    answer,
    asking,
    caller,
    fetched,
    opened,
    record,
)
from tests.servers.raw import Connection


def test_the_bytes_of_a_good_server_arrive(glance: tuple[Stub, OneImage]) -> None:
    stub, _ = glance
    assert_that(fetched(asking(stub)), Equals(DATA))
    assert_that(stub.connections, HasLength(1))  # kept alive for show, data, show
    for request in stub.requests:
        assert_that(request.headers["x-auth-token"], Equals(TOKEN))
        assert_that(request.headers["accept-encoding"], Equals("identity"))


@pytest.mark.promise("no-bytes-of-others")
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


@pytest.mark.promise("security-17")
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


@pytest.mark.parametrize("length", ["+256000", "256000, 256001", "0x3e800", "-1", "lots"])
def test_an_odd_length_is_refused(glance: tuple[Stub, OneImage], length: str) -> None:
    stub, image = glance
    image.file = lambda request, _: answer(200, DATA, f"Content-Length: {length}", length=False)
    with opened(asking(stub)) as source, pytest.raises(TransferError):
        b"".join(source.read())
