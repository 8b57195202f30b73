"""A block of received bytes is given out again when nobody shows it any more, and not before."""

from __future__ import annotations

import threading

from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.http.buffers import Buffers


def test_a_block_is_given_out_again_once_its_last_view_is_gone() -> None:
    buffers = Buffers(1000)
    view = buffers.take()
    block, piece = view.obj, view[10:20]
    del view
    assert_that(buffers.take().obj is block, Is(False))
    del piece
    assert_that(buffers.take().obj is block, Is(True))
    assert_that(len(buffers.take()), Equals(1000))


def test_two_threads_never_have_the_same_block() -> None:
    buffers, mixed = Buffers(64), []

    def use(mark: int) -> None:
        mine = bytes([mark]) * 64
        for _ in range(2000):
            view = buffers.take()
            view[:] = mine
            if bytes(view) != mine:
                mixed.append(mark)

    threads = [threading.Thread(target=use, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_that(mixed, Equals([]))


def test_blocks_that_were_cleared_are_freed_with_their_last_view() -> None:
    buffers = Buffers(1000)
    view = buffers.take()
    view[:4] = b"data"
    buffers.clear()
    assert_that(bytes(view[:4]), Equals(b"data"))
    assert_that(buffers.take().obj is view.obj, Is(False))
