"""Nothing is left behind, and nothing secret is shown."""

from __future__ import annotations

import gc
import hashlib
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import EndsWith, Equals, GreaterThan, Is, LessThan

import imagebroker
from imagebroker.plugin import ImageNotFound, TransferError
from tests.plugins.scp.endpoint import MIB
from tests.plugins.scp_peers import (
    configuration,
    fetched,
    make_backend,
    open_sockets,
    opened,
    public_key,
    ssh_threads,
)
from tests.servers.images import random_file
from tests.servers.sshd import Sshd


def test_200_downloads_half_of_them_failing_leave_nothing_behind(
    sshd: Sshd, tmp_path: Path
) -> None:
    random_file(tmp_path / "image", MIB)
    backend = make_backend(sshd)

    def fetch(index: int) -> bool:
        try:
            return bool(fetched(sshd.url(tmp_path / ("image", "missing")[index % 2]), backend))
        except ImageNotFound:
            return False

    # What is made once is made now; each thread has an arena of the allocator.
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch, range(60)))
    sockets = open_sockets()
    descriptors = len(os.listdir("/proc/self/fd"))
    memory = [resident()]
    for _ in range(4):
        with ThreadPoolExecutor(4) as pool:
            assert_that(list(pool.map(fetch, range(50))), Equals([True, False] * 25))
        gc.collect()
        memory.append(resident())
    assert_that(ssh_threads(), Equals([]))
    assert_that(open_sockets() <= sockets, Is(True))
    assert_that(len(os.listdir("/proc/self/fd")) <= descriptors, Is(True))
    # 25 images of a MiB each time: what is kept would show each time, what the allocator and other
    # threads of this process do would not.
    growth = [after - before for before, after in itertools.pairwise(memory)]
    assert_that(min(growth), LessThan(8 * MIB), str(growth))


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_closing_twice_and_reading_after_it(sshd: Sshd, image: Path) -> None:
    with opened(sshd.url(image), make_backend(sshd)) as source:
        source.close()
        source.close()
        with pytest.raises(TransferError):
            next(source.read())
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.promise("security-20")
def test_nothing_secret_is_logged_and_nothing_is_said_uninvited(
    sshd: Sshd, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        backend = make_backend(
            sshd, identity_file=str(sshd.encrypted_key), identity_passphrase=sshd.passphrase
        )
        fetched(sshd.url(image), backend)
    assert_that(len(caplog.records), GreaterThan(10))
    secrets = [sshd.passphrase, *sshd.encrypted_key.read_text().splitlines()[1:-1]]
    for record in caplog.records:
        assert_that(len(record.getMessage()), LessThan(1025))
        assert_that([s for s in secrets if s in record.getMessage()], Equals([]))


def test_a_failed_handshake_prints_nothing_to_a_terminal(sshd: Sshd) -> None:
    script = (
        "from tests.plugins.scp_peers import *\n"
        "from imagebroker.plugin import *\n"
        "from tests.servers.raw import RawServer\n"
        "import pathlib, tempfile\n"
        "with RawServer(lambda c, i: c.sendall(b'SSH-2.0-x\\r\\n' + b'\\xff' * 100)) as server:\n"
        "    with tempfile.NamedTemporaryFile('w') as known:\n"
        f"        known.write(f'[127.0.0.1]:{{server.port}} {public_key(sshd.key)}\\n')\n"
        "        known.flush()\n"
        f"        backend = make_backend(known_hosts=known.name, identity_file={str(sshd.key)!r})\n"
        "        try:\n"
        "            fetched(f'scp://u@127.0.0.1:{server.port}/x', backend)\n"
        "        except TransferError as error:\n"
        "            print('as expected')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert_that((done.stdout, done.stderr), Equals(("as expected\n", "")))


def test_importing_the_package_needs_no_paramiko(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['paramiko'] = None\n"
        "import imagebroker_scp, imagebroker\n"
        "from tests.plugins.scp_peers import make_backend\n"
        "try:\n"
        "    make_backend()\n"
        "except imagebroker.BackendLoadError as error:\n"
        "    print(error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert_that((done.stdout, done.stderr), Equals(("pip install 'imagebroker[scp]'\n", "")))


def test_the_broker_downloads_over_scp(
    make_broker: Callable[..., imagebroker.Broker], sshd: Sshd, image: Path, tmp_path: Path
) -> None:
    broker = make_broker(configuration(known_hosts=sshd.known_hosts, identity_file=sshd.key))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    done = broker.download(None, sshd.url(image), tmp_path / "copy", checksum=f"sha256:{digest}")
    assert_that((tmp_path / "copy").read_bytes(), Equals(image.read_bytes()))
    assert_that(done.evidence["sha256"], Equals(digest))
    assert_that(broker.get(None, sshd.url(image)).size, Equals(3 * MIB + 17))
    assert_that(sshd.url(image), EndsWith("image.raw"))
