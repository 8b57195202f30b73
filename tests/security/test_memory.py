"""Memory: a process that downloads keeps below 100 MiB, however large the image, whatever a peer sends.

Each measurement is a process of its own, whose peak is the kernel's (`VmHWM`). Images of 100 GiB are
synthetic. By default 400 MiB of them arrive, which is more than could hide in 100 MiB; with
IMAGEBROKER_SLOW_TESTS=1 all of them do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, LessThan, MatchesAny

from tests.plugins.glance.test_identity import PASSWORD, Keystone
from tests.plugins.glance_stub import ID, OneImage, Stub
from tests.plugins.http_peers import answer
from tests.servers.raw import Connection, RawServer
from tests.servers.sshd import Sshd

MIB, GIB = 1 << 20, 1 << 30
SIZE = 100 * GIB
SLOW = os.environ.get("IMAGEBROKER_SLOW_TESTS") == "1"
#: Bytes that arrive before the connection is cut.
ARRIVING = SIZE if SLOW else 400 * MIB
MOST = 100 * MIB

PROGRAM = """
import json, sys
import imagebroker
from imagebroker.exceptions import ImageBrokerError

class Counting:
    # Keeps nothing: what is measured is imagebroker.
    count = 0
    def write(self, data):
        self.count += len(data)
        return len(data)
    def writable(self): return True
    def seekable(self): return False
    def flush(self): pass

broker = imagebroker.Broker.from_config(sys.argv[1])
how, ref, dest = sys.argv[2:]
arrived, error = Counting(), ""
try:
    if how == "file object":
        broker.download(None, ref, arrived)
    elif how == "reader":
        with broker.open(None, ref) as reader:
            while chunk := reader.read(1 << 20):
                arrived.count += len(chunk)
    else:
        arrived.count = broker.download(None, ref, dest).size
except ImageBrokerError as caught:
    error = type(caught).__name__ + ": " + str(caught)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(json.dumps([arrived.count, int(peak) * 1024, error]))
