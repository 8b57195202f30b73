"""URLs with a signature that runs out: what has arrived belongs to DEST and to the digest."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is, Not

from tests.cli.conftest import Inside
from tests.servers.cutting import CuttingServer
from tests.servers.raw import RawServer

MIB = 1 << 20
DATA = random.Random(9).randbytes(24 * MIB)
CHECKSUM = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
CUT = 8 * MIB
HINT = "16.0 MiB are kept; resume by running this command with a newly signed URL"

#: The query of a URL while it is valid, and a fresh one.
SIGNED = {
    "case": ("sig=A", "sig=B"),
    "S3": (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=1&X-Amz-Expires=60&X-Amz-Signature=a1",
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=2&X-Amz-Expires=60&X-Amz-Signature=b2",
    ),
    "Azure": ("sv=2024&se=1&sr=b&sp=r&sig=a1", "sv=2024&se=2&sr=b&sp=r&sig=b2"),
    "Swift": ("temp_url_sig=a1&temp_url_expires=1", "temp_url_sig=b2&temp_url_expires=2"),
    "a CDN": ("token=a1", "token=b2"),
}


def left() -> list[str]:
    return [name for name in os.listdir() if name.endswith("imagebroker-part")]


def expiring(query: str, status: str, after: int = 2) -> CuttingServer:
    """A URL with that query is good for so many answers."""
    server = CuttingServer(DATA, CUT)

    def refuse(line: str) -> str | None:
        return status if query.lower() in line and len(server.answers) >= after else None

    server.refuse = refuse
    return server


@pytest.mark.promise("kept-part")
@pytest.mark.parametrize("checksum", [True, False], ids=["digest", "strong version"])
@pytest.mark.parametrize("kind", SIGNED)
def test_with_a_fresh_signature_the_rest_is_asked_for(
    kind: str, checksum: bool, imagebroker: Inside
) -> None:
    old, fresh = SIGNED[kind]
    options = ("--checksum", CHECKSUM) if checksum else ()
    server = expiring(old, "403 Forbidden")
    with RawServer(server) as raw:
        first = imagebroker("download", f"{raw.url}/a.img?{old}", "o.img", *options)
        assert_that(first.status, Equals(4))
        assert_that(first.stderr, Contains(HINT))
        assert_that(left(), HasLength(1))
        server.answers.clear()
        again = imagebroker("download", f"{raw.url}/a.img?{fresh}", "o.img", *options)
    assert_that(again.status, Equals(0))
    assert_that(again.stderr, Contains("resumed at 16.0 MiB"))
    assert_that(server.answers[-1][1], Equals(16 * MIB))
    assert_that(Path("o.img").read_bytes() == DATA, Is(True))
    assert_that(os.listdir(), Equals(["o.img"]))


@pytest.mark.promise("kept-part")
@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Request has expired", "404 Not Found",
                                    "410 Gone", "400 ExpiredToken"])  # fmt: skip
def test_however_a_server_says_that_a_signature_has_run_out_the_part_stays(
    status: str, imagebroker: Inside
) -> None:
    server = expiring("sig=a", status)
    with RawServer(server) as raw:
        for _ in range(2):  # a second try with the old one costs nothing either
            done = imagebroker(
                "download", f"{raw.url}/a.img?sig=A", "o.img", "--checksum", CHECKSUM
            )
            assert_that(done.stderr, Contains(HINT))
        again = imagebroker("download", f"{raw.url}/a.img?sig=B", "o.img", "--checksum", CHECKSUM)
    assert_that(again.stderr, Contains("resumed at 16.0 MiB"))
    assert_that(Path("o.img").read_bytes() == DATA, Is(True))


@pytest.mark.promise("kept-part")
def test_the_same_digest_at_another_host_goes_on_too(imagebroker: Inside) -> None:
    with RawServer(expiring("sig=a", "403 Forbidden")) as raw:
        imagebroker("download", f"{raw.url}/a.img?sig=A", "o.img", "--checksum", CHECKSUM)
    mirror = CuttingServer(DATA, len(DATA), etag='"another"')
    with RawServer(mirror) as raw:
        imagebroker("download", f"{raw.url}/other/name", "o.img", "--checksum", CHECKSUM)
    assert_that(mirror.answers[-1][1], Equals(16 * MIB))
    assert_that(Path("o.img").read_bytes() == DATA, Is(True))


def test_a_local_copy_of_the_image_is_as_good(imagebroker: Inside, tmp_path: Path) -> None:
    with RawServer(expiring("sig=a", "403 Forbidden")) as raw:
        imagebroker("download", f"{raw.url}/a.img?sig=A", "o.img", "--checksum", CHECKSUM)
    (tmp_path / "copy.img").write_bytes(DATA)
    done = imagebroker("download", f"file://{tmp_path}/copy.img", "o.img", "--checksum", CHECKSUM)
    assert_that(done.status, Equals(0))
    assert_that(os.listdir(), Equals(["o.img"]))


@pytest.mark.promise("kept-part")
def test_part_files_do_not_pile_up(imagebroker: Inside) -> None:
    """One waits for each DEST, whatever was tried."""
    server = CuttingServer(DATA, CUT)
    with RawServer(server) as raw:
        for number in range(5):
            url = f"{raw.url}/{number}.img?token={number}"
            imagebroker("download", url, "o.img", "--retries", "0")
        imagebroker("download", f"{raw.url}/p.img", "p.img", "--retries", "0")
    assert_that(left(), HasLength(2))


def test_bytes_of_another_image_end_up_in_none(imagebroker: Inside) -> None:
    other = DATA[::-1]
    with RawServer(expiring("sig=a", "403 Forbidden")) as raw:
        imagebroker("download", f"{raw.url}/a.img?sig=A", "o.img", "--checksum", CHECKSUM)
    digest = f"sha256:{hashlib.sha256(other).hexdigest()}"
    server = CuttingServer(other, len(other))
    with RawServer(server) as raw:
        imagebroker("download", f"{raw.url}/a.img?sig=B", "o.img", "--checksum", digest)
    assert_that(Path("o.img").read_bytes() == other, Is(True))
    assert_that([start for _, start in server.answers], Not(Contains(16 * MIB)))
