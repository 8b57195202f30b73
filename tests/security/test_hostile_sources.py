"""Servers and files that lie, break off or never end: through the broker, into every destination.

What each backend makes of them is tested beside it. Here it is that nothing of it arrives: no file, no
byte in a file object, no end in a reader, and no descriptor that stays open.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, IsInstance, LessThan, MatchesAny, Not

import imagebroker
from imagebroker.exceptions import (
    BackendError,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    PolicyViolation,
    TooLarge,
    TransferError,
    VerificationError,
)
from tests.bounds import HANGS
from tests.plugins.glance.test_identity import PASSWORD, Keystone
from tests.plugins.glance_stub import ID, OneImage, Stub
from tests.plugins.http_peers import answer, chunked
from tests.security.trap import ALLOWED
from tests.servers.raw import Connection, RawServer
from tests.verify.ways import WAYS, ToPath, ToReader, Way

MakeBroker = Callable[[str], imagebroker.Broker]
DATA = bytes(range(256)) * 12
#: Bytes that an image may have in these tests.
MOST = 1 << 20
CORE = (
    "[imagebroker]\nenabled_schemes = http, glance, file\nretries = 0\nretry_backoff = 0\nfsync = false\n"
    f"stall_timeout = 0.5\nconnect_timeout = 5\nmax_size = {MOST}\n"
)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


class Peer:
    """A server whose answer to the request for an image's bytes a test chooses."""

    def __init__(self, kind: str, make_broker: MakeBroker, stack: ExitStack) -> None:
        self.say: Callable[[Connection], object] = lambda connection: None
        if kind == "http":
            server = stack.enter_context(RawServer(lambda connection, _: self._http(connection)))
            self.ref = f"{server.url}/image"
            section = f"[backend:http]\nallowed_networks = {ALLOWED}\n"
        else:
            image = OneImage(DATA)
            image.file = lambda request, connection: self._glance(connection)
            stub = stack.enter_context(Stub(image))
            keystone = stack.enter_context(Stub(Keystone(stub.url)))
            self.ref = f"glance:{ID}"
            written = "\n".join(f"{name} = {value}" for name, value in PASSWORD.items())
            section = f"[backend:glance]\nendpoint = {stub.endpoint}\nauth_url = {keystone.url}/v3\n{written}\n"
        self.broker = make_broker(CORE + section)

    def _http(self, connection: Connection) -> None:
        if connection.read_head():
            self.say(connection)

    def _glance(self, connection: Connection) -> None:
        self.say(connection)


@pytest.fixture(params=["http", "glance"])
def peer(request: pytest.FixtureRequest, make_broker: MakeBroker) -> Iterator[Peer]:
    with ExitStack() as stack:
        yield Peer(request.param, make_broker, stack)


def refused(
    peer: Peer, way: Way, *kinds: type[ImageBrokerError], allow_more: bool = False, **how: Any
) -> ImageBrokerError:
    """The error; nothing came. `allow_more`: the size is not known, but `MOST` is."""
    with pytest.raises(ImageBrokerError) as caught:
        way.get(peer.broker, peer.ref, **how)
    way.assert_nothing_came(max(len(DATA), MOST + 1 if allow_more else 0))
    assert_that(caught.value, MatchesAny(*map(IsInstance, kinds)))
    return caught.value


def saying(*said: bytes, endless: bytes = b"") -> Callable[[Connection], object]:
    def say(connection: Connection) -> None:
        for each in said:
            connection.sendall(each)
        while endless:
            connection.sendall(endless)

    return say


# -- cuts ------------------------------------------------------------------------------------------

WHOLE = answer(DATA, 'ETag: "1"')
HEAD = len(WHOLE) - len(DATA)


@pytest.mark.promise("security-29")
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_of_an_image_that_is_cut_nothing_comes_wherever_the_cut_is(
    reset: bool, peer: Peer, way: Way
) -> None:
    offsets = [*range(0, HEAD + 2, 3), *range(HEAD + 2, len(WHOLE), 401), len(WHOLE) - 1]
    for offset in offsets:

        def say(connection: Connection, offset: int = offset) -> None:
            connection.sendall(WHOLE[:offset])
            if reset:
                connection.reset()

        peer.say = say
        refused(peer, way, TransferError)
    gc.collect()
    peer.say = saying(WHOLE)
    assert_that(way.get(peer.broker, peer.ref)[0] == DATA, Equals(True))


