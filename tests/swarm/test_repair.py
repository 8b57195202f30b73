"""An image that came in a swarm and has the wrong digest is not read again from the beginning."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.backends.backend import Buffer, ImageSource
from imagebroker.backends.opened_source import OpenedSource
from imagebroker.model.image import Image
from imagebroker.swarm import tree
from imagebroker.swarm.certificates import NAME
from imagebroker.swarm.plan import Layout
from imagebroker.swarm.repair import Announced, RepairedSource
from imagebroker.swarm.spool import Spool

MIB = 1024 * 1024
DATA = random.Random(3).randbytes(8 * MIB)
#: Chunk 0 was read from the backend.
TELLERS = {1: "a", 2: "b", 3: "c", 4: "a", 5: "b", 6: "c", 7: "c"}


class Backend(ImageSource):
    """Notes what is read."""

    seekable = True

    def __init__(self) -> None:
        self.image = Image(ref="http://host/image", size=len(DATA))
        self.chunks: list[int] = []

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        self.chunks.append(start // MIB)
        yield DATA[start:stop]


class Scene:
    """`wrong`: chunks of which others told, and sent, other bytes; `spoilt`: those that they sent
    as they are, and which are not on the disk like that; `begun`: those that were begun here before
    others sent them."""

    def __init__(
        self, folder: Path, wrong: set[int], *, missing: Collection[int] = (), spoilt: Collection[int] = (),
        begun: Collection[int] = (),
    ) -> None:  # fmt: skip
        self.backend, self.lied = Backend(), set[tuple[int, str]]()
        layout = Layout(len(DATA))
        spool = Spool(layout, folder)
        announced = {}
        for index in begun:
            fd = spool.begun(index)
            spool.append(index, fd, memoryview(DATA)[index * MIB : index * MIB + 1000])
            os.close(fd)
        for index in {0, *TELLERS}.difference(missing):
            data = bytearray(DATA[index * MIB : (index + 1) * MIB])
            data[7777] ^= index in wrong
            root = tree.root(tree.pieces([bytes(data)], layout.piece), layout.piece)
            data[7777] ^= index in spoilt
            if index in TELLERS:
                announced[index] = Announced(TELLERS[index], own=True, root=root)
            (folder / f"{index}-1").mkdir()
            (folder / f"{index}-1" / NAME).write_bytes(data)
            spool.arrived(index, f"{index}-1")
        self.repaired = RepairedSource(
            OpenedSource(self.backend, lambda verb: nullcontext()), spool, announced,
            ("sha256", hashlib.sha256(DATA).hexdigest()),
            lambda index, told: self.lied.add((index, told.by)), 60.0,
        )  # fmt: skip

    def read(self) -> bytes:
        return b"".join(bytes(each) for each in self.repaired.read())


def test_chunks_are_compared_up_to_the_liar_and_then_only_those_of_the_liar(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {5})
    assert_that(scene.read(), Equals(DATA))
    assert_that(scene.lied, Equals({(5, "b")}))
    assert_that(scene.backend.chunks, Equals([1, 2, 3, 4, 5]))


def test_what_else_a_liar_has_told_of_is_compared_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {1, 4})
    assert_that(scene.read(), Equals(DATA))
    assert_that(scene.lied, Equals({(1, "a"), (4, "a")}))
    assert_that(scene.backend.chunks, Equals([1, 4]))


@pytest.mark.parametrize("wrong", [set[int](), {2, 7}, {1, 2, 3, 4, 5, 6, 7}])
def test_the_bytes_are_those_of_the_backend_whoever_lied(tmp_path: Path, wrong: set[int]) -> None:
    scene = Scene(tmp_path, wrong)
    assert_that(scene.read(), Equals(DATA))
    assert_that({index for index, _ in scene.lied}, Equals(wrong))


def test_what_was_not_fetched_in_the_swarm_comes_from_the_backend(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {3}, missing={0, 1})
    assert_that(scene.read(), Equals(DATA))
    assert_that({who for _, who in scene.lied}, Equals({"c"}))


def test_who_sent_what_the_backend_has_is_not_named_for_what_went_wrong_here(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, {5}, spoilt={1})
    assert_that(scene.read(), Equals(DATA))
    assert_that(scene.lied, Equals({(5, "b")}))


def test_what_was_begun_here_before_others_sent_it_is_not_taken_for_theirs(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {5}, begun={1, 2})
    assert_that(scene.read(), Equals(DATA))
    assert_that(scene.lied, Equals({(5, "b")}))
