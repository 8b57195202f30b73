"""Files are created whole or not at all, and deleted beneath the endpoint only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan, MatchesStructure

import imagebroker
from imagebroker.model.reference import parse
from imagebroker.plugin import (
    Conflict,
    Image,
    ImageData,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    TransferError,
    UnsupportedOperation,
    UploadFailed,
)
from tests.plugins.scp.endpoint import MIB, with_endpoint
from tests.plugins.scp_peers import configuration, fetched, make_backend, opened, public_key
from tests.servers.images import random_file
from tests.servers.sshd import Sshd
from tests.servers.tcp import NO_FAULT, Fault, TcpProxy


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 3])
def test_a_created_file_is_complete_private_and_alone(
    sshd: Sshd, tmp_path: Path, size: int
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    data = random_file(tmp_path / "data", size)
    backend = with_endpoint(sshd, folder)
    with closing(ImageData(data, size)) as sent:
        image = backend.create(None, Image(ref="", name="né w.raw"), sent)
    assert_that((folder / "né w.raw").read_bytes() == data.read_bytes(), Is(True))
    assert_that((folder / "né w.raw").stat().st_mode & 0o777, Equals(0o600))
    assert_that(os.listdir(folder), Equals(["né w.raw"]))
    assert_that(
        image,
        MatchesStructure.byEquality(
            ref=f"{sshd.url(folder)}/n%C3%A9%20w.raw", name="né w.raw", size=size, status="active"
        ),
    )
    assert_that(fetched(image.ref, backend) == data.read_bytes(), Is(True))


@pytest.mark.parametrize(
    "name",
    [None, "", ".", "..", "a/b", "/a", "a\nb", "a\0b", "x" * 256, ".x.imagebroker-part", "\udcff"],
)
def test_a_name_that_is_no_file_name_is_refused(sshd: Sshd, folder: Path, name: str | None) -> None:
    with pytest.raises(InvalidImageRef):
        with_endpoint(sshd, folder).create(None, Image(ref="", name=name), ImageData(b"x"))


@pytest.mark.parametrize(
    ("image", "data"),
    [
        (Image(ref="", name="new"), None),
        (Image(ref="", name="new", id="00000000-0000-0000-0000-000000000000"), ImageData(b"x")),
    ],
)
def test_a_record_without_data_or_with_an_id_is_refused(
    sshd: Sshd, folder: Path, image: Image, data: ImageData | None
) -> None:
    with pytest.raises(InvalidImageRef):
        with_endpoint(sshd, folder).create(None, image, data)


@pytest.mark.parametrize("name", ["b.raw", "directory", "link"])
def test_what_exists_is_not_replaced(sshd: Sshd, folder: Path, name: str) -> None:
    before = sorted(os.listdir(folder))
    with pytest.raises(Conflict):
        with_endpoint(sshd, folder).create(None, Image(ref="", name=name), ImageData(b"new"))
    assert_that(sorted(os.listdir(folder)), Equals(before))
    assert_that((folder / "b.raw").read_bytes(), Equals(b"x" * 300))


def test_what_came_while_the_data_was_sent_is_not_replaced(sshd: Sshd, folder: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"ours"
        (folder / "new").write_bytes(b"theirs")

    before = sorted(os.listdir(folder))
    with pytest.raises(Conflict):
        with_endpoint(sshd, folder).create(None, Image(ref="", name="new"), ImageData(chunks()))
    assert_that((folder / "new").read_bytes(), Equals(b"theirs"))
    assert_that(sorted(os.listdir(folder)), Equals(sorted([*before, "new"])))


@pytest.mark.parametrize("after", [0, 1, 100])
def test_a_source_that_fails_leaves_nothing_on_the_server(
    sshd: Sshd, folder: Path, after: int
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(after):
            yield b"x" * 50_000
        raise ValueError("the tape is torn")

    before = sorted(os.listdir(folder))
    with pytest.raises(UploadFailed, match="the tape is torn"):
        with_endpoint(sshd, folder).create(None, Image(ref="", name="new"), ImageData(chunks()))
    assert_that(sorted(os.listdir(folder)), Equals(before))


def test_what_the_server_may_not_write_is_not_authorized(
    another_sshd: Callable[..., Sshd], folder: Path
) -> None:
    server = another_sshd(sftp=False, settings=["Subsystem sftp internal-sftp -R"])
    with pytest.raises(NotAuthorized):
        with_endpoint(server, folder).create(None, Image(ref="", name="new"), ImageData(b"x"))
    with pytest.raises(NotAuthorized):
        with_endpoint(server, folder).delete(None, parse(server.url(folder / "c")))


def test_a_server_that_cannot_finish_keeps_nothing(
    another_sshd: Callable[..., Sshd], folder: Path
) -> None:
    server = another_sshd(sftp=False, settings=["Subsystem sftp internal-sftp -P rename"])
    before = sorted(os.listdir(folder))
    with pytest.raises(NotAuthorized):
        with_endpoint(server, folder).create(None, Image(ref="", name="new"), ImageData(b"x"))
    assert_that(sorted(os.listdir(folder)), Equals(before))


def test_a_connection_that_breaks_during_an_upload_leaves_all_or_nothing(
    sshd: Sshd, tmp_path: Path
) -> None:
    data = random_file(tmp_path / "data", 200_000).read_bytes()
    (tmp_path / "known").write_text(f"[127.0.0.1]:* {public_key(sshd.host_keys['ed25519'])}\n")

    def upload(number: int, fault: Fault) -> tuple[str, int]:
        folder = tmp_path / f"images{number}"
        folder.mkdir()
        with TcpProxy("127.0.0.1", sshd.port, fault, only=0) as proxy:
            endpoint = f"scp://{sshd.user}@127.0.0.1:{proxy.port}{folder}/"
            known = str(tmp_path / "known")
            backend = make_backend(sshd, endpoint=[endpoint], known_hosts=known)
            try:
                backend.create(None, Image(ref="", name="new"), ImageData(data))
            except TransferError:
                assert_that(os.listdir(folder), Equals([]), str(fault))
                return "nothing", proxy.sent
            assert_that(os.listdir(folder), Equals(["new"]), str(fault))
            assert_that((folder / "new").read_bytes() == data, Is(True), str(fault))
            return "all", proxy.sent

    assert_that(upload(0, NO_FAULT)[0], Equals("all"))
    total = upload(1, NO_FAULT)[1]
    outcomes = {
        upload(step, Fault(cut_after=place, upload=True))[0]
        for step, place in enumerate([100, 2000, total // 2, *range(total - 500, total, 60)], 2)
    }
    assert_that(outcomes, Contains("nothing"))


def test_an_upload_whose_last_answer_was_lost_has_succeeded(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "known").write_text(f"[127.0.0.1]:* {public_key(sshd.host_keys['ed25519'])}\n")
    folder = tmp_path / "images"
    folder.mkdir()

    def create(name: str, fault: Fault) -> tuple[Image, int]:
        """The image, and the bytes of the server's answers, all of them counted."""
        with TcpProxy("127.0.0.1", sshd.port, fault, only=0) as proxy:
            endpoint = f"scp://{sshd.user}@127.0.0.1:{proxy.port}{folder}/"
            backend = make_backend(sshd, endpoint=[endpoint], known_hosts=str(tmp_path / "known"))
            image = backend.create(None, Image(ref="", name=name), ImageData(b"data"))
        return image, proxy.passages[0].received

    # The answer to the rename is the last thing that the server says.
    _, answers = create("first", Fault())
    image, received = create("again", Fault(cut_after=answers - 1))
    assert_that(received, Equals(answers - 1))
    assert_that(image.size, Equals(4))
    assert_that(sorted(os.listdir(folder)), Equals(["again", "first"]))


