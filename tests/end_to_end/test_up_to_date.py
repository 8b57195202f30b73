"""A destination that already is the image: the backend is asked once, and nothing is fetched."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

import imagebroker
from imagebroker import Broker, Download, ImageNotFound, NotAuthorized
from tests.servers.nginx import Nginx

DATA = bytes(range(256)) * 4096
OTHER = bytes(reversed(DATA))


class Published:
    """One file on nginx, and a destination for it."""

    def __init__(self, broker: Broker, nginx: Nginx, folder: Path) -> None:
        self.broker, self.nginx, self.dest = broker, nginx, folder / "disk.raw"
        self.name = f"{uuid.uuid4()}.raw"
        self.file = nginx.root / self.name
        self.url = nginx.url(f"/{self.name}")
        self.publish(DATA, 1_000_000_000)

    def publish(self, data: bytes, mtime: int) -> None:
        """nginx makes the ETag of the time and the size."""
        self.file.write_bytes(data)
        os.utime(self.file, (mtime, mtime))

    def download(self, **how: Any) -> Download:
        return self.broker.download(None, self.url, self.dest, **how)

    def asked(self, call: Callable[[], Any]) -> list[int]:
        """How many bytes of bodies nginx sent to each request of a call."""
        before = len(self.nginx.requests(self.name))
        call()
        return [each.sent for each in self.nginx.requests(self.name)[before:]]


@pytest.fixture
def published(
    make_broker: Callable[..., Broker], nginx: Nginx, tmp_path: Path
) -> Iterator[Published]:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http, file\n"
        f"[backend:http]\nallowed_networks = 127.0.0.0/8\n[backend:file]\nallowed_paths = {tmp_path}\n"
    )
    yield Published(broker, nginx, tmp_path)


def digest(data: bytes = DATA) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_present(done: Download) -> bool:
    return done.via == "present" and done.attempts == 0


@pytest.mark.promise("up-to-date")
def test_what_was_downloaded_before_is_not_fetched_again(published: Published) -> None:
    first = published.download()
    inode = published.dest.stat().st_ino
    again = []
    assert_that(published.asked(lambda: again.append(published.download())), HasLength(1))
    assert_that((first.via, is_present(again[0])), Equals(("backend", True)))
    assert_that(published.dest.stat().st_ino, Equals(inode))
    assert_that(again[0].size, Equals(len(DATA)))
    assert_that(again[0].evidence["sha256"], Equals(digest().removeprefix("sha256:")))
    assert_that(os.listdir(published.dest.parent), Not(Contains(".disk.raw")))


@pytest.mark.promise("up-to-date")
@pytest.mark.parametrize("proof", ["checksum", "pin", "checksum file"])
def test_a_digest_proves_a_file_that_somebody_else_put_there(
    proof: str, published: Published, tmp_path: Path
) -> None:
    published.dest.write_bytes(DATA)  # scp, rsync, an older tool
    how: dict[str, Any] = {}
    if proof == "checksum":
        how["checksum"] = digest()
    elif proof == "pin":
        published.url += f"#{digest().replace(':', '=')}"
    else:
        sums = tmp_path / "SHA256SUMS"
        sums.write_text(f"{digest().removeprefix('sha256:')}  {published.name}\n")
        how["checksum"] = f"file://{sums}"
    done = []
    sent = published.asked(lambda: done.append(published.download(**how)))
    assert_that((is_present(done[0]), len(sent)), Equals((True, 1)))
    assert_that(sum(sent) < len(DATA) // 2, Equals(True))
    assert_that(done[0].evidence["checked_against"], HasLength(1))


@pytest.mark.promise("up-to-date")
def test_the_digest_of_a_record_proves_it(
    make_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    broker = make_broker(
        f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nstore_dir = {tmp_path}/store\n"
    )
    ref = broker.create(None, {"name": "one"}, DATA).ref
    (tmp_path / "dest").write_bytes(DATA)
    assert_that(is_present(broker.download(None, ref, tmp_path / "dest")), Equals(True))
    broker.delete(None, ref)
    with pytest.raises(ImageNotFound):
        broker.download(None, ref, tmp_path / "dest")
    assert_that((tmp_path / "dest").read_bytes(), Equals(DATA))


@pytest.mark.promise("up-to-date")
def test_a_newer_version_is_fetched(published: Published) -> None:
    published.download()
    published.publish(OTHER, 1_000_000_001)
    assert_that(published.download().via, Equals("backend"))
    assert_that(published.dest.read_bytes(), Equals(OTHER))


@pytest.mark.promise("up-to-date")
@pytest.mark.parametrize("proof", ["version", "digest"])
def test_a_file_that_was_changed_is_replaced_whatever_its_time_says(
    proof: str, published: Published
) -> None:
    how = {"checksum": digest()} if proof == "digest" else {}
    published.download(**how)
    before = published.dest.stat()
    with published.dest.open("r+b") as file:
        file.seek(5000)
        file.write(b"one byte is enough")
    os.utime(published.dest, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_that(published.download(**how).via, Equals("backend"))
    assert_that(published.dest.read_bytes(), Equals(DATA))


@pytest.mark.promise("up-to-date")
def test_a_time_alone_proves_nothing(published: Published) -> None:
    """The same size and the same time as on the server, and nobody knows a digest."""
    published.dest.write_bytes(OTHER)
    os.utime(published.dest, (1_000_000_000, 1_000_000_000))
    assert_that(published.download().via, Equals("backend"))
    assert_that(published.dest.read_bytes(), Equals(DATA))


@pytest.mark.promise("up-to-date")
def test_what_is_noted_at_one_file_proves_nothing_of_another(published: Published) -> None:
    published.download()
    note = os.getxattr(published.dest, "user.imagebroker")
    published.dest.unlink()
    published.dest.write_bytes(OTHER)
    os.setxattr(published.dest, "user.imagebroker", note)
    assert_that(published.download().via, Equals("backend"))
    # Nor does one of another resource with the same ETag and the same size.
    os.setxattr(published.dest, "user.imagebroker", note)
    other = published.nginx.root / f"other-{published.name}"
    other.write_bytes(OTHER)
    os.utime(other, (1_000_000_000, 1_000_000_000))
    url = published.nginx.url(f"/{other.name}")
    assert_that(published.broker.download(None, url, published.dest).via, Equals("backend"))
    assert_that(published.dest.read_bytes(), Equals(OTHER))


@pytest.mark.promise("up-to-date")
@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"resource": 1}', b"\xff" * 100])
def test_a_note_that_makes_no_sense_is_none(note: bytes, published: Published) -> None:
    published.dest.write_bytes(DATA)
    os.setxattr(published.dest, "user.imagebroker", note)
    assert_that(published.download().via, Equals("backend"))


@pytest.mark.promise("up-to-date")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_replaced(published: Published) -> None:
    """Its owner may change it at any time."""
    published.download()
    os.chown(published.dest, 12345, 12345)
    assert_that(published.download(checksum=digest()).via, Equals("backend"))


@pytest.mark.promise("up-to-date")
def test_a_link_is_replaced_and_not_followed(published: Published, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(DATA)
    published.dest.symlink_to(tmp_path / "target")
    assert_that(published.download(checksum=digest()).via, Equals("backend"))
    assert_that(published.dest.is_symlink(), Equals(False))


@pytest.mark.promise("up-to-date")
def test_who_may_not_read_the_image_is_told_so(published: Published) -> None:
    published.download()
    published.file.chmod(0)
    if os.access(published.file, os.R_OK) and os.geteuid() == 0:
        published.file.unlink()
    with pytest.raises((NotAuthorized, ImageNotFound)):
        published.download(checksum=digest())
    assert_that(published.dest.read_bytes(), Equals(DATA))


@pytest.mark.promise("up-to-date")
def test_what_is_not_acceptable_now_is_refused_though_it_is_there(published: Published) -> None:
    published.download()
    with pytest.raises(imagebroker.VerificationError):
        published.download(allowed_formats=["qcow2"])


@pytest.mark.promise("up-to-date")
def test_the_mode_that_is_asked_for_is_given(published: Published) -> None:
    published.download()
    assert_that(is_present(published.download(file_mode=0o640)), Equals(True))
    assert_that(published.dest.stat().st_mode & 0o777, Equals(0o640))


@pytest.mark.promise("up-to-date")
def test_an_unpacked_image_is_up_to_date_too(
    published: Published, nginx: Nginx, tmp_path: Path
) -> None:
    import gzip

    published.publish(gzip.compress(DATA), 1_000_000_002)
    first = published.download(decompress="gzip")
    again = published.download(decompress="gzip")
    assert_that((first.via, again.via), Equals(("backend", "present")))
    assert_that(published.dest.read_bytes(), Equals(DATA))
    # The digest of what arrived then is known; that of something else is not.
    packed = digest(published.file.read_bytes())
    assert_that(published.download(decompress="gzip", checksum=packed).via, Equals("present"))
    published.dest.write_bytes(OTHER)
    assert_that(published.download(decompress="gzip").via, Equals("backend"))


@pytest.mark.promise("up-to-date")
def test_without_a_destination_the_backend_is_asked_no_more_often(published: Published) -> None:
    assert_that(published.asked(published.download), HasLength(1))
    published.dest.unlink()
    published.dest.write_bytes(OTHER)  # nothing could prove that this is the image
    assert_that(published.asked(published.download), HasLength(1))
