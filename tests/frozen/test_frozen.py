"""A plugin that was written for an older version of the plugin API goes on working."""

from __future__ import annotations

import hashlib
import random
import socketserver
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, MatchesAll, MatchesStructure

import imagebroker
from imagebroker.plugin import API_VERSION
from tests.distributions import install

#: The file of each published version, and the digest that it will always have.
FROZEN = {1: "eacad027633aed8183787af3855674645bab9852840c00d380ce25bd9d39cbb0"}
DATA = random.Random(1).randbytes(1_000_000)


class Server(socketserver.ThreadingTCPServer):
    """Sends an image, and breaks once in the middle."""

    daemon_threads = True
    breaks = 1
    starts: list[int]


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        path, start = self.rfile.readline().split()
        if path != b"/image":
            self.wfile.write(b"-\n")
            return
        self.server.starts.append(int(start))
        self.wfile.write(f"{len(DATA)} v1\n".encode())
        stop = len(DATA)
        if self.server.breaks:
            self.server.breaks -= 1
            stop = 300_000
        self.wfile.write(DATA[int(start) : stop])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as listening:
        listening.starts = []
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening
        listening.shutdown()


@pytest.fixture
def broker(on_path: Path, make_broker: Any, tmp_path: Path) -> imagebroker.Broker:
    install(
        on_path, "imagebroker-frozen1",
        {"frozen1": "tests.frozen.imagebroker_frozen1:Frozen1Backend"},
    )  # fmt: skip
    (tmp_path / "images").mkdir()
    broker: imagebroker.Broker = make_broker(
        "[imagebroker]\nenabled_schemes = frozen1\ndefault_backend = frozen1\nretry_backoff = 0\n"
        f"[backend:frozen1]\nfolder = {tmp_path}/images\nallowed_networks = 127.0.0.0/8\n"
    )
    return broker


@pytest.mark.parametrize("version", range(1, API_VERSION + 1))
def test_each_published_version_has_its_plugin_which_nobody_has_edited(version: int) -> None:
    path = Path(__file__).with_name(f"imagebroker_frozen{version}.py")
    assert_that(hashlib.sha256(path.read_bytes()).hexdigest(), Equals(FROZEN[version]))


def test_it_is_loaded_with_all_that_it_can_do(broker: imagebroker.Broker) -> None:
    [found] = [info for info in broker.backends() if info.scheme == "frozen1"]
    assert_that(
        found,
        MatchesStructure(
            problem=Equals(None),
            capabilities=Equals(("download", "get", "get_all", "create", "update", "delete")),
        ),
    )


@pytest.mark.promise("C3")
def test_its_records_and_bytes_go_through_every_verb(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    image_id = str(uuid.uuid4())
    made = broker.create(None, {"id": image_id, "name": "one"}, DATA)
    assert_that(made.ref, Equals(f"frozen1:{image_id}"))
    empty = broker.create(None, {"name": "two", "properties": {"a": "1", "b": "2"}})
    filled = broker.update(
        None, empty.ref, {"name": "three", "properties": {"a": None}}, DATA[:1000]
    )
    assert_that(
        filled,
        MatchesStructure(name=Equals("three"), size=Equals(1000), properties=Equals({"b": "2"})),
    )
    listed = broker.get_all(None, sort_key="name", sort_dir="asc", limit=5)
    assert_that([image.name for image in listed], Equals(["one", "three"]))
    done = broker.download(None, image_id, tmp_path / "dest")
    assert_that((tmp_path / "dest").read_bytes(), Equals(DATA))
    assert_that(done.evidence["checked_against"], Equals(("sha256 of the record",)))
    with broker.open(None, image_id) as reader:
        assert_that(reader.read(), Equals(DATA))
    broker.delete(None, image_id)
    with pytest.raises(imagebroker.ImageNotFound):
        broker.get(None, image_id)


@pytest.mark.promise("C3")
def test_its_broken_reads_are_resumed(
    broker: imagebroker.Broker, server: Server, tmp_path: Path
) -> None:
    ref = f"frozen1://127.0.0.1:{server.server_address[1]}/image"
    done = broker.download(None, ref, tmp_path / "dest")
    assert_that((tmp_path / "dest").read_bytes(), Equals(DATA))
    assert_that(
        done, MatchesAll(MatchesStructure(attempts=Equals(2), resumed_from=Equals(300_000)))
    )
    assert_that(server.starts, Equals([0, 300_000]))


def test_its_errors_reach_the_caller(broker: imagebroker.Broker, server: Server) -> None:
    port = server.server_address[1]
    for ref in (f"frozen1://127.0.0.1:{port}/other", f"frozen1:{uuid.uuid4()}"):
        with pytest.raises(imagebroker.ImageNotFound):
            broker.get(None, ref)
    with pytest.raises(imagebroker.PolicyViolation):
        broker.open(None, "frozen1://10.1.2.3/image")
