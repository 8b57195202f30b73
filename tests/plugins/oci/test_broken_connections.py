"""A cut connection costs the missing bytes of a blob, a chunk of a chunked disk, or a retry."""

from __future__ import annotations

import threading

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, LessThan

from imagebroker.testing.hooks import random_bytes
from tests.bounds import HANGS
from tests.plugins.oci.conftest import Library
from tests.plugins.oci.layouts import archive, push_container, push_kubeswift
from tests.servers.process import HOST
from tests.servers.tcp import Fault, TcpProxy

MIB = 1024 * 1024
DISK = random_bytes(8 * MIB)


def through(proxy: TcpProxy, repository: Library, tag: str) -> str:
    return f"oci://{HOST}:{proxy.port}/{repository.name}:{tag}"


def push_chunks(repository: Library, tag: str) -> bytes:
    """Eight chunks of 1 MiB, with holes of 1 MiB between them; the disk."""
    chunks = [(2 * at, DISK[at : at + MIB]) for at in range(0, len(DISK), MIB)]
    disk = bytearray(2 * len(DISK))
    for offset, data in chunks:
        disk[offset : offset + MIB] = data
    push_kubeswift(repository, tag, len(disk), chunks)
    return bytes(disk)


@pytest.mark.parametrize("layout", ["blob", "container", "chunks"])
def test_a_download_that_is_cut_ends_well(repository: Library, layout: str) -> None:
    disk = DISK
    if layout == "blob":
        repository.push_disk("1", disk)
    elif layout == "container":
        push_container(repository, "1", archive([("disk/a.img", disk)]))
    else:
        disk = push_chunks(repository, "1")
    with TcpProxy(HOST, repository.server.port, Fault(cut_after=600_000), only=1) as proxy:
        dest = repository.folder / "disk"
        done = repository.broker().download(None, through(proxy, repository, "1"), dest)
    assert_that(dest.read_bytes() == disk, Equals(True))
    assert_that(done.attempts, GreaterThan(0))


def test_chunks_that_were_there_are_not_sent_again(repository: Library) -> None:
    disk = push_chunks(repository, "1")
    with TcpProxy(HOST, repository.server.port) as proxy:
        ref = through(proxy, repository, "1")
        backend = repository.backend()
        source = backend.open(None, repository.parsed(ref))
        rest = b"".join(map(bytes, source.read(9 * MIB + 17)))
        source.close()
        backend.close()
        sent = sum(each.received for each in proxy.passages)
    assert_that(rest == disk[9 * MIB + 17 :], Equals(True))
    # Four of eight chunks: byte 9 MiB lies in a hole.
    assert_that(sent, LessThan(5 * MIB))


def test_a_read_of_chunks_that_is_left_leaves_no_thread(repository: Library) -> None:
    push_chunks(repository, "1")
    backend = repository.backend()
    source = backend.open(None, repository.parsed(repository.ref("1")))
    reading = iter(source.read())
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    source.close()
    backend.close()
    for thread in threading.enumerate():
        if thread.name == "imagebroker-oci":
            thread.join(HANGS)
            assert_that(thread.is_alive(), Equals(False))


def test_closing_ends_a_read_of_chunks(repository: Library) -> None:
    push_chunks(repository, "1")
    with TcpProxy(HOST, repository.server.port, Fault(stall_after=500_000)) as proxy:
        backend = repository.backend()
        source = backend.open(None, repository.parsed(through(proxy, repository, "1")))
        errors: list[BaseException] = []

        def read() -> None:
            try:
                for _ in source.read():
                    pass
            except Exception as error:
                errors.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        while not any(each.struck.is_set() for each in proxy.passages):
            reader.join(0.01)
        source.close()
        reader.join(HANGS)
        assert_that(reader.is_alive(), Equals(False))
        assert_that(len(errors), Equals(1))
        backend.close()
