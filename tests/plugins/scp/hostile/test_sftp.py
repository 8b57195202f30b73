"""SFTP that lies is found out."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, EndsWith, Equals, Is, LessThan, Not

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
from tests.bounds import in_time
from tests.plugins import hostile_sftp
from tests.plugins.hostile_sftp import content
from tests.plugins.scp.hostile.fetching import KIB, MIB
from tests.plugins.scp_peers import STALL, make_backend, opened, ssh_threads
from tests.servers.sshd import Sshd


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
        # What does not stall has time, however busy the machine is.
        stall = STALL if "stall_at" in scenario else 30
        backend = make_backend(self.sshd, stall=stall, endpoint=endpoint)
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


@pytest.mark.promise("security-23")
def test_what_a_server_says_is_shown_on_one_short_line(misbehaving: Misbehaving) -> None:
    text = "\x1b[31mred\r\nInjected: line\0 \udcff" + "long " * 40_000
    with pytest.raises(TransferError) as caught:
        misbehaving.fetched(status_at={"17": 4}, status_text=text)
    shown = str(caught.value)
    assert_that(len(shown), LessThan(600))
    assert_that(shown.isprintable(), Is(True))
    assert_that(shown, Contains("red"))


@pytest.mark.promise("security-34")
@pytest.mark.parametrize("kind", [1, 17, 3, 8, 5, 200])
def test_a_stall_at_any_question_ends_within_the_limit(misbehaving: Misbehaving, kind: int) -> None:
    began = time.monotonic()
    with pytest.raises(TransferTimeout):
        misbehaving.fetched(stall_at=kind, limits=[0, 0], stall=STALL)
    assert_that(time.monotonic() - began, in_time(STALL + 1))  # and the time to log in
    assert_that(ssh_threads(), Equals([]))


def test_a_stall_in_the_middle_of_the_data_ends_within_the_limit(
    misbehaving: Misbehaving,
) -> None:
    with misbehaving.opened(reads="stall", stall=3 * STALL) as source:
        reading = source.read()
        next(reading)
        began = time.monotonic()
        with pytest.raises(TransferTimeout):
            for _ in reading:
                pass
    assert_that(time.monotonic() - began, in_time(3 * STALL))


def test_close_from_another_thread_ends_a_read_that_waits(misbehaving: Misbehaving) -> None:
    with misbehaving.opened(reads="stall", stall=60) as source:
        reading = source.read()
        next(reading)
        threading.Timer(0.2, source.close).start()
        began = time.monotonic()
        with pytest.raises(TransferError):
            for _ in reading:
                pass
    assert_that(time.monotonic() - began, in_time(1))  # the limit on stalls is a minute
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
