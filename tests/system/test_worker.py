"""A worker does what it is handed in order, and tells whoever hands it over what failed."""

from __future__ import annotations

import threading
import weakref

import pytest
from testtools import ExpectedException
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.system.worker import Worker


def test_items_are_worked_on_in_order() -> None:
    seen: list[int] = []
    worker = Worker(seen.append, "test")
    for number in range(1000):
        worker.add(number)
    worker.wait()
    worker.close()
    assert_that(seen, Equals(list(range(1000))))


def test_little_needs_no_thread() -> None:
    threads: set[int] = set()
    worker = Worker[bytes](
        lambda item: threads.add(threading.get_ident()), "test", size=len, inline=10
    )
    worker.add(b"12345")
    worker.add(b"12345")
    assert_that(threads, Equals({threading.get_ident()}))
    worker.add(b"1")
    worker.wait()
    worker.close()
    assert_that(len(threads), Equals(2))


def test_whoever_adds_waits_while_the_backlog_is_full() -> None:
    gate = threading.Event()
    worker = Worker[bytes](lambda item: gate.wait(), "test", size=len, backlog=10)
    for _ in range(3):
        worker.add(b"12345")
    adding = threading.Thread(target=worker.add, args=(b"12345",))
    adding.start()
    adding.join(0.2)
    assert_that(adding.is_alive(), Is(True))
    gate.set()
    adding.join(30)
    assert_that(adding.is_alive(), Is(False))
    worker.close()


@pytest.mark.parametrize("inline", [0, 100], ids=["in a thread", "without a thread"])
def test_a_failure_is_raised_until_it_is_dropped_and_nothing_is_worked_on_meanwhile(
    inline: int,
) -> None:
    seen: list[int] = []
    finished: list[int] = []

    def work(number: int) -> None:
        if number == 1:
            raise ValueError("no")
        seen.append(number)

    worker = Worker(work, "test", inline=inline, done=finished.append)
    for number in (0, 1):
        try:
            worker.add(number)
        except ValueError:
            assert_that(inline, Equals(100))
    with pytest.raises(ValueError, match="no"):
        worker.wait()
    with pytest.raises(ValueError, match="no"):
        worker.add(2)
    assert_that(seen, Equals([0]))
    worker.drop()
    worker.add(3)
    worker.wait()
    worker.close()
    assert_that(seen, Equals([0, 3]))
    assert_that([number for number in finished if number != 2], Equals([0, 1, 3]))


def test_closing_drops_what_nobody_works_on_yet() -> None:
    begun, gate = threading.Event(), threading.Event()
    finished: list[int] = []

    def work(number: int) -> None:
        begun.set()
        gate.wait()

    worker = Worker(work, "test", done=finished.append)
    for number in range(5):
        worker.add(number)
    assert_that(begun.wait(30), Is(True))
    assert_that(worker.pending(), Equals([0, 1, 2, 3, 4]))
    closing = threading.Thread(target=worker.close)
    closing.start()
    gate.set()
    closing.join(30)
    assert_that(sorted(finished), Equals([0, 1, 2, 3, 4]))
    assert_that(worker.pending(), Equals([]))


class Owner:
    """Owns a worker that works for it."""

    def __init__(self) -> None:
        self.worker = Worker(self.work, "test", done=self.work)

    def work(self, number: int) -> None:
        pass


def test_an_owner_is_freed_after_close() -> None:
    owner = Owner()
    owner.worker.add(1)
    owner.worker.close()
    freed = weakref.ref(owner)
    del owner
    assert_that(freed(), Is(None))


def test_what_is_added_after_close_is_refused() -> None:
    worker = Worker[int](lambda item: None, "test", inline=10)
    worker.close()
    with ExpectedException(RuntimeError, "it was added after close"):
        worker.add(1)
