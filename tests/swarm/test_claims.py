"""Of hosts that read the same chunk one goes on, and the others hear of it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.swarm.claims import Claims
from imagebroker.swarm.plan import (
    READERS,
    WHOLE,
    Assignment,
    Layout,
    StaggeredReads,
    gives_up,
)
from tests.swarm.fleet import needs_libtorrent


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Connected(list[Any]):
    """Peers that may go."""

    on_removed: Any = None
    is_banned_id: Any = None


def test_a_claim_is_passed_on_once_and_again_when_it_is_repeated_later() -> None:
    clock = Clock()
    claims = Claims(clock)
    assert_that(claims.heard(3, "a", 10), Equals(True))
    assert_that(claims.heard(3, "a", 10), Equals(False))
    clock.now = 2.0
    assert_that(claims.heard(3, "a", 20), Equals(True))


def test_who_has_less_of_a_chunk_is_not_heard() -> None:
    claims = Claims(Clock())
    claims.heard(3, "a", 10)
    assert_that(claims.heard(3, "b", 5), Equals(False))
    assert_that(claims.standing(), Equals({3: (10, "a")}))
    assert_that(claims.heard(3, "c", 50), Equals(True))
    assert_that(claims.standing(), Equals({3: (50, "c")}))


class Scene:
    """A picker with four peers, and what these are sent."""

    def __init__(self) -> None:
        from imagebroker.swarm.picker import ChunkPicker

        self.banned: set[str] = set()
        self.peers = [
            SimpleNamespace(
                id=f"host-{n:08x}", short_id=f"{n:08x}", sent=[], proven=True, stalled=0
            )
            for n in range(4)
        ]
        for each in self.peers:
            each.send = each.sent.append
        connected = Connected(self.peers)
        connected.is_banned_id = self.banned.__contains__
        ordered: list[Any] = []
        self.ordered = ordered
        local = SimpleNamespace(
            start=SimpleNamespace(topic="image", opening=0, layout=Layout(64 << 20)), id="own",
            clock=Clock(), trace=lambda text: None, parent=SimpleNamespace(send=ordered.append),
            chunks=SimpleNamespace(
                has=lambda index: False, grown=lambda index: 0, unread=lambda: list(range(64))
            ),
        )  # fmt: skip
        self.local = local
        self.picker = ChunkPicker(cast(Any, local), cast(Any, connected))

    def claim(self, by: int, told: str = "") -> dict[str, Any]:
        """One that the first peer sends."""
        message = {"t": "claim", "i": 9, "by": self.peers[by].id, "done": 5, "told": told}
        self.picker.heard(cast(Any, self.peers[0]), message)
        return message

    @property
    def sent(self) -> list[Any]:
        return [each.sent for each in self.peers]


@needs_libtorrent
def test_a_claim_is_passed_on_to_those_that_have_not_heard_it_from_the_reader() -> None:
    scene = Scene()
    claim = scene.claim(0, told=scene.peers[1].short_id)
    assert_that(scene.sent, Equals([[], [], [claim], [claim]]))


@needs_libtorrent
def test_what_a_host_says_that_was_left_out_is_not_heard_from_others_either() -> None:
    scene = Scene()
    scene.banned.add(scene.peers[3].id)
    scene.claim(3)
    assert_that(scene.sent, Equals([[], [], [], []]))
    assert_that(scene.picker.claims.standing(), Equals({}))


@needs_libtorrent
def test_a_host_that_has_left_the_swarm_claims_nothing() -> None:
    scene = Scene()
    scene.picker.ended(0)
    for now in range(20):
        scene.local.clock.now = float(now)
        scene.picker.decide()
    assert_that([each["t"] for each in scene.ordered], Equals(["read"]))
    scene.picker.ended(1)
    scene.picker.stop()
    scene.picker.decide()
    assert_that([each["t"] for each in scene.ordered], Equals(["read"]))
    assert_that(scene.picker.is_reading, Equals(False))


def test_a_claim_of_a_host_that_is_silent_or_gone_is_void() -> None:
    clock = Clock()
    claims = Claims(clock)
    claims.heard(3, "a", 10)
    claims.heard(4, "b", 10)
    claims.left("b")
    assert_that(claims.standing(), Equals({3: (10, "a")}))
    clock.now = 7.0
    assert_that(claims.standing(), Equals({}))


def test_no_claim_stands_for_ever() -> None:
    clock = Clock()
    claims = Claims(clock)
    for second in range(70):
        clock.now = float(second)
        claims.heard(3, "a", second)
    assert_that(claims.standing(), Equals({}))


def test_of_those_at_one_chunk_exactly_one_goes_on() -> None:
    hosts = {"a": 5, "b": 9, "c": 9, "d": 0}
    left = [
        own
        for own, done in hosts.items()
        if not any(
            gives_up(own, 3, done, {3: (other_done, other)})
            for other, other_done in hosts.items()
            if other != own
        )
    ]
    assert_that(left, Equals(["c"]))


def test_no_more_than_the_readers_go_on() -> None:
    reading = {index: (0, f"host{index}") for index in range(3 * READERS)}
    left = [
        index
        for index, (done, own) in reading.items()
        if not gives_up(own, index, done, {k: v for k, v in reading.items() if k != index})
    ]
    assert_that(left, Equals(list(itertools.islice(reading, READERS))))


def test_a_chunk_that_was_read_is_left_alone_until_it_is_seen() -> None:
    clock = Clock()
    claims = Claims(clock)
    claims.heard(3, "a", 10)
    assert_that(claims.heard(3, "a", 20, whole=True), Equals(True))
    assert_that(claims.heard(3, "a", 20, whole=True), Equals(False))
    assert_that(claims.reading(), Equals({}))
    clock.now = WHOLE - 1
    assert_that(claims.standing(), Equals({3: (20, "a")}))
    clock.now = WHOLE + 1
    assert_that(claims.standing(), Equals({}))


def test_hosts_that_are_free_at_the_same_time_read_different_chunks() -> None:
    hosts = ["a", "b", "c", "d"]
    assignment, unread = Assignment(hosts, "image"), range(64)
    staggered = {host: StaggeredReads() for host in hosts}
    for host in hosts:
        staggered[host].next(host, assignment, unread, (), 0.0)
    # So late that each may read any of them.
    found = [staggered[host].next(host, assignment, unread, (), 5.0) for host in hosts]
    assert_that(len({each.start for each in found if each is not None}), Equals(len(hosts)))
