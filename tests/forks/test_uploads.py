"""A child that is forked while data is uploaded cleans up after nobody, whosever plugin it is."""

from __future__ import annotations

import io
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

import imagebroker
from imagebroker.exceptions import Cancelled, UploadFailed
from tests.distributions import install
from tests.forks import shelf

INFO = {"name": "x", "disk_format": "raw"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setattr(shelf, "FOLDER", folder)
    shelf.CALLS.clear()
    shelf.WAITING.clear()
    return folder


@pytest.fixture
def broker(
    on_path: Path, folder: Path, make_broker: Callable[..., imagebroker.Broker]
) -> imagebroker.Broker:
    install(on_path, "imagebroker-shelf", {"shelf": "tests.forks.shelf:ShelfBackend"})
    return make_broker(
        "[imagebroker]\nenabled_schemes = shelf\n[backend:shelf]\nallowed_networks = 127.0.0.0/8\n"
    )


def exits() -> None:
    raise SystemExit(5)


def fails() -> None:
    raise ZeroDivisionError


def returns() -> None:
    pass


@pytest.mark.promise("C35", "forks")
@pytest.mark.parametrize(
    ("leave", "ends"), [(exits, SystemExit), (fails, ZeroDivisionError), (returns, Cancelled)]
)
@pytest.mark.parametrize("by", ["iterator", "file", "signal"])
def test_the_plugin_does_not_clean_up_in_a_child(
    broker: imagebroker.Broker, folder: Path, leave: Callable[[], None], ends: type[BaseException],
    by: str,
) -> None:  # fmt: skip
    parent, statuses = os.getpid(), list[int]()

    def fork(*ignored: Any) -> None:
        child = os.fork()
        if child == 0:
            leave()
        else:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    try:
        image = broker.create(None, INFO, SOURCES[by](fork), backend="shelf")
    except BaseException as error:
        if os.getpid() != parent:
            # What the child has called, and with which error it came back.
            os._exit(0 if isinstance(error, ends) and not shelf.CALLS else 1)
        raise
    assert_that(statuses, Equals([0]))
    assert_that(image.size, Equals(6))
    assert_that((folder / "stored").read_bytes(), Equals(b"onetwo"))
    assert_that(shelf.CALLS, Equals([]))


def by_iterator(fork: Callable[[], None]) -> Iterator[bytes]:
    yield b"one"
    fork()
    yield b"two"


def by_file(fork: Callable[[], None]) -> Any:
    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() == 3:
                fork()
            return super().read(3)

    return File(b"onetwo")


def by_signal(fork: Callable[[], None]) -> Iterator[bytes]:
    before = signal.signal(signal.SIGUSR1, fork)
    try:
        yield b"one"
        os.kill(os.getpid(), signal.SIGUSR1)
        yield b"two"
    finally:
        signal.signal(signal.SIGUSR1, before)


SOURCES: dict[str, Callable[..., Any]] = {
    "iterator": by_iterator, "file": by_file, "signal": by_signal,
}  # fmt: skip


@pytest.mark.promise("C35")
def test_a_backend_of_the_parents_is_not_even_finalized_in_a_child(
    broker: imagebroker.Broker,
) -> None:
    broker.create(None, INFO, b"one", backend="shelf")
    child = os.fork()
    if child == 0:
        broker.close()
        os._exit(len(shelf.CALLS))
    assert_that(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), Equals(0))


def test_an_interrupt_in_the_callers_data_has_the_plugin_undo_what_it_began(
    broker: imagebroker.Broker, folder: Path
) -> None:
    def data() -> Iterator[bytes]:
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broker.create(None, INFO, data(), backend="shelf")
    assert_that([*folder.iterdir()], Equals([]))
    assert_that(shelf.CALLS, Equals([("undo", os.getpid())]))


def test_an_interrupt_ends_a_plugin_that_waits_for_its_peer(
    broker: imagebroker.Broker, folder: Path
) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as server:
        (folder / "port").write_text(str(server.getsockname()[1]))
        before = signal.signal(signal.SIGUSR1, interrupt)
        try:
            threading.Thread(
                target=lambda: shelf.WAITING.wait() and os.kill(os.getpid(), signal.SIGUSR1)
            ).start()
            with pytest.raises(KeyboardInterrupt):
                broker.create(None, INFO | {"name": "slow"}, b"one", backend="shelf")
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert_that([each.name for each in folder.iterdir()], Equals(["port"]))


def test_a_source_that_fails_is_the_uploads_error_and_the_plugin_undoes(
    broker: imagebroker.Broker, folder: Path
) -> None:
    def data() -> Iterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    with pytest.raises(UploadFailed, match="ZeroDivisionError"):
        broker.create(None, INFO, data(), backend="shelf")
    assert_that([*folder.iterdir()], Equals([]))
