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
    Pace,
    StaggeredReads,
    gives_up,
    is_outpaced,
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
                id=f"host-{n:08x}", short_id=f"{n:08x}", sent=[], proven=True, stalled=set()
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
            clock=Clock(), trace=lambda text: None, progressed=lambda: None, parent=SimpleNamespace(send=ordered.append),
            chunks=SimpleNamespace(
                has=lambda index: False, grown=lambda index: 0, unread=lambda: list(range(64))
            ),
        )  # fmt: skip
        self.local = local
        self.picker = ChunkPicker(cast(Any, local), cast(Any, connected), local.clock)

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


def test_a_host_that_reads_several_times_slower_than_half_of_the_others_leaves_it_to_them() -> None:
    assert_that(is_outpaced(20.0, 1.0, [100.0, 100.0, 10.0]), Equals(True))
    assert_that(is_outpaced(30.0, 1.0, [100.0, 100.0, 10.0]), Equals(False))
    assert_that(is_outpaced(0.0, 1.0, []), Equals(False))


def test_who_has_most_of_a_chunk_reads_the_rest_because_others_would_begin_anew() -> None:
    assert_that(is_outpaced(10.0, 0.3, [100.0]), Equals(True))
    assert_that(is_outpaced(10.0, 0.1, [100.0]), Equals(False))


def test_what_counts_is_how_fast_a_host_reads_now() -> None:
    pace = Pace(0.0, 100)
    assert_that(pace.lately(2.0, 2100), Equals(None))
    assert_that(pace.lately(4.0, 4100), Equals(1000.0))
    assert_that(pace.lately(7.0, 4400), Equals(100.0))
    assert_that(pace.whole(8.0, 4900), Equals(600.0))
    assert_that(Pace(0.0, 100).whole(0.0, 4900), Equals(48000.0))  # so fast, at least


def test_a_pace_is_what_its_reader_has_measured_lately() -> None:
    clock = Clock()
    claims = Claims(clock)
    claims.heard(3, "a", 0)
    claims.heard(4, "own", 10, pace=3.0)
    claims.heard(5, "b", 10, pace=50.0)
    claims.heard(5, "c", 5, pace=70.0)  # who has less of it has a pace, too
    assert_that(sorted(claims.paces("own")), Equals([50.0, 70.0]))
    claims.ended(5)
    clock.now = 5.0
    claims.heard(3, "a", 20, whole=True, pace=700.0)
    assert_that(sorted(claims.paces("own")), Equals([50.0, 70.0, 700.0]))
    clock.now = 8.0
    claims.heard(6, "d", 20, pace=60.0)
    assert_that(sorted(claims.paces("own")), Equals([60.0, 700.0]))


def test_paces_are_kept_while_all_wait_for_one_host() -> None:
    clock = Clock()
    claims = Claims(clock)
    claims.heard(5, "a", 10, pace=50.0)
    claims.heard(6, "b", 10, pace=60.0)
    clock.now = 30.0  # both have read what there was
    assert_that(sorted(claims.paces("own")), Equals([50.0, 60.0]))
    claims.left("a")
    assert_that(claims.paces("own"), Equals([60.0]))


def test_a_chunk_that_its_reader_leaves_is_free_at_once() -> None:
    claims = Claims(Clock())
    claims.heard(3, "a", 10)
    assert_that(claims.released(3, "b"), Equals(False))
    assert_that(claims.released(3, "a"), Equals(True))
    assert_that(claims.standing(), Equals({}))
    claims.heard(4, "a", 10, whole=True)
    assert_that(claims.released(4, "a"), Equals(False))


@needs_libtorrent
def test_a_slow_reader_leaves_its_chunk_to_others_and_says_so() -> None:
    scene = Scene()
    scene.picker.ended(0)
    clock, read = scene.local.clock, 0
    while not (scene.ordered and scene.ordered[-1]["t"] == "stop"):
        clock.now += 0.25
        assert_that(clock.now < 30, Equals(True), scene.ordered)
        if not scene.picker.is_reading:
            scene.picker.decide()
            continue
        read += 1000
        scene.local.chunks.grown = lambda index, read=read: read
        if clock.now % 2 == 0:
            by = scene.peers[0].id
            claim = {"t": "claim", "i": 0, "by": by, "done": read, "told": "", "pace": 50_000}
            scene.picker.heard(cast(Any, scene.peers[0]), claim)
        scene.picker.watch()
    left = scene.ordered[-2]["first"]
    free = [each for each in scene.peers[1].sent if each.get("free")]
    assert_that([each["i"] for each in free], Equals([left]))


def test_who_reads_slowly_has_its_turn_after_all_others() -> None:
    hosts = ["a", "b", "c", "d"]
    assignment = Assignment(hosts, "image")
    own = assignment.reader(0)
    for last, turn in ((False, 0.0), (True, 1.2)):
        staggered, now = StaggeredReads(), 0.0
        while staggered.next(own, assignment, [0], (), now, last=last) is None:
            now = round(now + 0.1, 1)
        assert_that(now, Equals(turn))


@needs_libtorrent
def test_who_hears_that_a_chunk_is_free_passes_that_on_once() -> None:
    scene = Scene()
    scene.claim(3)
    free = {"t": "claim", "i": 9, "by": scene.peers[3].id, "done": 0, "told": "", "free": True}
    for _ in range(2):
        scene.picker.heard(cast(Any, scene.peers[0]), free)
    assert_that(scene.picker.claims.standing(), Equals({}))
    assert_that([each.count(free) for each in scene.sent], Equals([0, 1, 1, 0]))
