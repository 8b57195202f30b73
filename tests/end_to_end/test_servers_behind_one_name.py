"""One image on several servers behind one name, each with an ETag of its own."""

from __future__ import annotations

import hashlib
import io
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, Is, LessThan

import imagebroker
from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import ChecksumMismatch, ImageChanged, NotAuthorized
from tests.servers import haproxy
from tests.servers.fixtures import require
from tests.servers.haproxy import HAProxy
from tests.servers.nginx import Nginx
from tests.servers.raw import Connection, RawServer
from tests.servers.tcp import Fault, TcpProxy

MIB = 1 << 20
DATA = random.Random(34).randbytes(12 * MIB)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
OTHER = DATA[: 5 * MIB] + bytes(MIB) + DATA[6 * MIB :]
CONFIG = (
    "[imagebroker]\nenabled_schemes = http\nretry_backoff = 0\n"
    "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
)


QUICK = Tuning(parallel_from=MIB, observe=0.01)


@pytest.fixture
def broker(make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    return make_broker(CONFIG)


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nginx, Nginx]]:
    """Two nginx with the same file, whose time and so whose ETag differs."""
    from tests.servers import nginx

    require(nginx.missing())
    with ExitStack() as stack:
        made = []
        for number in range(2):
            root = tmp_path_factory.mktemp("mirror")
            (root / "image.raw").write_bytes(DATA)
            os.utime(root / "image.raw", (1_700_000_000 + number,) * 2)
            made.append(stack.enter_context(Nginx(root)))
        yield made[0], made[1]


@pytest.fixture(scope="module")
def balancer(mirrors: tuple[Nginx, Nginx]) -> Iterator[HAProxy]:
    require(haproxy.missing())
    with HAProxy([each.ports["http"] for each in mirrors]) as server:
        yield server


def cutting(port: int, after: int, times: int) -> TcpProxy:
    """A connection to `port` that is cut after so many bytes, so many times."""
    proxy = TcpProxy("127.0.0.1", port)
    proxy.fault_for.update({index: Fault(cut_after=after) for index in range(times)})
    return proxy


Into = Callable[[imagebroker.Broker, str, Path, "str | None"], bytes]


def into_path(broker: imagebroker.Broker, url: str, folder: Path, checksum: str | None) -> bytes:
    done = broker.download(None, url, folder / "image", checksum=checksum)
    assert_that(done.size, Equals(len(DATA)))
    return (folder / "image").read_bytes()


def into_object(broker: imagebroker.Broker, url: str, folder: Path, checksum: str | None) -> bytes:
    target = io.BytesIO()
    broker.download(None, url, target, checksum=checksum)
    return target.getvalue()


def into_reader(broker: imagebroker.Broker, url: str, folder: Path, checksum: str | None) -> bytes:
    with broker.open(None, url, checksum=checksum) as reader:
        return reader.read()


WAYS = pytest.mark.parametrize("into", [into_path, into_object, into_reader])