CHUNKED = answer(b"", "Transfer-Encoding: chunked", length=False)
WRONG = {
    "a chunk that is cut": (saying(chunked(DATA)[:-200]), (TransferError,)),
    "no last chunk": (saying(chunked(DATA)[:-5]), (TransferError,)),
    "a chunk of ZZ bytes": (saying(CHUNKED, b"ZZ\r\nab\r\n0\r\n\r\n"), (TransferError,)),
    "a chunk of -5 bytes": (saying(CHUNKED, b"-5\r\nabcde\r\n0\r\n\r\n"), (TransferError,)),
    "an endless chunk extension": (saying(CHUNKED, b"2;", endless=b"x" * 65536), (TransferError,)),
    "endless trailers": (
        saying(chunked(DATA)[:-2], endless=b"X: y\r\n" * 1000), (TransferError,)),
    "an endless body without length": (
        saying(answer(b"", length=False), endless=bytes(65536)), (TooLarge, VerificationError)),
    "an endless chunked body": (
        saying(CHUNKED, endless=b"10000\r\n" + bytes(65536) + b"\r\n"), (TooLarge,)),
    "endless headers": (saying(b"HTTP/1.1 200 OK\r\n", endless=b"X: y\r\n" * 1000), (TransferError,)),
    "one endless header": (saying(b"HTTP/1.1 200 OK\r\nX: ", endless=b"y" * 65536), (TransferError,)),
    "endless interim answers": (
        saying(endless=b"HTTP/1.1 102 Processing\r\n\r\n" * 100), (TransferError, BackendError)),
    "gzip": (saying(answer(DATA, "Content-Encoding: gzip")), (TransferError,)),
    "gzip twice": (saying(answer(DATA, "Content-Encoding: gzip, gzip")), (TransferError,)),
    "an unknown encoding": (saying(answer(DATA, "Content-Encoding: x")), (TransferError,)),
    "another size": (saying(answer(b"", "Content-Length: 1099511627776", length=False)),
                     (TooLarge, TransferError)),
    "not HTTP": (saying(b"SSH-2.0-OpenSSH_9.2\r\n"), (TransferError,)),
    "TLS": (saying(b"\x15\x03\x01\x00\x02\x02\x46"), (TransferError,)),
    "HTTP/2": (saying(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), (TransferError,)),
    "nothing at all": (saying(), (TransferError,)),
    "no bytes": (saying(answer(b"")), (TransferError, VerificationError)),
    "no content": (saying(answer(b"", status="204 No", length=False)), (ImageNotFound, BackendError)),
    "reset content": (saying(answer(b"", status="205 No")), (ImageNotFound, BackendError)),
    "a range that nobody asked for": (
        saying(answer(DATA, f"Content-Range: bytes 0-{len(DATA) - 1}/{len(DATA)}", status="206 Part")),
        (TransferError, BackendError)),
    "a difference": (saying(answer(DATA, status="226 IM Used")), (TransferError, BackendError)),
    "a choice": (saying(answer(DATA, status="300 Choices")), (TransferError, PolicyViolation)),
    "nothing new": (saying(answer(b"", status="304 Same", length=False)), (TransferError, BackendError)),
    "trouble with an endless body": (
        saying(answer(b"", status="500 No", length=False), endless=bytes(65536)), (BackendError,)),
}  # fmt: skip


@pytest.mark.promise("security-29")
@pytest.mark.parametrize("wrong", WRONG)
def test_of_an_answer_that_is_wrong_nothing_comes(wrong: str, peer: Peer, way: Way) -> None:
    peer.say, kinds = WRONG[wrong]
    error = refused(
        peer, way, *kinds, allow_more=peer.ref.startswith("http"), allow_unknown_size=True
    )
    assert_that(len(str(error)), LessThan(1025))
    assert_that(str(error), Not(Contains("ABCDEFGH")))  # nothing of the data is quoted


STALLS = {
    "before the status": 0, "in a header": 20, "before the body": HEAD, "in the body": HEAD + 1000,
    "before the last byte": len(WHOLE) - 1,
}  # fmt: skip


