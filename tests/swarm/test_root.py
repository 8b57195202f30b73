"""Where a swarm is on, an image's record gets the root of its hash tree, at no second pass."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

import imagebroker
from imagebroker.model.image import TREE_ROOT, Image
from imagebroker.swarm import certificates, root, tree
from tests.bounds import HANGS
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.swarm.fleet import needs_libtorrent

MakeBroker = Callable[..., imagebroker.Broker]
KIB = 1024
#: Prints the root of each file whose name arrives, as libtorrent computes it.
_OF_LIBTORRENT = """
import sys, libtorrent as lt
for line in sys.stdin:
    folder, name = line.rstrip("\\n").rsplit("/", 1)
    made = lt.create_torrent(lt.list_files(folder + "/" + name), 16 * 1024,
                             lt.create_torrent.v2_only)
    lt.set_piece_hashes(made, folder)
    (file,) = made.generate()[b"info"][b"file tree"].values()
    print(file[b""][b"pieces root"].hex(), flush=True)
"""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], str]:
    """Libtorrent, in a process of its own: Ceph's library crashes in one that has it."""
    folder = tmp_path_factory.mktemp("oracle")
    running = subprocess.Popen(
        [sys.executable, "-c", _OF_LIBTORRENT], text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip

    def ask(data: bytes) -> str:
        (folder / "image").write_bytes(data)
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(f"{folder}/image\n")
        running.stdin.flush()
        return running.stdout.readline().strip()

    yield ask
    running.communicate(timeout=HANGS)


@needs_libtorrent
@settings(deadline=None, max_examples=50)
@given(
    size=st.one_of(
        st.integers(1, 600 * KIB),
        st.builds(lambda leaves, more: max(leaves * 16 * KIB + more, 1),
                  st.integers(0, 70), st.integers(-1, 1)),
    ),
    seed=st.integers(0, 3),
    cuts=st.lists(st.integers(997, 100 * KIB), min_size=1, max_size=5),
)  # fmt: skip
def test_libtorrent_computes_the_same_root_whatever_arrives_at_once(
    oracle: Callable[[bytes], str], size: int, seed: int, cuts: list[int]
) -> None:
    data = random.Random(seed).randbytes(size)
    found, at, turn = tree.Root(), 0, 0
    while at < size:
        found.update(memoryview(data)[at : at + cuts[turn % len(cuts)]])
        at += cuts[turn % len(cuts)]
        turn += 1
    assert_that(found.hexdigest(), Equals(oracle(data)))


def test_the_root_of_what_has_come_so_far_does_not_disturb_what_comes() -> None:
    data = random.Random(5).randbytes(300 * KIB)
    whole, looked_at = tree.Root(), tree.Root()
    whole.update(data)
    for at in range(0, len(data), 7777):
        looked_at.update(data[at : at + 7777])
        looked_at.hexdigest()
    assert_that(looked_at.hexdigest(), Equals(whole.hexdigest()))


@pytest.mark.parametrize("value", ["", "1220", "1220" + "g" * 64, "ab" * 34, "1220" + "AB" * 32, 5])
def test_what_is_no_root_is_not_taken_for_one(value: object) -> None:
    image = Image(ref="glance:x", properties={TREE_ROOT: value})
    assert_that(root.of(image), Equals(None))


# -- in records ------------------------------------------------------------------------------------


def configured(tmp_path: Path, *lines: str) -> str:
    certificates.init(tmp_path / "pki", ["one"])
    pki = tmp_path / "pki"
    return "\n".join([
        "[imagebroker]", "enabled_schemes = file, http, glance", "default_backend = file",
        "swarm = true", "swarm_address = 127.9.9.7", "swarm_members = 127.9.9.7",
        f"swarm_ca = {pki}/ca.pem", f"swarm_certificate = {pki}/one.pem",
        f"swarm_key = {pki}/one.key", f"swarm_dir = {tmp_path}/spool", *lines,
        "[backend:http]", "allowed_networks = 127.0.0.0/8",
        "[backend:file]", f"store_dir = {tmp_path}/store", f"allowed_paths = {tmp_path}", "",
    ])  # fmt: skip


def recorded(data: bytes) -> str:
    found = root.RecordedRoot()
    found.update(data)
    return found.hexdigest()


INFO = {"name": "one", "disk_format": "raw", "container_format": "bare"}
DATA = random.Random(7).randbytes(333_333)


@needs_libtorrent
def test_a_created_image_has_it_and_so_has_a_copy(make_broker: MakeBroker, tmp_path: Path) -> None:
    broker = make_broker(configured(tmp_path))
    made = broker.create(None, INFO, iter([DATA[:100_000], DATA[100_000:]]))
    assert_that(made.properties[TREE_ROOT], Equals(recorded(DATA)))
    assert_that(broker.get(None, made.ref).properties[TREE_ROOT], Equals(recorded(DATA)))
    (tmp_path / "plain.raw").write_bytes(DATA[:99_999])
    copied = broker.copy(None, f"file://{tmp_path}/plain.raw", INFO, backend="file")
    assert_that(copied.properties[TREE_ROOT], Equals(recorded(DATA[:99_999])))


@needs_libtorrent
def test_data_for_a_record_that_was_empty_brings_it(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker(configured(tmp_path))
    made = broker.create(None, INFO)
    broker.update(None, made.ref, {}, DATA)
    assert_that(broker.get(None, made.ref).properties[TREE_ROOT], Equals(recorded(DATA)))


def test_without_a_swarm_a_record_is_what_the_caller_wrote(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    plain = configured(tmp_path).replace("swarm = true", "swarm = false")
    made = make_broker(plain).create(None, INFO, DATA)
    assert_that(TREE_ROOT in made.properties, Equals(False))


@needs_libtorrent
def test_a_copy_that_is_unpacked_has_its_own(make_broker: MakeBroker, tmp_path: Path) -> None:
    import gzip

    broker = make_broker(configured(tmp_path))
    packed = gzip.compress(DATA)
    info = INFO | {"container_format": "compressed"}
    made = broker.create(None, info, packed, check_format=False)
    assert_that(made.properties[TREE_ROOT], Equals(recorded(packed)))
    copied = broker.copy(None, made.ref, backend="file", decompress="gzip")
    assert_that(copied.properties[TREE_ROOT], Equals(recorded(DATA)))


@needs_libtorrent
def test_a_download_from_glance_writes_it_where_the_caller_may(
    make_broker: MakeBroker, openstack: OpenStack, tmp_path: Path
) -> None:
    image_id = openstack.create_image(DATA, user="red", visibility="shared")
    lines = [f"[backend:glance]\nendpoint = {openstack.endpoint}/"]
    lines += [f"{k} = {v}" for k, v in openstack.auth_options("red").items()]
    quiet = configured(tmp_path) + "\n".join(lines)
    done = make_broker(quiet).download(None, f"glance:{image_id}", tmp_path / "a")
    assert_that(done.evidence, Not(Contains(TREE_ROOT)))
    assert_that(TREE_ROOT in openstack.call("red", "GET", f"/images/{image_id}"), Equals(False))
    telling = quiet.replace("swarm = true", "swarm = true\nswarm_store_root = true")
    done = make_broker(telling).download(None, f"glance:{image_id}", tmp_path / "b")
    assert_that(done.evidence[TREE_ROOT], Equals(recorded(DATA)))
    found = openstack.call("red", "GET", f"/images/{image_id}")
    assert_that(found[TREE_ROOT], Equals(recorded(DATA)))
    # Who may read it and not write it downloads as ever.
    openstack.call("red", "POST", f"/images/{image_id}/members", {
        "member": openstack.project_ids["blue"]})  # fmt: skip
    openstack.call("red", "PATCH", f"/images/{image_id}", [
        {"op": "remove", "path": f"/{TREE_ROOT}"}])  # fmt: skip
    blue = telling.replace("\n".join(lines[1:]), "\n".join(
        f"{k} = {v}" for k, v in openstack.auth_options("blue").items()))  # fmt: skip
    make_broker(blue).download(None, f"glance:{image_id}", tmp_path / "c")
    assert_that((tmp_path / "c").read_bytes() == DATA, Equals(True))


@needs_libtorrent
def test_several_ranges_that_come_out_of_order_have_the_same_root(
    make_broker: MakeBroker, nginx: Nginx, tmp_path: Path
) -> None:
    from imagebroker.config.tuning import Tuning

    data = random.Random(8).randbytes(6 << 20)
    (nginx.root / "root-of-ranges.raw").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    telling = configured(tmp_path).replace("swarm = true", "swarm = true\nswarm_store_root = true")
    broker = make_broker(telling, tuning=Tuning(parallel_from=1 << 20, observe=0.01))
    done = broker.download(
        None, nginx.url("root-of-ranges.raw"), tmp_path / "d", checksum=f"sha256:{digest}"
    )
    assert_that(done.evidence[TREE_ROOT], Equals(recorded(data)))
    assert_that(done.evidence, Contains("sha256"))
