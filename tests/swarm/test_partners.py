"""Few connections bring a chunk to all hosts, and one that is slow is waited for."""

from __future__ import annotations

from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, LessThan

from imagebroker.swarm.chunks import Chunks
from imagebroker.swarm.clock import Clock
from imagebroker.swarm.plan import FETCHED, LATE, SILENT, SLOW, Layout, ahead, ring
from tests.swarm.test_claims import Clock as Hand

MIB = 1024 * 1024


@pytest.mark.parametrize("count", [2, 3, 4, 5, 16, 17, 64])
def test_a_chunk_reaches_everybody_over_few_connections(count: int) -> None:
    hosts = tuple(f"host{number}" for number in range(count))
    for chunk in range(5):
        order = ring(hosts, "image", chunk)
        links = {host: set(ahead(host, order)) for host in hosts}
        for one, others in list(links.items()):
            for other in others:
                links[other] = links[other] | {one}
        reached, steps = {hosts[0]}, 0
        while len(reached) < count:
            reached |= {far for near in reached for far in links[near]}
            steps += 1
            assert_that(steps, LessThan(9))
        assert_that(max(map(len, links.values())), LessThan(7))


@pytest.mark.parametrize("count", [2, 16])
def test_of_two_that_face_each_other_one_connects(count: int) -> None:
    hosts = tuple(f"host{number}" for number in range(count))
    order = ring(hosts, "image", 0)
    links = {host: set(ahead(host, order)) for host in hosts}
    both = [one for one, others in links.items() if any(one in links[each] for each in others)]
    assert_that(both, Equals([]))


def test_who_knows_nobody_connects_to_nobody() -> None:
    assert_that(ahead("a", ring(["a"], "image", 0)), Equals([]))


def test_a_process_that_had_no_turn_has_waited_for_nobody() -> None:
    hand = Hand()
    clock = Clock(0.1, hand)
    for now in (0.05, 0.1, 10.0, 10.05):
        hand.now = now
        clock.look()
    assert_that(round(clock(), 6), Equals(0.25))


def waiting(tmp_path: Path) -> tuple[Hand, Chunks]:
    """A host that fetches two chunks of one other host, and a third of another."""
    clock = Hand()
    chunks = Chunks(Layout(3 * MIB), 0, tmp_path, clock)
    for index, announcer in enumerate(["a", "a", "b"]):
        chunks.offered(index, [bytes(32)] * chunks.pieces_in(index), announcer)
        chunks.begin(index)
    return clock, chunks


def test_a_chunk_waits_while_anything_comes_from_others(tmp_path: Path) -> None:
    clock, chunks = waiting(tmp_path)
    while clock.now <= LATE:
        assert_that(chunks.unread(), Equals([]))
        clock.now += 1
        chunks.heard(0, int(clock.now))
    assert_that(chunks.unread(), Equals([1, 2]))


def test_where_nothing_comes_any_more_all_of_it_is_read(tmp_path: Path) -> None:
    clock, chunks = waiting(tmp_path)
    clock.now = 1.0
    chunks.heard(0, 1)
    clock.now += SILENT + 1
    assert_that(chunks.unread(), Equals([1, 2]))
    clock.now = SLOW + 2
    assert_that(chunks.unread(), Equals([0, 1, 2]))


def test_what_is_here_is_not_read_again_because_others_say_that_it_is_wrong(tmp_path: Path) -> None:
    _, chunks = waiting(tmp_path)
    chunks.arrived(0)
    for index in (0, 1):
        chunks.doubt(index)
    assert_that(chunks.unread(), Equals([1]))


def test_others_are_called_for_a_chunk_while_nothing_else_comes(tmp_path: Path) -> None:
    clock, chunks = waiting(tmp_path)
    clock.now = 2.0
    assert_that([chunks.is_due(0), chunks.is_due(0)], Equals([True, False]))
    chunks.heard(1, 1)
    clock.now = 4.0
    chunks.heard(1, 2)
    assert_that(chunks.is_due(2), Equals(False))
    clock.now = SLOW + 1
    chunks.heard(1, 3)
    assert_that(chunks.is_due(2), Equals(True))


def test_a_host_is_not_blamed_as_soon_as_its_chunk_is_read_elsewhere(tmp_path: Path) -> None:
    clock, chunks = waiting(tmp_path)
    clock.now = SILENT + 1
    assert_that(chunks.unread(), Equals([0, 1, 2]))
    assert_that(chunks.newly_stuck(), Equals([]))
    clock.now = 2 * SLOW + 1
    assert_that(chunks.newly_stuck(), Equals([(0, "a"), (1, "a"), (2, "b")]))


def test_a_silent_host_is_not_excused_by_who_reads_its_chunk_again(tmp_path: Path) -> None:
    clock, chunks = waiting(tmp_path)
    clock.now = 2 * SLOW + 1
    chunks.vouched(0, "c")
    chunks.heard(0, 1)
    chunks.vouched(2, "b")
    chunks.heard(2, 1)
    assert_that([chunks.silence(each) > LATE for each in "ab"], Equals([True, False]))


def test_a_host_that_comes_late_fetches_the_beginning_first(tmp_path: Path) -> None:
    layout = Layout(2 * FETCHED * MIB)
    chunks = Chunks(layout, 0, tmp_path, Hand())
    for index in reversed(range(layout.count)):
        chunks.offered(index, [bytes(32)] * chunks.pieces_in(index), "a")
    first = chunks.to_fetch()
    assert_that(first, Equals(list(range(FETCHED))))
    for index in first:
        chunks.begin(index)
    assert_that(chunks.to_fetch(), Equals([]))
    chunks.arrived(3)
    assert_that(chunks.to_fetch(), Equals([FETCHED]))
    assert_that(chunks.unread(), Equals([]))
