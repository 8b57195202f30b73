"""A list has an end, whatever the backend does: each way in which one could go on for ever."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is

from imagebroker.backends.backend import BackendHost, ImageBackend, Limits, Options
from imagebroker.backends.boundary import Boundary
from imagebroker.backends.declaration import Declaration
from imagebroker.backends.listing import ListLimits
from imagebroker.exceptions import (
    BackendError,
    Cancelled,
    ImageBrokerError,
    TooLarge,
    TransferTimeout,
)
from imagebroker.model.image import Image, ImageQuery
from imagebroker.model.reference import RefForm, parse
from imagebroker.policy.addresses import Policy, networks
from tests.bounds import HANGS

Listing = Callable[["Lists", ImageQuery], Any]


class Lists(ImageBackend):
    api_version = 1
    name = "lists"
    ref_form = RefForm(id=True)
    listing: Listing

    def open(self, context: Any, ref: Any) -> Any:
        raise NotImplementedError

    def get_all(self, context: Any, query: ImageQuery) -> Any:
        return type(self).listing(self, query)

    def purge(self, context: Any, older_than: float, dry_run: bool) -> Any:
        return type(self).listing(self, ImageQuery())


def boundary(
    listing: Listing, stall: float = 30.0, deadline: float = 60.0, **lists: int
) -> Boundary:
    cls = type("Lists", (Lists,), {"listing": listing})
    limits = Limits(0.05, stall, lists=ListLimits(deadline, **lists))
    policy = Policy(allowed_networks=networks(["127.0.0.0/8"]))
    host = BackendHost(name="lists", options=Options({}), limits=limits, policy=policy)
    return Boundary(Declaration.of(cls), host, "lists 1.0")


def image(number: int, **fields: Any) -> Image:
    return Image(ref=f"lists:{number}", **fields)


def endless(backend: Lists, query: ImageQuery) -> Iterator[Image]:
    number = 0
    while True:
        yield image(number)
        number += 1


def taken(images: Iterator[Image]) -> tuple[list[Image], ImageBrokerError]:
    """What came, and what ended it."""
    found = []
    with pytest.raises(ImageBrokerError) as caught:
        for each in images:
            found.append(each)
    return found, caught.value


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_no_more_images_come_than_are_allowed_and_that_is_said() -> None:
    found, error = taken(boundary(endless, records=10).get_all(None, ImageQuery()))
    assert_that((type(error), len(found)), Equals((TooLarge, 10)))
    assert_that(error.hint, Contains("list_max_records"))


def test_a_list_that_just_fits_ends_as_it_should() -> None:
    def ten(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        return iter([image(number) for number in range(10)])

    assert_that(list(boundary(ten, records=10).get_all(None, ImageQuery())), HasLength(10))


def test_a_plugin_that_knows_no_limit_does_not_yield_more_than_was_asked_for() -> None:
    query = ImageQuery(limit=3)
    assert_that(list(boundary(endless).get_all(None, query)), HasLength(3))


@pytest.mark.promise("security-33")
def test_records_are_weighed_whatever_they_are_made_of() -> None:
    for fields in (
        {"name": "x" * 100_000},
        {"properties": {"a": {"b": ["x" * 100_000]}}},
        {"tags": tuple(f"{number:0100}" for number in range(1000))},
        {"min_ram": 1 << 800_000},
    ):

        def heavy(backend: Lists, query: ImageQuery, fields: Any = fields) -> Iterator[Image]:
            return (image(number, **fields) for number in range(1000))

        found, error = taken(boundary(heavy, size=1_000_000).get_all(None, ImageQuery()))
        assert_that((type(error), 7 <= len(found) < 10), Equals((TooLarge, True)))
        assert_that(error.hint, Contains("list_max_size"))


def test_one_record_that_is_far_too_large_costs_itself_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    itself: dict[str, Any] = {}
    itself["again"] = itself

    def odd(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        yield image(1)
        yield image(2, name="x" * (100 << 20))
        yield image(3, properties=itself)
        yield image(4)

    found = list(boundary(odd).get_all(None, ImageQuery()))
    assert_that([each.ref for each in found], Equals(["lists:1", "lists:4"]))
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert_that(warned[0], Contains("lists:2"))


def test_a_record_with_nonsense_costs_itself_only(caplog: pytest.LogCaptureFixture) -> None:
    def odd(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        yield image(1, size=-1)
        yield image(2, size="5")
        yield image(3)

    found = list(boundary(odd).get_all(None, ImageQuery()))
    assert_that([each.ref for each in found], Equals(["lists:3"]))
    assert_that(caplog.text, Contains("lists:1"))


def test_what_is_left_out_counts_so_that_it_has_an_end() -> None:
    def heavy(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        while True:
            yield image(1, name="x" * (2 << 20))

    found, error = taken(boundary(heavy, records=20).get_all(None, ImageQuery()))
    assert_that((found, type(error)), Equals(([], TooLarge)))


@pytest.mark.promise("C20")
def test_a_plugin_that_spins_without_yielding_is_given_up(tmp_path: Any) -> None:
    running = threading.Event()

    def spins(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        yield image(1)
        while not running.is_set():
            time.sleep(0.001)

    found, error = taken(boundary(spins, stall=0.05).get_all(None, ImageQuery()))
    running.set()
    assert_that((len(found), type(error)), Equals((1, TransferTimeout)))
    assert_that((error.retryable, "stall_timeout" in error.hint), Equals((True, True)))


def test_a_plugin_that_spins_before_it_answers_is_given_up() -> None:
    running = threading.Event()

    def spins(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        running.wait(HANGS)
        return iter(())

    with pytest.raises(TransferTimeout):
        boundary(spins, stall=0.05).get_all(None, ImageQuery())
    running.set()


def test_a_backend_that_takes_long_for_each_image_meets_the_deadline() -> None:
    def slow(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        while True:
            time.sleep(0.05)
            yield image(1)

    found, error = taken(boundary(slow, deadline=0.5).get_all(None, ImageQuery()))
    assert_that((type(error), 0 < len(found) < 11), Equals((TransferTimeout, True)))
    assert_that((error.retryable, "list_deadline" in error.hint), Equals((False, True)))


def test_the_time_that_the_reader_takes_does_not_count() -> None:
    def few(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        return iter([image(number) for number in range(4)])

    for _ in boundary(few, deadline=0.2).get_all(None, ImageQuery()):
        time.sleep(0.1)


@pytest.mark.parametrize("reconnects", [False, True])
def test_what_an_abandoned_list_has_connected_is_shut_down_and_it_connects_no_more(
    reconnects: bool,
) -> None:
    """A server that sends something for ever, and a plugin that reads it for ever."""
    ended = threading.Event()

    def reads(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        try:
            while True:
                with backend.host.connect("127.0.0.1", server.port) as sock:
                    while sock.recv(1000):
                        pass
                if not reconnects:
                    break
            yield image(1)
        finally:
            ended.set()

    with Chatter() as server:
        _, error = taken(boundary(reads, stall=0.05).get_all(None, ImageQuery()))
        assert_that(type(error), Is(TransferTimeout))
        assert_that(ended.wait(30), Is(True))


class Chatter:
    """A server that sends for ever."""

    def __enter__(self) -> Chatter:
        import socket

        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def _serve(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._chat, args=(sock,), daemon=True).start()
        except OSError:
            pass

    def _chat(self, sock: Any) -> None:
        with sock:
            try:
                while True:
                    sock.sendall(b"." * 100)
                    time.sleep(0.01)
            except OSError:
                pass

    def __exit__(self, *exc_info: object) -> None:
        self._listener.close()


@pytest.mark.promise("C20")
def test_a_list_that_is_dropped_at_any_point_leaves_no_thread() -> None:
    closed: list[int] = []

    def noted(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        try:
            yield from (image(number) for number in range(5))
        finally:
            closed.append(1)

    guarded = boundary(noted)
    list(guarded.get_all(None, ImageQuery()))
    before = threads()
    for taking in range(6):
        images = guarded.get_all(None, ImageQuery())
        for _ in range(taking):
            next(images)
        del images
    with closing(guarded.get_all(None, ImageQuery())) as images:  # type: ignore[type-var]
        next(images)
    for _ in range(500):
        if threads() <= before and len(closed) == 7:
            break
        time.sleep(0.01)
    assert_that((threads() <= before, len(closed)), Equals((True, 7)))


def test_an_error_of_the_plugin_comes_after_the_images_before_it() -> None:
    def fails(backend: Lists, query: ImageQuery) -> Iterator[Image]:
        yield image(1)
        raise ValueError("odd")

    found, error = taken(boundary(fails).get_all(None, ImageQuery()))
    assert_that((len(found), type(error)), Equals((1, BackendError)))


def test_a_child_process_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    images = boundary(endless).get_all(None, ImageQuery())
    next(images)
    child = os.fork()
    if not child:
        try:
            next(images)
        except Cancelled:
            os._exit(0)
        os._exit(1)
    assert_that(os.waitpid(child, 0)[1], Equals(0))
    next(images)


def test_purge_has_the_same_limits() -> None:
    _, error = taken(boundary(endless, records=10).purge(None, 0.0, False))
    assert_that(type(error), Is(TooLarge))


def importing(plugin: Callable[[], Iterator[int]], waiting: Callable[[], Any]) -> list[int]:
    class Imports(Lists):
        def import_image(self, context: Any, ref: Any, *, url: Any, stores: Any) -> Iterator[int]:
            return plugin()

    limits = Limits(0.05, 30.0)
    host = BackendHost(name="lists", options=Options({}), limits=limits)
    guarded = Boundary(Declaration.of(Imports), host, "lists 1.0")
    ref = parse("lists:3f2504e0-4f89-11d3-9a0c-0305e82c3301")
    return list(guarded.import_image(None, ref, "http://h/x", (), waiting))


def test_an_import_that_hangs_is_left_when_its_caller_wants_to_and_not_before_it_has_begun() -> (
    None
):
    running, begun = threading.Event(), threading.Event()

    def hangs() -> Iterator[int]:
        time.sleep(0.5)
        begun.set()
        yield 0
        running.wait(HANGS)

    def impatient() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        importing(hangs, impatient)
    running.set()
    assert_that(begun.is_set(), Is(True))


def test_what_the_progress_of_an_import_raises_is_no_bug_of_the_plugin() -> None:
    def slow() -> Iterator[int]:
        yield 0
        time.sleep(0.5)
        yield 1

    def raising() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        importing(slow, raising)