@pytest.mark.parametrize("stage", STALLS)
def test_of_an_image_that_stalls_nothing_comes(
    stage: str, peer: Peer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    peer.say = lambda connection: (
        connection.sendall(WHOLE[: STALLS[stage]]), connection.wait_for_close(20)
    )  # fmt: skip
    # All three at once: each waits for as long as the limit says.
    found: list[ImageBrokerError] = []

    def get(kind: type[Way]) -> None:
        folder = tmp_path / kind.__name__
        folder.mkdir()
        found.append(refused(peer, kind(folder), TransferError))

    threads = [threading.Thread(target=get, args=(kind,)) for kind in WAYS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert_that(len(found), Equals(3))


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A file that may be read, larger than what is read ahead."""
    path = tmp_path / "allowed" / "image"
    path.parent.mkdir()
    path.write_bytes(bytes(range(256)) * 4096 * 40)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


@pytest.fixture
def files(local: Path, make_broker: MakeBroker, tmp_path: Path) -> imagebroker.Broker:
    section = f"[backend:file]\nallowed_paths = {local.parent}\nstore_dir = {tmp_path}/store\n"
    return make_broker(CORE.replace(f"max_size = {MOST}", "max_size = 4G") + section)


@pytest.mark.promise("security-29")
@pytest.mark.parametrize(
    "change", [lambda p: os.truncate(p, 30_000_000), lambda p: p.write_bytes(b"x")]
)
def test_of_a_file_that_is_cut_off_while_it_is_read_nothing_comes(
    change: Callable[[Path], object], files: imagebroker.Broker, local: Path, way: Way
) -> None:
    size = local.stat().st_size
    changed = threading.Event()

    def progress(step: Any) -> None:
        if step.done and not changed.is_set():
            changed.set()
            change(local)

    with pytest.raises(ImageBrokerError) as caught:
        if isinstance(way, ToReader):
            with files.open(None, f"file://{local}") as reader:
                reader.read(1)
                change(local)
                while chunk := reader.read(1 << 20):
                    way.seen += len(chunk)
        else:
            way.get(files, f"file://{local}", checksum=f"sha256:{'0' * 64}", progress=progress)
    assert_that(caught.value, MatchesAny(IsInstance(ImageChanged), IsInstance(VerificationError)))
    way.assert_nothing_came(size)


@pytest.mark.promise("security-8")
def test_a_block_device_is_refused_at_once(
    files: imagebroker.Broker, local: Path, way: Way
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a device: run the tests as root")
    device = local.with_name("device")
    try:
        os.mknod(device, 0o60600, os.makedev(7, 0))
    except PermissionError:
        pytest.skip("no device can be made here: run the tests outside of this container")
    with pytest.raises(PolicyViolation):
        way.get(files, f"file://{device}")
    way.assert_nothing_came(0)


def test_a_file_that_is_too_large_is_refused_before_anything_is_written(
    files: imagebroker.Broker, local: Path, way: Way
) -> None:
    os.truncate(local, 1 << 40)
    with pytest.raises(TooLarge):
        way.get(files, f"file://{local}", max_size=10 << 30)
    way.assert_nothing_came(0)


FETCH = """
import io, sys
import imagebroker
config, ref, way, dest = sys.argv[1:]
broker = imagebroker.Broker.from_config(config)
try:
    if way == "ToReader":
        with broker.open(None, ref) as reader:
            for chunk in reader:
                pass
    else:
        broker.download(None, ref, dest if way == "ToPath" else io.BytesIO(), checksum="sha256:" + "0" * 64)
except imagebroker.ImageBrokerError as error:
    print(type(error).__name__)
"""


def test_of_a_file_on_a_broken_disk_nothing_comes(local: Path, tmp_path: Path, way: Way) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: apt-get install strace")
    config = tmp_path / "imagebroker.conf"
    config.write_text(
        CORE.replace(f"max_size = {MOST}", "") + f"[backend:file]\nallowed_paths = {local.parent}\n"
    )
    first = 1 if isinstance(way, ToPath) else 3  # the kernel copies a file in one piece
    calls = "pread64,preadv,preadv2,copy_file_range,sendfile,read"
    fault = [
        strace,
        "-f",
        "-o",
        "/dev/null",
        "-P",
        str(local),
        "-e",
        f"inject={calls}:error=EIO:when={first}+",
    ]
    done = subprocess.run(
        [*fault, sys.executable, "-c", FETCH, str(config), f"file://{local}", type(way).__name__,
         str(way.folder / "image")],
        capture_output=True, text=True, timeout=HANGS, check=True,
    )  # fmt: skip
    assert_that(done.stdout, Equals("TransferError\n"))
    if isinstance(way, ToPath):
        way.assert_nothing_came(0)