@pytest.mark.promise("servers-behind-one-name")
@WAYS
@pytest.mark.parametrize("after", [3 * MIB, 5 * MIB + 17])
def test_behind_haproxy_a_cut_transfer_goes_on_at_whichever_server_answers(
    into: Into, after: int, balancer: HAProxy, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    with cutting(balancer.port, after, 9) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/image.raw"
        assert_that(into(broker, url, tmp_path, SHA256) == DATA, Is(True))
        assert_that(proxy.received, LessThan(2 * len(DATA)))


@pytest.mark.promise("C36", "servers-behind-one-name")
@WAYS
def test_behind_haproxy_without_a_digest_the_bytes_are_those_of_one_server(
    into: Into, balancer: HAProxy, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    with cutting(balancer.port, 3 * MIB, 3) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/image.raw"
        assert_that(into(broker, url, tmp_path, None) == DATA, Is(True))


@pytest.mark.parametrize("tuning", [QUICK], indirect=True, ids=["quick"])
@pytest.mark.parametrize("checksum", [SHA256, None], ids=["digest", "no digest"])
def test_several_ranges_at_once_through_haproxy(
    checksum: str | None, balancer: HAProxy, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    with TcpProxy("127.0.0.1", balancer.port, Fault(rate=6 * MIB)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/image.raw"
        assert_that(into_path(broker, url, tmp_path, checksum) == DATA, Is(True))
        assert_that(proxy.connections, GreaterThan(1))


def test_a_redirector_that_names_another_mirror_each_time(
    mirrors: tuple[Nginx, Nginx], broker: imagebroker.Broker, tmp_path: Path
) -> None:
    """Each mirror dies after some bytes, so that the redirector has to be asked again."""
    with ExitStack() as stack:
        dying = []
        for number in range(4):
            proxy = stack.enter_context(cutting(mirrors[number % 2].ports["http"], 4 * MIB, 2))
            proxy.fault = Fault(refuse=True)
            dying.append(proxy)
        answered = 0

        def redirect(connection: Connection, index: int) -> None:
            nonlocal answered
            connection.read_head()
            port, answered = dying[answered % 4].port, answered + 1
            connection.sendall(
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/image.raw\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n" % port
            )

        redirector = stack.enter_context(RawServer(redirect))
        url = f"{redirector.url}/image.raw"
        done = broker.download(None, url, tmp_path / "image", checksum=SHA256, retries=9)
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))
    assert_that(done.resumed_from, GreaterThan(0))


class Nodes:
    """Servers behind one port: each connection goes to the next, and is cut after some bytes."""

    def __init__(self, *data: bytes, cut: int = 8 * MIB, etag: str = '"node-%d"') -> None:
        self.data, self.cut, self.etag = data, cut, etag
        #: The node and the first byte of each answer.
        self.answers: list[tuple[int, int]] = []
        self.conditions: list[bool] = []

    def __call__(self, connection: Connection, index: int) -> None:
        head = connection.read_head().lower()
        node = index % len(self.data)
        data, etag = self.data[node], (self.etag % node).encode()
        asked = int(head.partition(b"bytes=")[2].partition(b"-")[0] or 0)
        condition = head.partition(b"if-range: ")[2].partition(b"\r\n")[0]
        self.conditions.append(bool(condition))
        start = asked if condition in (b"", etag.lower()) else 0
        self.answers.append((node, start))
        lines = [b"HTTP/1.1 206 Partial" if start else b"HTTP/1.1 200 OK", b"ETag: " + etag,
                 b"Accept-Ranges: bytes", b"Content-Length: %d" % (len(data) - start)]  # fmt: skip
        if start:
            lines.append(b"Content-Range: bytes %d-%d/%d" % (start, len(data) - 1, len(data)))
        connection.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
        connection.sendall(data[start : start + self.cut])


def test_where_two_images_were_mixed_one_of_them_is_read_again_from_one_server(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    nodes = Nodes(DATA, OTHER, cut=3 * MIB)
    with RawServer(nodes) as server:
        got = into_path(broker, f"{server.url}/image.raw", tmp_path, SHA256)
    assert_that(got == DATA, Is(True))


@pytest.mark.promise("servers-behind-one-name")
@pytest.mark.parametrize("order", [(DATA, OTHER, DATA), (OTHER, DATA, DATA), (OTHER, OTHER, DATA)])
def test_an_outdated_mirror_among_others_costs_time_and_nothing_else(
    order: tuple[bytes, ...], broker: imagebroker.Broker, tmp_path: Path
) -> None:
    nodes = Nodes(*order, cut=5 * MIB)
    with RawServer(nodes) as server:
        got = into_path(broker, f"{server.url}/image.raw", tmp_path, SHA256)
    assert_that(got == DATA, Is(True))


def test_what_no_server_has_is_refused_and_nothing_stays(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    with RawServer(Nodes(OTHER, OTHER, cut=5 * MIB)) as server:
        with pytest.raises(ChecksumMismatch):
            broker.download(
                None, f"{server.url}/image.raw", tmp_path / "image", checksum=SHA256,
                keep_partial=True,
            )  # fmt: skip
    assert_that([p.name for p in tmp_path.iterdir() if "image" in p.name and "conf" not in p.name],
                Equals([]))  # fmt: skip


@pytest.mark.promise("servers-behind-one-name")
@WAYS
def test_bytes_of_two_images_are_never_joined_without_a_digest(
    into: Into, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    nodes = Nodes(DATA, OTHER, cut=7 * MIB)
    with RawServer(nodes) as server:
        try:
            got = into(broker, f"{server.url}/image.raw", tmp_path, None)
        except ImageChanged:
            got = b""
    assert_that(got in (DATA, OTHER, b""), Is(True))


def test_an_image_that_is_another_at_each_request_is_given_up(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    nodes = Nodes(*[DATA] * 1000, cut=MIB)
    with RawServer(nodes) as server, pytest.raises(ImageChanged):
        broker.download(None, f"{server.url}/image.raw", tmp_path / "image")
    assert_that(len(nodes.answers), LessThan(30))
    assert_that((tmp_path / "image").exists(), Is(False))


def test_a_weak_digest_joins_nothing(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(CONFIG.replace("[imagebroker]", "[imagebroker]\nallow_md5 = true"))
    md5 = f"md5:{hashlib.md5(DATA, usedforsecurity=False).hexdigest()}"
    nodes = Nodes(DATA, DATA, cut=7 * MIB)
    with RawServer(nodes) as server:
        assert_that(into_path(broker, f"{server.url}/i", tmp_path, md5) == DATA, Is(True))
    assert_that(all(nodes.conditions[1:2]), Is(True))


def test_what_was_joined_has_no_version(broker: imagebroker.Broker, tmp_path: Path) -> None:
    with RawServer(Nodes(DATA, DATA)) as server:
        url = f"{server.url}/image.raw"
        joined = broker.download(None, url, tmp_path / "image", checksum=SHA256)
    with RawServer(Nodes(DATA)) as server:
        url = f"{server.url}/image.raw"
        alone = broker.download(None, url, tmp_path / "image", checksum=SHA256)
    assert_that(joined.image.version, Is(None))
    assert_that(alone.image.version, Equals('"node-0"'))


@pytest.mark.promise("servers-behind-one-name")
def test_a_name_with_several_addresses_is_asked_at_the_one_that_answered_first(
    broker: imagebroker.Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name server turns its answer round each time, as for a pool of mirrors."""
    real, asked = socket.getaddrinfo, 0

    def turning(host: Any, port: Any, *args: Any, **named: Any) -> Any:
        nonlocal asked
        if host != "mirrors.example":
            return real(host, port, *args, **named)
        asked += 1
        addresses = ["127.0.0.1", "127.0.0.2"]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in (addresses if asked % 2 else reversed(addresses))
        ]

    monkeypatch.setattr(socket, "getaddrinfo", turning)
    nodes = [Nodes(DATA, cut=4 * MIB, etag=f'"{n}-%d"') for n in range(2)]
    with RawServer(nodes[0]) as first, RawServer(nodes[1], host="127.0.0.2", port=first.port):
        url = f"http://mirrors.example:{first.port}/image.raw"
        got = into_path(broker, url, tmp_path, None)
    assert_that(got == DATA, Is(True))
    assert_that([each.answers for each in nodes],
                Equals([[(0, 0), (0, 4 * MIB), (0, 8 * MIB)], []]))  # fmt: skip
    assert_that(asked, Equals(3))


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "503 Down"])
@WAYS
def test_a_neighbour_that_was_not_given_the_image_is_passed_over(
    into: Into, status: str, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    nodes = Nodes(DATA, cut=5 * MIB)

    def serve(connection: Connection, index: int) -> None:
        if index % 2 == 0:
            nodes(connection, 0)
            return
        connection.read_head()
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    with RawServer(serve) as server:
        assert_that(into(broker, f"{server.url}/image.raw", tmp_path, None) == DATA, Is(True))
    assert_that([start for _, start in nodes.answers], Equals([0, 5 * MIB, 10 * MIB]))


def test_where_all_refuse_in_the_middle_that_is_said_soon(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    nodes, refused = Nodes(DATA, cut=5 * MIB), 0

    def serve(connection: Connection, index: int) -> None:
        nonlocal refused
        if index == 0:
            nodes(connection, 0)
            return
        refused += 1
        connection.read_head()
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with RawServer(serve) as server, pytest.raises(NotAuthorized):
        broker.download(None, f"{server.url}/image.raw", tmp_path / "image")
    assert_that(refused, Equals(3))