def test_delete_removes_a_file_or_the_link_itself(sshd: Sshd, folder: Path) -> None:
    backend = with_endpoint(sshd, folder)
    backend.delete(None, parse(sshd.url(folder / "link")))
    assert_that((folder / "c").exists(), Is(True))
    backend.delete(None, parse(sshd.url(folder / "c")))
    assert_that((folder / "c").exists(), Is(False))
    with pytest.raises(ImageNotFound):
        backend.delete(None, parse(sshd.url(folder / "c")))


@pytest.mark.parametrize("path", ["../outside/image", "evil/image", "inner"])
def test_delete_stays_beneath_the_endpoint_and_removes_files_only(
    sshd: Sshd, shelf: Path, path: str
) -> None:
    target = (shelf / path).parent.resolve() / Path(path).name if ".." in path else shelf / path
    with pytest.raises(PolicyViolation):
        with_endpoint(sshd, shelf).delete(None, parse(sshd.url(target)))
    assert_that((shelf / path).exists(), Is(True))


def test_a_running_read_survives_delete(sshd: Sshd, tmp_path: Path) -> None:
    path = random_file(tmp_path / "image", 12 * MIB)
    before = path.read_bytes()
    backend = with_endpoint(sshd, tmp_path)
    with opened(sshd.url(path), backend) as source:
        reading = source.read()
        data = [bytes(next(reading))]
        backend.delete(None, parse(sshd.url(path)))
        data += map(bytes, reading)
    assert_that(b"".join(data) == before, Is(True))


def test_the_broker_creates_lists_and_deletes_over_scp(
    make_broker: Callable[..., imagebroker.Broker], sshd: Sshd, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    broker = make_broker(
        configuration(
            known_hosts=sshd.known_hosts,
            identity_file=sshd.key,
            endpoint=sshd.url(tmp_path / "images") + "/",
        )
    )
    created = broker.create(None, {"name": "new.raw"}, b"data", backend="scp")
    assert_that(created.size, Equals(4))
    assert_that([i.ref for i in broker.get_all(None, backend="scp")], Equals([created.ref]))
    broker.download(None, created.ref, tmp_path / "copy")
    assert_that((tmp_path / "copy").read_bytes(), Equals(b"data"))
    broker.delete(None, created.ref)
    assert_that(list(broker.get_all(None, backend="scp")), Equals([]))
    with pytest.raises(UnsupportedOperation):
        broker.update(None, created.ref, {"name": "other"})


def test_a_broken_connection_costs_the_missing_bytes_only(
    make_broker: Callable[..., imagebroker.Broker], sshd: Sshd, tmp_path: Path
) -> None:
    path = random_file(tmp_path / "image", 16 * MIB)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:* {public_key(sshd.host_keys['ed25519'])}\n")
    broker = make_broker(configuration(known_hosts=known, identity_file=sshd.key))
    with TcpProxy("127.0.0.1", sshd.port, Fault(cut_after=10 * MIB), only=0) as proxy:
        url = f"scp://{sshd.user}@127.0.0.1:{proxy.port}{path}#sha256={digest}"
        broker.download(None, url, tmp_path / "copy")
        assert_that(proxy.connections, Equals(2))
        # All again would be 26 MiB; up to 6 MiB had arrived, but were not processed yet.
        assert_that(proxy.received, LessThan(23 * MIB))
    assert_that((tmp_path / "copy").read_bytes() == path.read_bytes(), Is(True))
