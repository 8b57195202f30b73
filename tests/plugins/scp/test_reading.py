"""What is read over scp is the file, while it is one file."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan, MatchesStructure, Not, StartsWith

import imagebroker
from imagebroker.plugin import (
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    TransferError,
)
from tests.plugins.scp.endpoint import MIB
from tests.plugins.scp_peers import configuration, fetched, make_backend, opened, public_key
from tests.servers.images import random_file
from tests.servers.raw import RawServer
from tests.servers.sshd import Sshd
from tests.servers.tcp import TcpProxy


def test_bytes_and_record_are_those_of_the_file(sshd: Sshd, image: Path) -> None:
    os.utime(image, (0, 1_700_000_000))
    with opened(sshd.url(image), make_backend(sshd)) as source:
        data = b"".join(bytes(chunk) for chunk in source.read())
    assert_that(data, Equals(image.read_bytes()))
    assert_that(
        source.image,
        MatchesStructure.byEquality(
            ref=sshd.url(image),
            id=None,
            name="image.raw",
            status="active",
            size=3 * MIB + 17,
            updated_at=datetime.fromtimestamp(1_700_000_000, UTC),
            version=None,
        ),
    )


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (0, 1), (1, None), (MIB - 1, 2 * MIB + 1), (3 * MIB + 17, None)]
)
def test_any_stretch_can_be_read(sshd: Sshd, image: Path, start: int, stop: int | None) -> None:
    data = fetched(sshd.url(image), make_backend(sshd), start, stop)
    assert_that(data, Equals(image.read_bytes()[start:stop]))


def test_an_empty_file_has_no_bytes_and_size_0(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with opened(sshd.url(tmp_path / "empty"), make_backend(sshd)) as source:
        assert_that(list(source.read()), Equals([]))
    assert_that(source.image.size, Equals(0))


def test_a_source_can_be_read_again_after_a_read_was_left_early(sshd: Sshd, image: Path) -> None:
    with opened(sshd.url(image), make_backend(sshd)) as source:
        for _ in range(3):
            reading = source.read(1000)
            first = bytes(next(reading))
            reading.close()
            assert_that(image.read_bytes()[1000:], StartsWith(first))
        assert_that(b"".join(map(bytes, source.read())), Equals(image.read_bytes()))


def test_a_yielded_chunk_is_not_changed_afterwards(sshd: Sshd, image: Path) -> None:
    with opened(sshd.url(image), make_backend(sshd)) as source:
        chunks = list(source.read())
    assert_that(b"".join(map(bytes, chunks)), Equals(image.read_bytes()))


@pytest.mark.promise("security-24")
@pytest.mark.parametrize(
    "name",
    [
        b"\xff\xfe not utf-8 \x80", b"it's \"quoted\"", b"`touch marker`", b"$(touch marker)",
        b"a * b ? [c]", b"~", b"-oProxyCommand=touch marker", b"; touch marker", b"tab\there",
        b"per%41cent", "é".encode(), "e\u0301".encode(), b"...", b"new \x1b[31m",
    ],
)  # fmt: skip
def test_a_path_is_sent_byte_for_byte_and_means_itself(
    sshd: Sshd, tmp_path: Path, name: bytes
) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(b"the right one")
    url = sshd.url("") + "".join(f"%{byte:02X}" if byte != 0x2F else "/" for byte in path)
    assert_that(fetched(url, make_backend(sshd)), Equals(b"the right one"))
    assert_that(os.listdir(os.fsencode(tmp_path)), Equals([name]))


@pytest.mark.promise("security-24")
@pytest.mark.parametrize("escape", ["%00", "%0d", "%0a", "%0D%0A"])
def test_nul_and_line_ends_in_a_path_are_refused(
    make_broker: Callable[..., imagebroker.Broker], escape: str
) -> None:
    with RawServer(lambda connection, index: None) as server:
        broker = make_broker(configuration(known_hosts="/none"))
        with pytest.raises(InvalidImageRef):
            broker.get(None, f"scp://u@127.0.0.1:{server.port}/a{escape}b")
    assert_that(server.connections, Equals([]))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("directory", PolicyViolation), ("fifo", PolicyViolation), ("device", PolicyViolation),
        ("missing", ImageNotFound), ("below-a-file", ImageNotFound), ("loop", ImageNotFound),
        ("dangling", ImageNotFound),
    ],
)  # fmt: skip
def test_only_regular_files_are_opened(
    sshd: Sshd, tmp_path: Path, kind: str, error: type[ImageBrokerError]
) -> None:
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "below-a-file":
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "image"
    elif kind in ("loop", "dangling"):
        path.symlink_to(path if kind == "loop" else "nowhere")
    with pytest.raises(error) as caught:
        fetched(sshd.url(path), make_backend(sshd))
    assert_that(caught.value.hint, Not(Equals("")))


def test_the_server_follows_links_to_files(sshd: Sshd, tmp_path: Path, image: Path) -> None:
    (tmp_path / "link").symlink_to(image)
    data = fetched(sshd.url(tmp_path / "link"), make_backend(sshd))
    assert_that(data, Equals(image.read_bytes()))


@pytest.mark.parametrize("denied", ["open", "stat", "fstat"])
def test_what_the_server_denies_is_not_authorized(
    another_sshd: Callable[..., Sshd], image: Path, denied: str
) -> None:
    server = another_sshd(sftp=False, settings=[f"Subsystem sftp internal-sftp -P {denied}"])
    with pytest.raises(NotAuthorized):
        fetched(server.url(image), make_backend(server))


@pytest.mark.promise("security-28")
@pytest.mark.parametrize("change", ["shorter", "longer", "touched"])
def test_a_file_that_changes_while_it_is_read_is_image_changed(
    sshd: Sshd, tmp_path: Path, change: str
) -> None:
    path = random_file(tmp_path / "image", 20 * MIB)
    os.utime(path, (0, 1_700_000_000))
    with opened(sshd.url(path), make_backend(sshd)) as source:
        reading = source.read()
        next(reading)
        if change == "touched":
            os.utime(path, (0, 1_700_000_001))
        else:
            os.truncate(path, 8 * MIB if change == "shorter" else 30 * MIB)
        with pytest.raises(ImageChanged):
            for _ in reading:
                pass
        with pytest.raises(ImageChanged):  # still, over a new connection
            next(source.read(MIB))


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(
    sshd: Sshd, tmp_path: Path
) -> None:
    path = random_file(tmp_path / "image", 12 * MIB)
    before = path.read_bytes()
    with opened(sshd.url(path), make_backend(sshd)) as source:
        reading = source.read()
        data = [bytes(next(reading))]
        random_file(tmp_path / "new", MIB, seed=1).replace(path)
        data += map(bytes, reading)
    assert_that(b"".join(data), Equals(before))


def test_a_file_whose_size_the_server_does_not_know_is_refused(sshd: Sshd) -> None:
    with pytest.raises(ImageChanged) as caught:
        fetched(sshd.url("/proc/version"), make_backend(sshd))
    assert_that(caught.value.hint, Contains("/proc"))


def test_after_a_broken_connection_the_same_source_reads_on(sshd: Sshd, tmp_path: Path) -> None:
    path = random_file(tmp_path / "image", 20 * MIB)
    with TcpProxy("127.0.0.1", sshd.port) as proxy:
        known = tmp_path / "known_hosts"
        known.write_text(f"[127.0.0.1]:{proxy.port} {public_key(sshd.host_keys['ed25519'])}\n")
        url = f"scp://{sshd.user}@127.0.0.1:{proxy.port}{path}"
        with opened(url, make_backend(sshd, known_hosts=str(known))) as source:
            data = bytearray()

            def read_until_cut() -> None:
                for chunk in source.read():
                    data.extend(chunk)
                    if len(data) > MIB:
                        proxy.cut_all()

            with pytest.raises(TransferError):
                read_until_cut()
            assert_that(len(data), LessThan(20 * MIB))
            for chunk in source.read(len(data)):
                data += chunk
    assert_that(bytes(data) == path.read_bytes(), Is(True))
    assert_that(proxy.connections, Equals(2))
