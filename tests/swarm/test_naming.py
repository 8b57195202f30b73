"""Who lies is named; who was lied to, and has passed that on, is not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

from imagebroker.swarm import tree
from imagebroker.swarm.certificates import NAME
from imagebroker.swarm.chunks import Chunks
from imagebroker.swarm.exchange import Exchange
from imagebroker.swarm.peer import Peer
from imagebroker.swarm.peers import Peers
from imagebroker.swarm.plan import Layout
from tests.swarm.test_claims import Clock

MIB = 1024 * 1024
COUNT = 8


class Other:
    """A peer that has proven its right."""

    def __init__(self, name: str) -> None:
        self.id = self.fingerprint = self.title = self.ip = name
        self.hello = SimpleNamespace(rack="", libtorrent=1)
        self.proven, self.accepts, self.is_mutual = True, True, True
        self.offers = dict[int, Any]()
        self.stalled, self.spoiled = set[int](), set[int]()
        self.on, self.has, self.vouched = set[int](), set[int](), dict[int, bytes]()
        self.sent: list[Any] = []
        self.send = self.mention = self.sent.append
        self.closed = False

    vouch, vouches = cast(Any, Peer.vouch), cast(Any, Peer.vouches)

    def close(self) -> None:
        self.closed = True


class Scene:
    """A host with peers. `answers`: what its backend says to questions for a few bytes."""

    def __init__(self, folder: Path, *names: str, answers: Any = None) -> None:
        self.folder = folder
        self.named: list[tuple[str, str]] = []
        self.said: list[Any] = []
        self.discarded: list[int] = []
        #: Chunks, and the addresses from which libtorrent takes nothing more of them.
        self.banned: list[tuple[int, str]] = []
        #: Bytes of each chunk that libtorrent has.
        self.progress: dict[int, int] = {}
        #: Folders into which libtorrent was told to fetch.
        self.fetched: list[str] = []
        #: Chunks that libtorrent has since it was asked.
        self.finished: list[int] = []
        layout = Layout(COUNT * MIB)
        torrents = SimpleNamespace(
            has=lambda index: True, remove=lambda index: None, discard=self.discarded.append,
            seed=lambda index, pieces, folder: None,
            fetch=lambda index, pieces, folder: self.fetched.append(folder),
            connect=lambda *at: None, allow=lambda ips: None,
            unlink=lambda *at: None, unlink_all=lambda index: None, look_closer=lambda: None,
            progress=lambda index: self.progress.get(index, 0), finished=self._finished, banned=self._banned,
        )  # fmt: skip

        async def bytes_at(places: Any) -> Any:
            return None if answers is None else answers(places)

        self.clock = Clock()
        self.chunks = Chunks(layout, 0, folder, self.clock)
        self.local = SimpleNamespace(
            start=SimpleNamespace(layout=layout, first=0, topic="image", rack=""), id="own",
            chunks=self.chunks, torrents=torrents, trace=lambda text: None,
            progressed=lambda: None, begin=asyncio.run, left_out=lambda who, why: self.named.append((who, why)),
            parent=SimpleNamespace(send=self.said.append, bytes_at=bytes_at),
        )  # fmt: skip
        self.peers = Peers(cast(Any, self.local))
        self.others = {name: Other(name) for name in names}
        for each in self.others.values():
            self.peers.add(cast(Any, each))
        picker = SimpleNamespace(
            claims=SimpleNamespace(ended=lambda index: None), taken=set(),
            finished=lambda index: None,
        )  # fmt: skip
        self.exchange = Exchange(cast(Any, self.local), self.peers, cast(Any, picker))

    def _banned(self) -> list[tuple[int, str]]:
        banned, self.banned = self.banned, []
        return banned

    def _finished(self) -> list[int]:
        finished, self.finished = self.finished, []
        return finished

    def pieces(self, index: int, byte: int = 1) -> list[bytes]:
        return tree.pieces([bytes([byte]) * MIB], self.local.start.layout.piece)

    def told(self, name: str, index: int, byte: int = 1, *, own: bool) -> None:
        text = b"".join(self.pieces(index, byte)).hex()
        message = {"t": "chunk", "i": index, "pieces": text, "own": own}
        self.exchange.offered(cast(Any, self.others[name]), message)

    def here(self) -> list[str]:
        return sorted(each.id for each in self.peers)


@pytest.mark.parametrize("first", ["liar", "misled"])
def test_who_passes_on_what_a_liar_said_is_not_named_for_it(tmp_path: Path, first: str) -> None:
    scene = Scene(tmp_path, "liar", "misled")
    for name in (first, *({"liar", "misled"} - {first})):
        scene.told(name, 3, own=name == "liar")
    scene.exchange.wrong(3, scene.chunks.root(3))
    assert_that([who for who, _ in scene.named], Equals(["liar"]))
    assert_that(scene.here(), Equals(["misled"]))


def test_who_says_of_a_chunk_that_was_read_here_what_it_was_told_is_not_named(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, "liar", "misled")
    scene.chunks.keep_own(3, scene.pieces(3, byte=2))
    scene.told("misled", 3, own=False)
    assert_that(scene.named, Equals([]))
    scene.told("liar", 3, own=True)
    assert_that(scene.named, HasLength(1))
    assert_that(scene.named[0][1], Contains("other bytes in chunk 3 than the backend"))


def test_nor_where_the_record_says_otherwise(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "liar", "misled")
    scene.chunks.layer = [bytes(32)] * COUNT
    scene.told("misled", 3, own=False)
    assert_that(scene.named, Equals([]))
    scene.told("liar", 3, own=True)
    assert_that([who for who, _ in scene.named], Equals(["liar"]))


def test_who_passes_on_one_wrong_chunk_after_another_is_done_without(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "misled")
    for index in range(3):
        assert_that(scene.here(), Equals(["misled"]))
        scene.chunks.keep_own(index, scene.pieces(index, byte=2))
        scene.told("misled", index, own=False)
    assert_that(scene.here(), Equals([]))
    assert_that(scene.peers.is_banned("misled"), Equals(True))
    assert_that(scene.named, Equals([]))


def test_who_told_a_host_something_else_before_is_not_taken_for_who_told_it_this(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, "honest", "liar")
    scene.told("liar", 3, byte=1, own=True)
    scene.told("honest", 3, byte=2, own=True)
    scene.exchange.wrong(3, scene.chunks.root(3))
    assert_that([who for who, _ in scene.named], Equals(["liar"]))


def arrived(scene: Scene, index: int, data: bytes = b"\1" * MIB) -> None:
    """It came from who told of it first."""
    folder = scene.folder / scene.chunks.folder(index)
    folder.mkdir()
    (folder / NAME).write_bytes(data)
    scene.chunks.begin(index)
    scene.finished.append(index)
    scene.exchange.collect()


def test_what_could_not_be_compared_is_used_and_not_passed_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "one", "two")
    scene.told("one", 3, own=True)
    arrived(scene, 3)
    assert_that(scene.chunks.has(3), Equals(True))
    assert_that([each["t"] for each in scene.said], Equals(["got"]))
    told = [each for each in scene.others["two"].sent if each["t"] == "chunk"]
    assert_that(told, Equals([]))
    scene.exchange.confirmed()
    told = [each for each in scene.others["two"].sent if each["t"] == "chunk"]
    assert_that([(each["i"], each["own"]) for each in told], Equals([(3, False)]))


def test_every_chunk_of_who_was_misled_is_compared_until_one_is_right(tmp_path: Path) -> None:
    wrong = True
    asked: list[int] = []

    def answers(places: Any) -> list[bytes]:
        asked.append(places[0][0] // MIB)
        return [(b"\2" if wrong else b"\1") * size for _, size in places]

    scene = Scene(tmp_path, "misled", answers=answers)
    for index in (3, 4):
        scene.told("misled", index, own=False)
        arrived(scene, index)
        assert_that(scene.chunks.has(index), Equals(False))
    wrong = False
    scene.told("misled", 5, own=False)
    arrived(scene, 5)
    assert_that(scene.chunks.has(5), Equals(True))
    assert_that(asked, Equals([3, 4, 5]))
    assert_that(scene.named, Equals([]))


def test_nobody_is_named_for_what_went_wrong_on_the_way_to_this_disk(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "honest", answers=lambda places: [b"\1" * size for _, size in places])
    scene.told("honest", 3, own=True)
    arrived(scene, 3, data=b"\2" * MIB)
    assert_that(scene.chunks.has(3), Equals(False))
    assert_that((scene.named, scene.here()), Equals(([], ["honest"])))
    scene.told("honest", 3, own=True)
    arrived(scene, 3)
    assert_that(scene.chunks.has(3), Equals(True))


def test_what_was_given_up_and_is_fetched_again_lies_elsewhere(tmp_path: Path) -> None:
    """libtorrent may still write what it had of it."""
    scene = Scene(tmp_path, "liar", "honest")
    scene.told("liar", 3, byte=2, own=True)
    scene.peers.ban(cast(Any, scene.others["liar"]), "lies")
    assert_that(scene.discarded, Equals([3]))
    scene.told("honest", 3, own=True)
    assert_that(scene.fetched, HasLength(2))
    assert_that(set(scene.fetched), HasLength(2))
    (tmp_path / "own-3").write_bytes(b"\1" * MIB)
    scene.chunks.keep_own(3, scene.chunks.take_in(3))
    assert_that(scene.fetched, Not(Contains(scene.chunks.folder(3))))


def test_who_sends_nothing_of_what_it_says_is_named_and_who_is_slow_is_not(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "silent", "slow", "other")
    for index, name in enumerate(("silent", "silent", "silent", "slow", "slow", "slow")):
        scene.told(name, index, own=True)
    scene.told("other", 0, own=True)  # it has waited for long enough, and what comes is its own
    for now in (5, 15, 40):
        scene.clock.now = now
        scene.progress |= {0: now, 5: now}
        scene.exchange.watch()
    assert_that(scene.named, Equals([("silent", "does not send what it says it has")]))
    assert_that(scene.here(), Equals(["other", "slow"]))


def test_who_sends_wrong_bytes_of_two_chunks_is_named_and_of_one_is_not(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "liar", "honest")
    scene.banned = [(0, "honest"), (0, "liar"), (0, "honest")]
    scene.exchange.collect()
    assert_that(scene.named, Equals([]))
    scene.banned = [(2, "liar")]
    scene.exchange.collect()
    assert_that(scene.named, Equals([("liar", "sent wrong bytes")]))
    assert_that(scene.here(), Equals(["honest"]))


def test_who_is_slow_is_not_named_for_one_chunk_of_wrong_bytes(tmp_path: Path) -> None:
    """Two of its chunks are late, and libtorrent says once that it sent wrong bytes."""
    scene = Scene(tmp_path, "slow")
    for index in range(3):
        scene.told("slow", index, own=True)
    for now in (5, 15, 40):
        scene.clock.now = now
        scene.progress |= {2: now}
        scene.exchange.watch()
    assert_that(len(scene.others["slow"].stalled), Equals(2))
    scene.banned = [(2, "slow")]
    scene.exchange.collect()
    assert_that((scene.named, scene.here()), Equals(([], ["slow"])))


def test_what_was_read_here_meanwhile_is_not_held_against_who_says_the_same(tmp_path: Path) -> None:
    """A chunk of a liar is compared with the backend, while this host reads it."""
    scene = Scene(tmp_path, "liar", "honest", answers=lambda at: [b"\1" * size for _, size in at])
    scene.told("liar", 3, byte=2, own=True)
    compared = scene.chunks.in_folder

    def then_read(*what: Any) -> list[bytes]:
        found = compared(*what)
        (tmp_path / "own-3").write_bytes(b"\1" * MIB)
        scene.chunks.keep_own(3, scene.chunks.take_in(3))
        scene.told("honest", 3, own=True)
        return found

    scene.chunks.in_folder = then_read  # type: ignore[method-assign]
    arrived(scene, 3, data=b"\2" * MIB)
    assert_that([who for who, _ in scene.named], Equals(["liar"]))
    assert_that((scene.chunks.is_own(3), scene.discarded), Equals((True, [])))


def test_a_chunk_that_is_told_anew_is_not_wrong_because_the_one_before_was(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "liar", "honest")
    scene.told("liar", 3, byte=2, own=True)
    wrong = scene.chunks.root(3)
    scene.chunks.forget(3)
    scene.told("honest", 3, own=True)
    scene.exchange.wrong(3, wrong)
    assert_that((scene.named, scene.here()), Equals(([], ["honest", "liar"])))


def test_what_a_host_has_said_before_it_was_left_out_does_no_harm(tmp_path: Path) -> None:
    """Its answer to a challenge is read from a buffer after its connection has ended."""
    scene = Scene(tmp_path, "honest", "liar")
    scene.told("honest", 3, own=True)
    scene.peers.ban(cast(Any, scene.others["liar"]), "lies")
    scene.exchange.introduce(cast(Any, scene.others["liar"]))
    assert_that(scene.here(), Equals(["honest"]))
