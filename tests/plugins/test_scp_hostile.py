"""The scp backend against servers that lie, stall and break off."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagebroker_scp import packets, pipeline
from imagebroker_scp.messages import Fields, StatusError
from imagebroker_scp.sftp import Sftp
from testtools.assertions import assert_that
from testtools.matchers import Contains, EndsWith, Equals, GreaterThan, Is, LessThan, Not

from imagebroker.plugin import (
    Image,
    ImageBrokerError,
    ImageChanged,
    ImageData,
    ImageNotFound,
    ImageSource,
    NotAuthorized,
    PolicyViolation,
    TransferError,
    TransferTimeout,
    UnsupportedOperation,
    UploadFailed,
)
from tests.plugins import hostile_sftp, ssh_peer
from tests.plugins.hostile_sftp import HostileSftp, content
from tests.plugins.scp_peers import (
    STALL,
    fetched,
    make_backend,
    opened,
    public_key,
    ssh_threads,
)
from tests.servers.images import random_file
from tests.servers.raw import Connection, RawServer
from tests.servers.sshd import Sshd
from tests.servers.tcp import Fault, TcpProxy

KIB = 1024
MIB = 1024 * 1024


class Misbehaving:
    """A real sshd whose SFTP server follows a scenario."""

    def __init__(self, sshd: Sshd, scenario: Path) -> None:
        self.sshd = sshd
        self._scenario = scenario

    def fetched(self, *, stall: float = 10, **scenario: Any) -> bytes:
        with self.opened(stall=stall, **scenario) as source:
            return b"".join(map(bytes, source.read()))

    def store(self, data: bytes, **scenario: Any) -> Image:
        self._scenario.write_text(json.dumps({"fsync": True, "size": len(data), **scenario}))
        endpoint = [f"{self.sshd.url('/folder')}/"]
        backend = make_backend(self.sshd, stall=STALL, endpoint=endpoint)
        return backend.create(None, Image(ref="", name="new"), ImageData(data))

    def opened(self, *, stall: float = 10, **scenario: Any) -> AbstractContextManager[ImageSource]:
        self._scenario.write_text(json.dumps(scenario))
        return opened(self.sshd.url("/image"), make_backend(self.sshd, stall=stall))


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Misbehaving]:
    scenario = tmp_path_factory.mktemp("scenario") / "scenario.json"
    program = f"{sys.executable} -S -E {hostile_sftp.__file__} {scenario}"
    with Sshd(sftp=False, settings=[f"Subsystem sftp {program}"]) as server:
        yield Misbehaving(server, scenario)


def take(chunks: Iterable[Any], data: bytearray) -> None:
    """Append all chunks to `data`, until an error."""
    for chunk in chunks:
        data += chunk


# SFTP that lies


@pytest.mark.parametrize(
    "how", ["honest", "short first", "short each", "short at random", "shuffled"]
)
@pytest.mark.parametrize("limits", [None, [0, 0], [100_000, 0], [1 << 40, 1 << 40], [1, 1]])
def test_odd_but_honest_answers_give_the_right_bytes(
    misbehaving: Misbehaving, how: str, limits: list[int] | None
) -> None:
    scenario = {} if limits is None else {"limits": limits}
    data = misbehaving.fetched(reads=how, real_size=MIB + 1, **scenario)
    assert_that(data == content(MIB + 1), Is(True))


def test_one_byte_in_each_answer_is_read_in_linear_time(misbehaving: Misbehaving) -> None:
    data = misbehaving.fetched(reads="one byte each", real_size=20_000)
    assert_that(data == content(20_000), Is(True))


@pytest.mark.parametrize(
    "how",
    [
        "twice", "unknown id", "one byte more", "no bytes", "length lies", "wrong kind",
        "status ok", "failure", "huge packet", "cut", "eof early",
    ],
)  # fmt: skip
def test_answers_that_cannot_be_right_are_transfer_errors(
    misbehaving: Misbehaving, how: str
) -> None:
    with misbehaving.opened(reads=how) as source:
        data = bytearray()
        with pytest.raises(TransferError) as caught:
            take(source.read(), data)
    assert_that(content(MIB).startswith(data), Is(True))
    assert_that(ssh_threads(), Equals([]))
    assert_that(str(caught.value), Not(Contains("Traceback")))


@pytest.mark.parametrize(
    ("size", "real_size", "error"),
    [
        (MIB, 400 * KIB, TransferError),
        (400 * KIB, MIB, ImageChanged),
        (0, 400 * KIB, ImageChanged),
        (MIB, 0, TransferError),
        (2**63, 400 * KIB, TransferError),
    ],
)
def test_a_size_that_is_a_lie_is_found_out(
    misbehaving: Misbehaving, size: int, real_size: int, error: type[ImageBrokerError]
) -> None:
    with pytest.raises(error):
        misbehaving.fetched(size=size, real_size=real_size)


@pytest.mark.parametrize("size", [0, 1, 32 * KIB, 400 * KIB + 1])
@pytest.mark.parametrize("how", ["honest", "short each", "shuffled"])
def test_without_a_size_the_file_is_read_to_its_end(
    misbehaving: Misbehaving, size: int, how: str
) -> None:
    with misbehaving.opened(no_attributes=True, real_size=size, reads=how) as source:
        assert_that(source.image.size, Is(None))
        assert_that(source.image.updated_at, Is(None))
        data = b"".join(map(bytes, source.read()))
    assert_that(data == content(size), Is(True))


def test_data_behind_an_end_that_was_announced_is_an_error(misbehaving: Misbehaving) -> None:
    with pytest.raises(TransferError):
        misbehaving.fetched(no_attributes=True, reads="data after the end")


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ({"status_at": {"17": 2}}, ImageNotFound),
        ({"status_at": {"17": 3}}, NotAuthorized),
        ({"status_at": {"3": 3}}, NotAuthorized),
        ({"status_at": {"17": 4}}, TransferError),
        ({"status_at": {"17": 8}}, UnsupportedOperation),
        ({"status_at": {"17": 0}}, TransferError),
        ({"status_at": {"17": 2**32 - 1}}, TransferError),
        ({"raw_at": {"17": "0000000565ID"}}, TransferError),  # a status without a code
        ({"raw_at": {"17": "0000000969ID0000000f"}}, TransferError),
        ({"raw_at": {"17": "0000000d69ID80000000ffffffff"}}, TransferError),
        ({"raw_at": {"17": "00000009690000000000000000"}}, TransferError),
        ({"raw_at": {"17": "00000000"}}, TransferError),
        ({"raw_at": {"17": "00040001"}}, TransferError),
        ({"raw_at": {"3": "0000000966ID00000000"}}, TransferError),  # an empty handle
        ({"raw_at": {"3": "0000000d66IDffffffff41414141"}}, TransferError),
        ({"mode": 0o040755}, PolicyViolation),
        ({"mode": 0o010644}, PolicyViolation),
        ({"mode": 0o020644}, PolicyViolation),
        ({"mode": 0o140644}, PolicyViolation),
        ({"version": 2}, TransferError),
        ({"greeting": "Welcome! You have mail.\n"}, TransferError),
        ({"greeting": "\0\0\0\5\1\0\0\0\3"}, TransferError),
        ({"greeting": "\0\0\0\5\2"}, TransferError),
        ({"limits": [0, 0], "raw_at": {"200": "00000005c9ID"}}, TransferError),
        ({"end_at": 1}, TransferError),
        ({"end_at": 17}, TransferError),
        ({"end_at": 5}, TransferError),
        ({"end_at": 8}, TransferError),
    ],
    ids=str,
)
def test_nonsense_outside_of_data_is_an_error_of_the_right_kind(
    misbehaving: Misbehaving, scenario: dict[str, Any], error: type[ImageBrokerError]
) -> None:
    stall = STALL if "greeting" in scenario else 10
    with pytest.raises(error) as caught:
        misbehaving.fetched(stall=stall, **scenario)
    assert_that(caught.value.hint, Not(Equals("")))
    assert_that(isinstance(caught.value, TransferTimeout) and "greeting" not in scenario, Is(False))
    assert_that(ssh_threads(), Equals([]))


def test_what_a_server_says_is_shown_on_one_short_line(misbehaving: Misbehaving) -> None:
    text = "\x1b[31mred\r\nInjected: line\0 \udcff" + "long " * 40_000
    with pytest.raises(TransferError) as caught:
        misbehaving.fetched(status_at={"17": 4}, status_text=text)
    shown = str(caught.value)
    assert_that(len(shown), LessThan(600))
    assert_that(shown.isprintable(), Is(True))
    assert_that(shown, Contains("red"))


@pytest.mark.parametrize("kind", [1, 17, 3, 8, 5, 200])
def test_a_stall_at_any_question_ends_within_the_limit(misbehaving: Misbehaving, kind: int) -> None:
    began = time.monotonic()
    with pytest.raises(TransferTimeout):
        misbehaving.fetched(stall_at=kind, limits=[0, 0], stall=STALL)
    assert_that(time.monotonic() - began, LessThan(STALL + 1 + 1))  # and the time to log in
    assert_that(ssh_threads(), Equals([]))


def test_a_stall_in_the_middle_of_the_data_ends_within_the_limit(
    misbehaving: Misbehaving,
) -> None:
    with misbehaving.opened(reads="stall", stall=STALL) as source:
        reading = source.read()
        next(reading)
        began = time.monotonic()
        with pytest.raises(TransferTimeout):
            for _ in reading:
                pass
    assert_that(time.monotonic() - began, LessThan(STALL + 1))


def test_close_from_another_thread_ends_a_read_that_waits(misbehaving: Misbehaving) -> None:
    with misbehaving.opened(reads="stall", stall=STALL) as source:
        reading = source.read()
        next(reading)
        threading.Timer(0.2, source.close).start()
        began = time.monotonic()
        with pytest.raises(TransferError):
            for _ in reading:
                pass
    assert_that(time.monotonic() - began, LessThan(STALL))
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ({"status_at": {"17": 2, "7": 2, "6": 4}}, UploadFailed),  # the disk is full
        ({"status_at": {"7": 2, "200": 4}}, UploadFailed),  # fsync fails
        ({"status_at": {"7": 2, "4": 4}}, UploadFailed),  # close fails: NFS
        ({"status_at": {"7": 2}, "size": 3}, UploadFailed),  # less arrived than was sent
        ({"status_at": {"7": 2, "6": 3}}, NotAuthorized),
        ({"status_at": {"7": 2}, "end_at": 6}, UploadFailed),
        ({"status_at": {"7": 2}, "stall_at": 6}, UploadFailed),
        ({"status_at": {"7": 2}, "raw_at": {"6": "00000009" "65" "00000000" "00000000"}},
         UploadFailed),
        ({"status_at": {"7": 0}}, TransferError),
    ],
    ids=str,
)  # fmt: skip
def test_a_server_that_does_not_store_is_an_error_of_the_right_kind(
    misbehaving: Misbehaving, scenario: dict[str, Any], error: type[ImageBrokerError]
) -> None:
    with pytest.raises(error) as caught:
        misbehaving.store(b"x" * 300_000, **scenario)
    assert_that(caught.value.hint, Not(Equals("")))
    assert_that(ssh_threads(), Equals([]))


def test_what_could_not_be_removed_is_named(misbehaving: Misbehaving) -> None:
    with pytest.raises(UploadFailed) as caught:
        misbehaving.store(b"x", status_at={"7": 2, "6": 4, "13": 4})
    assert_that(caught.value.image_id, EndsWith(".imagebroker-part"))


# The pipeline alone, at high speed


class Wire:
    """A stream to a server in the same thread, which hands out bytes in pieces of any size."""

    def __init__(self, server: HostileSftp, piece: Callable[[], int] = lambda: 1 << 20) -> None:
        self._server = server
        self._piece = piece
        self._to_server = bytearray()
        self._from_server = bytearray()
        self.most = 0
        self.requests = 0

    def send(self, data: bytes) -> None:
        self._to_server += data
        while len(self._to_server) >= 4:
            length = int.from_bytes(self._to_server[:4], "big")
            if len(self._to_server) < 4 + length:
                return
            packet = bytes(self._to_server[4 : 4 + length])
            del self._to_server[: 4 + length]
            self.requests += 1
            for answer in self._server.answers(packet):
                self._from_server += answer
        self.most = max(self.most, len(self._from_server))

    def receive(self) -> bytes:
        if not self._from_server:
            self._from_server += self._server.flush()
        count = max(1, self._piece())
        data = bytes(self._from_server[:count])
        del self._from_server[:count]
        return data


HOW = st.sampled_from(
    ["honest", "short first", "short each", "short at random", "shuffled", "held back", "twice",
     "unknown id", "one byte more", "no bytes", "length lies", "wrong kind", "status ok",
     "failure", "huge packet", "eof early", "data after the end"]
)  # fmt: skip


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(
    how=HOW,
    size=st.integers(0, 700_000),
    start=st.integers(0, 700_000),
    length=st.none() | st.integers(0, 700_000),
    pieces=st.lists(st.integers(1, 300_000), min_size=1, max_size=20),
    limits=st.none() | st.tuples(st.integers(0, 1 << 20), st.just(0)),
    known=st.booleans(),
)
def test_bytes_are_right_and_in_place_or_there_is_an_error(
    how: str,
    size: int,
    start: int,
    length: int | None,
    pieces: list[int],
    limits: tuple[int, int] | None,
    known: bool,
) -> None:
    scenario: dict[str, Any] = {"real_size": size, "reads": how}
    if limits is not None:
        scenario["limits"] = limits
    turns = iter(pieces * 10_000)
    sftp = Sftp(Wire(HostileSftp(scenario), lambda: next(turns, 1 << 20)))
    start = min(start, size)
    stop = min(size, start + length) if length is not None else size if known else None
    data = bytearray()
    try:
        for chunk in pipeline.Reader(sftp, b"handle", start, stop):
            data += chunk
    except (TransferError, StatusError, pipeline.FileEnded):
        assert_that(how in ("honest", "short first", "short each", "short at random"), Is(False))
        expected = content(size)[start:stop]
        assert_that(expected.startswith(data), Is(True))
    else:
        whole = data == content(size)[start:stop]
        # Without a size there is nothing that could tell an early end from the real one.
        early = how in ("eof early", "data after the end") and stop is None
        prefix = content(size)[start:stop].startswith(data)
        assert_that(whole or (early and prefix), Is(True))


def test_a_transfer_needs_a_bounded_amount_of_memory() -> None:
    for how in ("honest", "short each", "short at random", "shuffled"):
        server = HostileSftp({"reads": how, "real_size": 24 * MIB, "limits": [1 << 18, 0]})
        sftp = Sftp(Wire(server))
        tracemalloc.start()
        try:
            for _ in pipeline.Reader(sftp, b"handle", 0, 24 * MIB if how != "short each" else MIB):
                pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # The wire in this process holds another window's worth.
        assert_that(peak, LessThan(2 * pipeline.WINDOW + 4 * MIB), how)


def test_requests_are_kept_under_way() -> None:
    wire = Wire(HostileSftp({"real_size": 4 * MIB}))
    reading = iter(pipeline.Reader(Sftp(wire), b"handle", 0, 4 * MIB))
    next(reading)
    assert_that(wire.requests, GreaterThan(pipeline.REQUESTS // 2))
    assert_that(wire.requests, LessThan(pipeline.REQUESTS + 3))


def test_what_has_arrived_of_a_slow_answer_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE", 0.0)
    wire = Wire(HostileSftp({"real_size": 64 * KIB}), lambda: 1000)
    chunks = [bytes(c) for c in pipeline.Reader(Sftp(wire), b"handle", 0, 64 * KIB)]
    assert_that(b"".join(chunks) == content(64 * KIB), Is(True))
    assert_that(len(chunks), GreaterThan(60))


@settings(deadline=None, max_examples=200, database=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_as_fields_are_read_or_refused(data: bytes) -> None:
    for parse in (
        lambda: Fields(data).attributes(),
        lambda: list(Fields(data).names()),
        lambda: Fields(data).string(),
    ):
        try:
            parse()
        except TransferError:
            pass


# Connections that stall and break off, at any byte


@pytest.fixture
def proxied(sshd: Sshd, tmp_path: Path) -> Callable[[Fault], bytes]:
    """Fetches one file through a proxy with a fault."""
    image = random_file(tmp_path / "image", 100 * KIB)
    key = public_key(sshd.host_keys["ed25519"])
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:* {key}\n")
    backend = make_backend(sshd, stall=STALL, known_hosts=str(known))

    def fetch(fault: Fault) -> bytes:
        with TcpProxy("127.0.0.1", sshd.port, fault) as proxy:
            return fetched(f"scp://{sshd.user}@127.0.0.1:{proxy.port}{image}", backend)

    return fetch


def conversation_length(sshd: Sshd, tmp_path: Path) -> int:
    """How many bytes the server sends for the file of `proxied`."""
    with TcpProxy("127.0.0.1", sshd.port) as proxy:
        known = tmp_path / "known"
        known.write_text(f"[127.0.0.1]:* {public_key(sshd.host_keys['ed25519'])}\n")
        url = f"scp://{sshd.user}@127.0.0.1:{proxy.port}{tmp_path}/image"
        fetched(url, make_backend(sshd, known_hosts=str(known)))
        return proxy.received


def offsets(total: int, count: int) -> list[int]:
    """Places in a conversation: densely where the talk is, sparsely in the data."""
    talk = total - 100 * KIB
    early = [talk * step // count for step in range(count)]
    return sorted({0, 1, *early, talk + 50 * KIB, total - 400})


def test_a_stall_at_any_byte_ends_within_the_limit(
    sshd: Sshd, tmp_path: Path, proxied: Callable[[Fault], bytes]
) -> None:
    def stalled(offset: int) -> tuple[int, str, bool]:
        began = time.monotonic()
        try:
            proxied(Fault(stall_after=offset))
        except TransferTimeout:
            return offset, "timeout", time.monotonic() - began < STALL + 1 + 2
        except ImageBrokerError as error:
            return offset, repr(error), False
        return offset, "done", False

    places = offsets(conversation_length(sshd, tmp_path), 24)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(stalled, places))
    assert_that([each for each in outcomes if each[1:] != ("timeout", True)], Equals([]))
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_connection_that_ends_at_any_byte_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path, proxied: Callable[[Fault], bytes], reset: bool
) -> None:
    def cut(offset: int) -> tuple[int, str]:
        try:
            proxied(Fault(cut_after=offset, reset=reset))
        except TransferError as error:
            return offset, "" if error.hint and error.retryable else repr(error)
        except ImageBrokerError as error:
            return offset, repr(error)
        return offset, "done"

    places = offsets(conversation_length(sshd, tmp_path), 60)
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(cut, places))
    assert_that([each for each in outcomes if each[1]], Equals([]))
    assert_that(ssh_threads(), Equals([]))


def test_a_slow_connection_is_not_taken_for_a_dead_one(
    proxied: Callable[[Fault], bytes], tmp_path: Path
) -> None:
    data = proxied(Fault(rate=60_000))
    assert_that(data == (tmp_path / "image").read_bytes(), Is(True))


# SSH that lies


def fetch_from(
    kind: Callable[[Any], ssh_peer.Peer],
    sshd: Sshd,
    folder: Path,
    *,
    stall: float = 10,
    **options: Any,
) -> bytes:
    """The file that such a server has."""
    with ssh_peer.ssh_server(kind, folder) as (url, known):
        key = str(sshd.key)
        return fetched(
            f"{url}/image", make_backend(stall=stall, identity_file=key, **known, **options)
        )


def test_an_honest_peer_works(sshd: Sshd, tmp_path: Path) -> None:
    data = fetch_from(ssh_peer.Peer, sshd, tmp_path)
    assert_that(data == content(MIB), Is(True))


def test_a_server_without_strict_key_exchange_is_refused_by_default(
    sshd: Sshd, tmp_path: Path
) -> None:
    with pytest.raises(TransferError) as caught:
        fetch_from(ssh_peer.WithoutStrictKex, sshd, tmp_path)
    assert_that(caught.value.retryable, Is(False))
    assert_that(caught.value.hint, Contains("require_strict_kex"))
    data = fetch_from(ssh_peer.WithoutStrictKex, sshd, tmp_path, require_strict_kex=False)
    assert_that(data == content(MIB), Is(True))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (ssh_peer.IgnoredDuringKex, TransferError),
        (ssh_peer.AsksForPasswords, NotAuthorized),
        (ssh_peer.FloodsDuringAuthentication, TransferTimeout),
        (ssh_peer.AnnouncesExtensions, TransferError),
        (ssh_peer.AnnouncesAHugePacket, TransferError),
        (ssh_peer.Overflows, TransferError),
        (ssh_peer.OverflowsWithZeros, TransferError),
        (ssh_peer.NeverOpensTheWindow, TransferTimeout),
    ],
)
def test_what_no_server_should_do_is_an_error_within_the_limit(
    sshd: Sshd, tmp_path: Path, kind: type[ssh_peer.Peer], error: type[ImageBrokerError]
) -> None:
    began = time.monotonic()
    with pytest.raises(error) as caught:
        fetch_from(kind, sshd, tmp_path, stall=STALL)
    assert_that(caught.value.hint, Not(Equals("")))
    assert_that(time.monotonic() - began, LessThan(STALL + 1 + 1))


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (11, b"down for maintenance", TransferError),
        (11, "\x1b[31m\r\nInjected: \u202e\u0000".encode() + b"\xff" + b"long " * 20_000,
         TransferError),
        (11, b"x" * 1_000_000, TransferError),
        (2, b"Too many authentication failures", NotAuthorized),
        (14, b"No supported authentication methods available", NotAuthorized),
    ],
    ids=["plain", "nasty", "1 MB", "too many failures", "no methods"],
)  # fmt: skip
def test_what_a_server_says_when_it_disconnects_is_shown_in_short(
    sshd: Sshd, tmp_path: Path, code: int, text: bytes, error: type[ImageBrokerError],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    kind = type("Disconnecting", (ssh_peer.Disconnects,), {"code": code, "text": text})
    with caplog.at_level("DEBUG", logger="imagebroker_scp"), pytest.raises(error) as caught:
        fetch_from(kind, sshd, tmp_path)
    for shown in (str(caught.value), *(r.getMessage() for r in caplog.records
                                       if r.name.startswith("imagebroker"))):  # fmt: skip
        assert_that(len(shown), LessThan(1025))
        assert_that(shown.isprintable(), Is(True))


@pytest.mark.parametrize(
    "greeting",
    [
        b"SSH-1.99-old\r\n", b"SSH-1.5-older\r\n", b"SSH-2.0-\x1b[31mred\r\n",
        b"SSH-2.0-" + b"x" * 1000 + b"\r\n", b"x" * 10_000_000, b"line\r\n" * 100_000,
        b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\r\n" * 200, b"SSH-2.0-x\r\n" + b"\0" * 40,
        b"SSH-2.0-x\r\n" + b"\xff" * 40, b"SSH-2.0-x\r\n\0\0\0\x0c\x0a\x14" + b"\0" * 40,
        b"SSH-2.0-x\r\n\0\0\0\x0c\xff\x14" + b"\0" * 40, "SSH-2.0-é\r\n".encode("latin-1"),
    ],
    ids=lambda greeting: repr(greeting[:24]),
)  # fmt: skip
def test_a_greeting_that_is_not_ssh_2_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path, greeting: bytes
) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.sendall(greeting)

    with RawServer(script) as server:
        (tmp_path / "known").write_text(f"[127.0.0.1]:* {public_key(sshd.key)}\n")
        backend = make_backend(
            stall=STALL, known_hosts=str(tmp_path / "known"), identity_file=str(sshd.key)
        )
        with pytest.raises(TransferError) as caught:
            fetched(f"scp://u@127.0.0.1:{server.port}/x", backend)
    assert_that(str(caught.value).isprintable(), Is(True))
    assert_that(len(str(caught.value)), LessThan(600))
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.parametrize("line", [b"", b"SSH-2.0-x", b"hello\r\n", b"SSH-2.0-x\r\n\0\0\4\4"])
def test_a_trickle_instead_of_a_greeting_ends_within_the_limit(
    sshd: Sshd, tmp_path: Path, line: bytes
) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.sendall(line)
        connection.send_slowly(b"x" * 1000, 0.05)

    with RawServer(script) as server:
        (tmp_path / "known").write_text(f"[127.0.0.1]:* {public_key(sshd.key)}\n")
        backend = make_backend(
            stall=STALL, known_hosts=str(tmp_path / "known"), identity_file=str(sshd.key)
        )
        began = time.monotonic()
        with pytest.raises(TransferTimeout):
            fetched(f"scp://u@127.0.0.1:{server.port}/x", backend)
    assert_that(time.monotonic() - began, LessThan(STALL + 1))


# Key exchange in the middle of a transfer


def test_a_server_that_exchanges_keys_every_mebibyte_is_fine(tmp_path: Path) -> None:
    image = random_file(tmp_path / "image", 24 * MIB)
    with Sshd(settings=["RekeyLimit 1M", "LogLevel DEBUG1"]) as server:
        data = fetched(server.url(image), make_backend(server, stall=5))
        exchanges = server.log.read_text().count("SSH2_MSG_NEWKEYS received")
    assert_that(data == image.read_bytes(), Is(True))
    assert_that(exchanges, GreaterThan(4))


def test_our_own_key_exchanges_are_fine(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packets.Packets, "REKEY_BYTES", MIB)
    image = random_file(tmp_path / "image", 48 * MIB)
    data = fetched(sshd.url(image), make_backend(sshd, stall=5))
    assert_that(data == image.read_bytes(), Is(True))


def test_a_question_during_our_key_exchange_does_not_block_it(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packets.Packets, "REKEY_BYTES", MIB)
    data = fetch_from(ssh_peer.AsksDuringRekeying, sshd, tmp_path)
    assert_that(data == content(8 * MIB), Is(True))


def test_a_server_that_ignores_our_key_exchange_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packets.Packets, "REKEY_BYTES", MIB)
    began = time.monotonic()
    with pytest.raises(TransferError):
        fetch_from(ssh_peer.IgnoresRekeying, sshd, tmp_path, stall=STALL)
    assert_that(time.monotonic() - began, LessThan(STALL + 1 + 1))


def test_a_server_that_gives_up_gcm_in_a_key_exchange_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packets.Packets, "REKEY_BYTES", MIB)
    with pytest.raises(TransferError, match="gives up AES-GCM"):
        fetch_from(ssh_peer.GivesUpGcm, sshd, tmp_path)


def test_data_in_the_middle_of_a_key_exchange_are_a_transfer_error(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packets.Packets, "REKEY_BYTES", MIB)
    with pytest.raises(TransferError):
        fetch_from(ssh_peer.SendsDuringRekeying, sshd, tmp_path)


def test_a_packet_that_was_changed_on_its_way_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path
) -> None:
    image = random_file(tmp_path / "image", MIB)
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:* {public_key(sshd.host_keys['ed25519'])}\n")
    for place in (40_000, 500_000, 1_000_000):
        with altering_proxy(sshd.port, place) as port:
            with pytest.raises(TransferError) as caught:
                fetched(
                    f"scp://{sshd.user}@127.0.0.1:{port}{image}",
                    make_backend(sshd, stall=STALL, known_hosts=str(known)),
                )
            assert_that(caught.value.retryable, Is(True))
    assert_that(ssh_threads(), Equals([]))


@contextmanager
def altering_proxy(port: int, place: int) -> Iterator[int]:
    """The port of a proxy that flips one bit in what the server sends."""

    def script(connection: Connection, index: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:

            def upload() -> None:
                try:
                    while data := connection.recv(65536):
                        server.sendall(data)
                    server.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # one of them has hung up

            thread = threading.Thread(target=upload)
            thread.start()
            sent = 0
            try:
                while data := bytearray(server.recv(65536)):
                    if sent <= place < sent + len(data):
                        data[place - sent] ^= 1
                    connection.sendall(data)
                    sent += len(data)
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client has had enough
            thread.join()

    with RawServer(script) as proxy:
        yield proxy.port


slow = pytest.mark.skipif(
    os.environ.get("IMAGEBROKER_SLOW_TESTS") != "1",
    reason="moves 5 GiB: set IMAGEBROKER_SLOW_TESTS=1",
)


@pytest.mark.parametrize(
    ("gibibytes", "ours", "theirs"),
    [
        pytest.param(5, packets.Packets.REKEY_BYTES, "default", marks=slow),
        pytest.param(5, 1 << 29, "default", marks=slow),  # as often as paramiko by itself
        pytest.param(5, 1 << 25, "default", marks=slow),
        pytest.param(5, packets.Packets.REKEY_BYTES, "1M", marks=slow),
        pytest.param(5, 1 << 25, "16M", marks=slow),
        (0.25, 1 << 25, "16M"),
    ],
)
def test_gibibytes_come_over_one_connection_whoever_wants_new_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gibibytes: float, ours: int, theirs: str
) -> None:
    monkeypatch.setattr(packets.Packets, "REKEY_BYTES", ours)
    image, expected = marked_file(tmp_path / "image", int(gibibytes * 1024) * MIB)
    found = hashlib.sha256()
    settings = [f"RekeyLimit {theirs}", "LogLevel DEBUG1"]
    with Sshd(settings=settings) as server:
        with opened(server.url(image), make_backend(server)) as source:
            for piece in source.read():
                found.update(piece)
        exchanges = server.log.read_text().count("SSH2_MSG_NEWKEYS received")
    assert_that(found.hexdigest(), Equals(expected))
    assert_that(exchanges, GreaterThan(image.stat().st_size // (ours + 100 * MIB)))


def marked_file(path: Path, size: int) -> tuple[Path, str]:
    """A sparse file that is different in every MiB, and its sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, MIB):
            mark = offset.to_bytes(8, "big")
            file.seek(offset)
            file.write(mark)
            digest.update(mark + bytes(MIB - 8))
    return path, digest.hexdigest()
