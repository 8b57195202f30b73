"""The hash tree is that of BEP 52, and every host cuts an image in the same way."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, LessThan

from imagebroker.swarm import tree
from imagebroker.swarm.plan import Assignment, Layout
from tests.bounds import HANGS
from tests.swarm.fleet import needs_libtorrent

KIB, MIB = 1024, 1024 * 1024

#: Prints what libtorrent makes of a file: its root, and the layer of its pieces.
_OF_LIBTORRENT = """
import sys, libtorrent as lt
folder = sys.argv[1]
made = lt.create_torrent(lt.list_files(folder + "/image"), 64 * 1024, lt.create_torrent.v2_only)
lt.set_piece_hashes(made, folder)
entry = made.generate()
(file,) = entry[b"info"][b"file tree"].values()
print(file[b""][b"pieces root"].hex())
print(b"".join(entry[b"piece layers"].values()).hex())
"""


@needs_libtorrent
@pytest.mark.parametrize(
    "size", [1, 16 * KIB, 16 * KIB + 1, 64 * KIB, 64 * KIB + 1, 200_000, MIB, 3 * MIB + 17]
)
def test_libtorrent_computes_the_same_root(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "image").write_bytes(data)
    # Not in this process: Ceph's library crashes in one that has libtorrent.
    done = subprocess.run(
        [sys.executable, "-c", _OF_LIBTORRENT, tmp_path],
        check=True, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    root, layers = map(bytes.fromhex, done.stdout.split("\n")[:2])
    digests = tree.leaves(data[at : at + 5000] for at in range(0, size, 5000))
    assert_that(tree.root_of_leaves(digests), Equals(root))
    if size > 64 * KIB:
        pieces = tree.layer(digests, 64 * KIB)
        assert_that(tree.root(pieces, 64 * KIB), Equals(root))
        assert_that(b"".join(pieces), Equals(layers))


@pytest.mark.parametrize("size", [1, MIB, 64 * MIB, 64 * MIB + 1, 300 * MIB, 40 << 30])
def test_chunks_cover_an_image_without_a_gap(size: int) -> None:
    layout = Layout(size)
    spans = [layout.span(index) for index in range(layout.count)]
    assert_that(spans[0][0], Equals(0))
    assert_that(spans[-1][1], Equals(size))
    assert_that([start for start, _ in spans[1:]], Equals([stop for _, stop in spans[:-1]]))
    assert_that([layout.index(start) for start, _ in spans], Equals(list(range(layout.count))))


def test_every_member_reads_as_much_as_any_other() -> None:
    members = [f"host{number}" for number in range(7)]
    assignment = Assignment(members, "topic")
    counted = Counter(assignment.reader(index) for index in range(70))
    assert_that(dict(counted), Equals(dict.fromkeys(members, 10)))


def test_all_members_come_to_the_same_deal_whatever_order_they_met_in() -> None:
    members = [f"host{number}" for number in range(9)]
    first, second = Assignment(members, "topic"), Assignment(list(reversed(members)), "topic")
    for index in range(100):
        assert_that(first.reader(index), Equals(second.reader(index)))


def test_two_images_are_assigned_in_different_ways() -> None:
    members = [f"host{number}" for number in range(9)]
    one, other = Assignment(members, "one"), Assignment(members, "other")
    same = sum(one.reader(index) == other.reader(index) for index in range(900))
    assert_that(same, GreaterThan(0))
    assert_that(same, LessThan(300))