"""


def measured(config: str, how: str, ref: str, folder: Path) -> tuple[int, int, str]:
    """Bytes that arrived, the peak of the process, and its error."""
    (folder / "imagebroker.conf").write_text(config)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "imagebroker.conf"), how, ref, str(folder / "dest")],
        check=True, capture_output=True, text=True, timeout=3600 if SLOW else 120,
    )  # fmt: skip
    count, peak, error = json.loads(done.stdout)
    return count, peak, error


def core(more: str = "") -> str:
    return (
        "[imagebroker]\nenabled_schemes = http, glance, scp, file\nretries = 0\nretry_backoff = 0\n"
        f"fsync = false\nmax_size = 1T\nstall_timeout = 5\n{more}\n"
    )


def pouring(size: int) -> Callable[[Connection], None]:
    """Sends so much of an image of zeros, and hangs up."""
    head = answer(b"", f"Content-Length: {size}", 'ETag: "1"', "Accept-Ranges: bytes", length=False)

    def pour(connection: Connection) -> None:
        connection.sendall(head)
        block = bytes(MIB)
        for _ in range(min(ARRIVING, size) // MIB):
            connection.sendall(block)

    return pour


@pytest.mark.promise("security-33")
@pytest.mark.parametrize("how", ["path", "file object", "reader"])
def test_100_gib_over_http_take_little_memory(how: str, tmp_path: Path) -> None:
    # A file needs as much room as its size says, though these zeros take none.
    size = min(SIZE, shutil.disk_usage(tmp_path).free // 2 // MIB * MIB) if how == "path" else SIZE
    pour = pouring(size)

    def script(connection: Connection, index: int) -> None:
        if connection.read_head():
            pour(connection)

    with RawServer(script) as server:
        config = core() + "[backend:http]\nallowed_networks = 127.0.0.1/32\n"
        _check(*measured(config, how, f"{server.url}/image", tmp_path), how, size)


@pytest.mark.promise("security-33")
def test_100_gib_from_glance_take_little_memory(tmp_path: Path) -> None:
    image = OneImage(b"", size=SIZE, os_hash_value="0" * 128, checksum=None)
    pour = pouring(SIZE)
    image.file = lambda request, connection: pour(connection)
    with Stub(image) as stub, Stub(Keystone(stub.url)) as keystone:
        written = "\n".join(f"{name} = {value}" for name, value in PASSWORD.items())
        config = core() + (
            f"[backend:glance]\nendpoint = {stub.endpoint}\nauth_url = {keystone.url}/v3\n{written}\n"
        )
        _check(*measured(config, "reader", f"glance:{ID}", tmp_path), "reader", SIZE)


def _check(count: int, peak: int, error: str, how: str, size: int) -> None:
    if SLOW:
        assert_that((count, error), Equals((size, "")))
    else:
        # The server is asked for the rest, and sends the whole.
        assert_that(error, MatchesAny(Contains("TransferError"), Contains("RangeIgnored")))
        if how != "path":
            assert_that(count, GreaterThan(ARRIVING - 32 * MIB))
    assert_that(peak, LessThan(MOST))


@pytest.mark.promise("security-33")
@pytest.mark.parametrize("how", ["path", "reader"])
@pytest.mark.parametrize("backend", ["file", "scp"])
def test_a_large_file_takes_little_memory(
    backend: str, how: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """100 GiB of holes from this host into a path; what has to be read byte for byte is smaller."""
    image = tmp_path / "image"
    size = SIZE if SLOW or (backend, how) == ("file", "path") else ARRIVING
    with image.open("wb") as file:
        file.truncate(size)
    if backend == "file":
        config, ref = core() + f"[backend:file]\nallowed_paths = {tmp_path}\n", f"file://{image}"
    else:
        sshd: Sshd = request.getfixturevalue("sshd")
        config, ref = core() + (
            f"[backend:scp]\nallowed_networks = 127.0.0.1/32\nknown_hosts = {sshd.known_hosts}\n"
            f"identity_file = {sshd.key}\n"
        ), sshd.url(image)  # fmt: skip
    count, peak, error = measured(config, how, ref, tmp_path)
    assert_that((count, error), Equals((size, "")))
    assert_that(peak, LessThan(MOST))


FLOODS = {
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"y" * MIB),
    "a status": (b"HTTP/1.1 200 ", b"y" * MIB),
    "an error's body": (answer(b"", status="500 No", length=False), b"y" * MIB),
    "a record": (answer(b'{"id":"', status="200 OK", length=False), b"y" * MIB),
    "a chunk's line": (answer(b"", "Transfer-Encoding: chunked", length=False) + b"2;", b"y" * MIB),
    "an encoded body": (answer(b"", "Content-Encoding: gzip", length=False), b"\x1f\x8b" * MIB),
}


@pytest.mark.promise("security-33")
@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("backend", ["http", "glance", "keystone"])
def test_a_flood_is_ended_and_takes_little_memory(backend: str, flood: str, tmp_path: Path) -> None:
    begin, block = FLOODS[flood]

    def pour(connection: Connection) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(block)

    image = OneImage()
    image.show = lambda request, connection: pour(connection)

    def script(connection: Connection, index: int) -> None:
        if connection.read_head():
            pour(connection)

    with RawServer(script) as server, Stub(image) as stub, Stub(Keystone("http://h")) as keystone:
        where = server.url if backend == "keystone" else keystone.url
        written = "\n".join(f"{name} = {value}" for name, value in PASSWORD.items())
        config = core() + (
            "[backend:http]\nallowed_networks = 127.0.0.1/32\n"
            f"[backend:glance]\nendpoint = {stub.endpoint}\nauth_url = {where}/v3\n{written}\n"
        )
        ref = f"{server.url}/image" if backend == "http" else f"glance:{ID}"
        count, peak, error = measured(config, "reader", ref, tmp_path)
    if (backend, flood) != ("http", "a record"):  # which is an image without a size
        assert_that(error, Contains(": "))
    assert_that(count, LessThan(MIB))
    assert_that(peak, LessThan(MOST))
