"""`download` without DEST, or into a directory, again: what is there may be the image already."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import uuid

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, StartsWith

from tests.cli.conftest import Inside
from tests.servers.cutting import CuttingServer
from tests.servers.nginx import Nginx
from tests.servers.raw import RawServer

DATA = bytes(range(256)) * 400
OTHER = bytes(reversed(DATA))
LOCAL = (
    "[imagebroker]\nenabled_schemes = http, file\n[backend:http]\nallowed_networks = 127.0.0.1\n"
)


class Published:
    """A file on nginx, and the command that downloads it under the name it has there."""

    def __init__(self, imagebroker: Inside, nginx: Nginx) -> None:
        imagebroker.config(LOCAL)
        self.run, self.nginx = imagebroker, nginx
        self.name = f"{uuid.uuid4()}.raw"
        self.url = nginx.url(f"/{self.name}")
        self.here = imagebroker.work / self.name
        self.publish(DATA, 1_000_000_000)

    def publish(self, data: bytes, mtime: int) -> None:
        """nginx makes the ETag of the time and the size."""
        file = self.nginx.root / self.name
        file.write_bytes(data)
        os.utime(file, (mtime, mtime))

    def requests(self) -> int:
        return len(self.nginx.requests(self.name))


@pytest.fixture
def published(imagebroker: Inside, nginx: Nginx) -> Published:
    return Published(imagebroker, nginx)


@pytest.mark.parametrize("dest", [(), (".",), ("folder/",), ("-o", "folder")])
def test_a_second_run_is_one_request_and_says_so(
    dest: tuple[str, ...], published: Published
) -> None:
    (published.run.work / "folder").mkdir()
    first = published.run("download", published.url, *dest)
    assert_that(first.stderr, StartsWith("imagebroker: stored "))
    [stored] = published.run.work.rglob(published.name)
    before, inode = published.requests(), stored.stat().st_ino
    again = published.run("download", published.url, *dest)
    assert_that((again.status, published.requests() - before), Equals((0, 1)), again.stderr)
    assert_that(again.stderr, Contains(f"{published.name} is up to date: 100.0 KiB"))
    assert_that(stored.stat().st_ino, Equals(inode))
    assert_that(os.listdir(stored.parent), Contains(published.name))
    assert_that(list(published.run.work.rglob("*imagebroker-part")), HasLength(0))


@pytest.mark.parametrize(
    "how", ["without a proof", "another version", "another digest", "it was changed", "compressed"]
)
def test_another_file_is_kept_and_the_hint_overwrites_it(how: str, published: Published) -> None:
    extra: tuple[str, ...] = ()
    published.run("download", published.url)
    if how == "without a proof":
        os.removexattr(published.here, "user.imagebroker")
    elif how == "another version":
        published.publish(OTHER, 1_000_000_001)
    elif how == "another digest":
        published.publish(OTHER, 1_000_000_001)
        extra = ("--checksum", hashlib.sha256(OTHER).hexdigest())
    elif how == "it was changed":
        published.here.write_bytes(OTHER)
    else:
        published.publish(gzip.compress(OTHER), 1_000_000_001)
        extra = ("--decompress",)
    before = published.here.read_bytes()
    refused = published.run("download", published.url, *extra)
    assert_that((refused.status, published.here.read_bytes()), Equals((9, before)), refused.stderr)
    assert_that(refused.stderr, Contains("already exists, and nothing shows that it is this image"))
    assert_that(list(published.run.work.glob(".*")), HasLength(0))
    named = re.search(r"name the destination as DEST to overwrite it: (\S+)", refused.stderr)
    assert named is not None, refused.stderr
    done = published.run("download", published.url, *extra, named[1])
    assert_that(done.stderr, StartsWith("imagebroker: stored "))


def test_the_digest_of_the_caller_proves_a_file_that_another_tool_stored(
    published: Published,
) -> None:
    published.here.write_bytes(DATA)
    digest = hashlib.sha256(DATA).hexdigest()
    done = published.run("download", published.url, "--checksum", digest)
    assert_that((done.status, published.requests()), Equals((0, 1)), done.stderr)
    assert_that(done.stderr, Contains("is up to date"))


def test_the_digest_of_a_record_proves_it(imagebroker: Inside) -> None:
    (imagebroker.work / "disk.raw").write_bytes(DATA)
    assert_that(imagebroker("create", "--file", "disk.raw").status, Equals(0))
    done = imagebroker("download", "disk.raw")  # by its name, where its file still is
    assert_that(done.status, Equals(0), done.stderr)
    assert_that(done.stderr, StartsWith("imagebroker: disk.raw is up to date"))
    (imagebroker.work / "disk.raw").write_bytes(OTHER)
    refused = imagebroker("download", "disk.raw")
    assert_that(refused.status, Equals(9))
    assert_that((imagebroker.work / "disk.raw").read_bytes(), Equals(OTHER))


@pytest.mark.parametrize("packed", [True, False], ids=["compressed", "not compressed"])
def test_what_was_unpacked_from_it_is_up_to_date_too(packed: bool, published: Published) -> None:
    data = gzip.compress(DATA) if packed else DATA
    published.publish(data, 1_000_000_001)
    runs = [published.run("download", published.url, "--decompress") for _ in range(2)]
    assert_that([run.status for run in runs], Equals([0, 0]), runs[1].stderr)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}{' of the compressed data' * packed}, raw"
    assert_that(runs[0].stderr, Contains(digest))
    assert_that(runs[1].stderr, Contains(f"is up to date: 100.0 KiB, {digest}"))


@pytest.mark.parametrize("kind", ["link", "dead link", "directory", "fifo"])
def test_what_is_no_file_is_refused_before_any_request(kind: str, published: Published) -> None:
    if "link" in kind:
        (published.run.work / "target").write_bytes(DATA) if kind == "link" else None
        published.here.symlink_to("target")
    elif kind == "directory":
        published.here.mkdir()
    else:
        os.mkfifo(published.here)
    refused = published.run("download", published.url)
    assert_that((refused.status, published.requests()), Equals((9, 0)))
    assert_that(refused.stderr, Contains("already exists"))


def test_a_file_in_the_way_costs_nothing_of_what_an_interrupted_run_left(
    imagebroker: Inside,
) -> None:
    data, work = DATA * 20, imagebroker.work
    with RawServer(CuttingServer(data, 1 << 20)) as raw:
        url = f"{raw.url}/a.img"
        assert_that(imagebroker("download", url, "--retries", "0").status, Equals(5))
        (work / "a.img").write_bytes(b"mine")
        assert_that(imagebroker("download", url).status, Equals(9))
        assert_that(list(work.glob(".a.img.*imagebroker-part")), HasLength(1))
        done = imagebroker("download", url, "a.img")
    assert_that(done.stderr, Contains("resumed at 1.0 MiB"))
    assert_that((work / "a.img").read_bytes() == data, Equals(True))
