"""The root in an image's record proves the layer of its chunks, and the layer names who lies."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.swarm import tree
from imagebroker.swarm.chunks import Chunks
from imagebroker.swarm.plan import Layout, gateway
from imagebroker.swarm.root import RecordedRoot
from tests.servers.openstack import OpenStack
from tests.swarm.fleet import Fleet, fleet, needs_libtorrent

__all__ = ["fleet"]

MIB = 1024 * 1024


def chunks_of(data: bytes, folder: Path, by: str | None = None) -> Chunks:
    """What a host knows when it has heard of all chunks of an image, or read them itself."""
    layout = Layout(len(data))
    found = Chunks(layout, 0, folder)
    for index in range(layout.count):
        start, stop = layout.span(index)
        pieces = tree.pieces([data[start:stop]], layout.piece)
        if by is None:
            found.keep_own(index, pieces)
        else:
            found.offered(index, pieces, by)
    return found


def layer_of(data: bytes, folder: Path) -> list[bytes]:
    nodes = chunks_of(data, folder).nodes()
    assert nodes is not None
    return nodes


_NEAR_CHUNKS = st.builds(
    lambda whole, more: max(whole * MIB + more, 1), st.integers(0, 6), st.integers(-17, 17)
)


@settings(deadline=None, max_examples=25)
@given(size=st.one_of(st.integers(1, 5 * MIB), _NEAR_CHUNKS))
def test_the_layer_of_chunks_is_below_the_root_of_the_whole(size: int) -> None:
    data = random.Random(size).randbytes(size)
    root = tree.Root()
    root.update(data)
    nodes = layer_of(data, Path("/nowhere"))
    assert_that(tree.above(nodes, Layout(size).chunk), Equals(root.digest()))


DATA = random.Random(3).randbytes(4 * MIB + 100)
WRONG = DATA[: 2 * MIB + 5] + b"!" + DATA[2 * MIB + 6 :]
if WRONG == DATA:
    WRONG = DATA[: 2 * MIB + 5] + b"?" + DATA[2 * MIB + 6 :]


def test_who_announced_another_chunk_than_the_layer_has_is_named(tmp_path: Path) -> None:
    heard = chunks_of(WRONG, tmp_path, by="liar")
    assert_that(heard.believe(layer_of(DATA, tmp_path)), Equals([(2, "liar")]))
    agreed = [heard.agrees(index, list(heard.pieces(index) or [])) for index in range(5)]
    assert_that(agreed, Equals([True, True, False, True, True]))


def test_the_backend_is_believed_before_the_record(tmp_path: Path) -> None:
    own = chunks_of(DATA, tmp_path)
    assert_that(own.believe(layer_of(WRONG, tmp_path)), Equals([]))
    assert_that(own.layer, Equals(None))
    heard = chunks_of(DATA, tmp_path, by="other")
    heard.believe(layer_of(DATA, tmp_path))
    heard.keep_own(2, list(chunks_of(WRONG, tmp_path).pieces(2) or []))
    assert_that(heard.layer, Equals(None))
    heard.believe(layer_of(DATA, tmp_path))
    assert_that(heard.layer, Equals(None))


@given(
    members=st.sets(st.text("abcdef0123456789", min_size=1, max_size=8), min_size=2, max_size=9),
    index=st.integers(0, 500),
)
def test_of_a_rack_one_gets_a_chunk_from_elsewhere_and_who_leaves_changes_little(
    members: set[str], index: int
) -> None:
    chosen = gateway(members, "topic", index)
    assert chosen in members
    for gone in members - {chosen}:
        assert_that(gateway(members - {gone}, "topic", index), Equals(chosen))


@needs_libtorrent
@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_who_has_an_image_proves_its_chunks_to_who_comes_later(
    fleet: Fleet, openstack: OpenStack
) -> None:
    root = RecordedRoot()
    root.update(DATA)
    image_id = openstack.create_image(DATA, imagebroker_btmh=root.hexdigest())
    options = [f"{name} = {value}" for name, value in openstack.auth_options("red").items()]
    glance = ["swarm_linger = 60", "[backend:glance]", f"endpoint = {openstack.endpoint}/"]
    first, second = fleet.with_list().hosts
    # Whoever comes later reads so slowly that most arrives from the other host.
    for host, limit in ((first, "1G"), (second, "256K")):
        host.configure(f"swarm_backend_limit = {limit}", *glance, *options)
        text = host.config.read_text().replace("= http\n", "= http, glance\n")
        host.config.write_text(text)
        host.command("download", f"glance:{image_id}", host.image)
        assert_that(host.wait(), Equals(0), host.output)
        assert_that(host.image.read_bytes() == DATA, Equals(True))
    assert_that(second.output, Contains("proven by the root in the record"))
