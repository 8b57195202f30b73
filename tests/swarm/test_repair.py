"""An image that came in a swarm and has the wrong digest is not read again from the beginning."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.backends.backend import Buffer, ImageSource
from imagebroker.backends.opened_source import OpenedSource
from imagebroker.model.image import Image
from imagebroker.swarm.certificates import NAME
from imagebroker.swarm.plan import Layout
from imagebroker.swarm.repair import RepairedSource
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
    def __init__(self, folder: Path, wrong: set[int], *, missing: set[int]) -> None:
        self.backend, self.lied = Backend(), set[tuple[int, str]]()
        layout = Layout(len(DATA))
        spool = Spool(layout, folder)
        for index in {0, *TELLERS} - missing:
            (folder / str(index)).mkdir()
            data = bytearray(DATA[index * MIB : (index + 1) * MIB])
            if index in wrong:
                data[7777] ^= 1
            (folder / str(index) / NAME).write_bytes(data)
            spool.arrived(index)
        self.repaired = RepairedSource(
            OpenedSource(self.backend, lambda verb: nullcontext()), spool, TELLERS,
            ("sha256", hashlib.sha256(DATA).hexdigest()),
            lambda index, who: self.lied.add((index, who)), 60.0,
        )  # fmt: skip

    def read(self) -> bytes:
        return b"".join(bytes(each) for each in self.repaired.read())


def test_chunks_are_compared_up_to_the_liar_and_then_only_those_of_the_liar(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {5}, missing=set())
    assert_that(scene.read(), Equals(DATA))
    assert_that(scene.lied, Equals({(5, "b")}))
    assert_that(scene.backend.chunks, Equals([1, 2, 3, 4, 5]))


def test_what_else_a_liar_has_told_of_is_compared_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {1, 4}, missing=set())
    assert_that(scene.read(), Equals(DATA))
    assert_that(scene.lied, Equals({(1, "a"), (4, "a")}))
    assert_that(scene.backend.chunks, Equals([1, 4]))


@pytest.mark.parametrize("wrong", [set[int](), {2, 7}, {1, 2, 3, 4, 5, 6, 7}])
def test_the_bytes_are_those_of_the_backend_whoever_lied(tmp_path: Path, wrong: set[int]) -> None:
    scene = Scene(tmp_path, wrong, missing=set())
    assert_that(scene.read(), Equals(DATA))
    assert_that({index for index, _ in scene.lied}, Equals(wrong))


def test_what_was_not_fetched_in_the_swarm_comes_from_the_backend(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {3}, missing={0, 1})
    assert_that(scene.read(), Equals(DATA))
    assert_that({who for _, who in scene.lied}, Equals({"c"}))
