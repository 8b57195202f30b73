"""What the cache holds: each content once, under a digest, with the names that it is known by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

from imagebroker import Broker
from tests.conftest import Scripted

DATA = bytes(range(256)) * 1024


def digest(algorithm: str) -> str:
    return f"{algorithm}:{hashlib.new(algorithm, DATA).hexdigest()}"


@pytest.fixture
def cached(scripted: Scripted, tmp_path: Path) -> Broker:
    return scripted.configured(f"cache_dir = {tmp_path}/cache")


def entries(folder: Path) -> list[str]:
    """Files with content in the cache."""
    found = (folder / "cache").iterdir()
    return [path.name for path in found if path.is_file() and not path.is_symlink()
            and path.name != "lock"]  # fmt: skip


@pytest.mark.promise("cache-contents")
@pytest.mark.parametrize("order", [
    ("sha256", "sha512"), ("sha512", "sha256"), ("sha512", None), ("sha384", "sha512"),
])  # fmt: skip
def test_one_content_is_stored_once_whichever_digest_asked_for_it(
    order: tuple[str | None, ...], scripted: Scripted, cached: Broker, tmp_path: Path
) -> None:
    for number, algorithm in enumerate(order):
        ref, _ = scripted.image(DATA, path=f"/image-{number}", version="1")
        checksum = None if algorithm is None else digest(algorithm)
        cached.download(None, ref, tmp_path / f"dest-{number}", checksum=checksum)
    assert_that(entries(tmp_path), Equals([digest("sha256").replace(":", "-")]))
    for number in range(len(order)):
        done = cached.download(None, f"scripted://host/image-{number}", tmp_path / "again")
        assert_that(done.via, Equals("cache"))
        (tmp_path / "again").unlink()


@pytest.mark.promise("cache-contents")
def test_load_with_another_digest_stores_nothing_again(
    scripted: Scripted, cached: Broker, tmp_path: Path
) -> None:
    ref, _ = scripted.image(DATA, version="1")
    first = cached.load(None, ref, checksum=digest("sha512"))
    other, _ = scripted.image(DATA, path="/other", version="1")
    assert_that(cached.load(None, other, checksum=digest("sha256")).name, Equals(first.name))
    assert_that(first.checksum, Equals(digest("sha256")))
    assert_that(entries(tmp_path), HasLength(1))


@pytest.mark.promise("cache-contents")
def test_an_entry_shows_the_refs_and_names_that_led_to_it(
    scripted: Scripted, cached: Broker, tmp_path: Path
) -> None:
    for path, name in (("/a", "debian-12"), ("/b", "debian-12"), ("/c", "bookworm")):
        ref, _ = scripted.image(DATA, path=path, version="1", record={"name": name})
        cached.download(None, ref, tmp_path / path[1:])
    [entry] = cached.cache.entries()
    assert_that(entry.refs, Equals(tuple(f"scripted://host/{each}" for each in "abc")))
    assert_that(entry.names, Equals(("debian-12", "bookworm")))


@pytest.mark.promise("cache-contents")
def test_the_list_of_names_is_bounded_and_keeps_the_newest(
    scripted: Scripted, cached: Broker, tmp_path: Path
) -> None:
    for number in range(12):
        ref, _ = scripted.image(DATA, path=f"/{number}", version="1")
        cached.download(None, ref, tmp_path / f"dest-{number}")
    [entry] = cached.cache.entries()
    assert_that(entry.refs, Equals(tuple(f"scripted://host/{n}" for n in range(4, 12))))


@pytest.mark.promise("cache-contents")
def test_no_signature_of_a_ref_is_kept(
    make_broker: Callable[..., Broker], nginx: object, tmp_path: Path
) -> None:
    from tests.servers.nginx import Nginx

    assert isinstance(nginx, Nginx)
    (nginx.root / "cache-contents.raw").write_bytes(DATA)
    broker = make_broker(
        f"[imagebroker]\nenabled_schemes = http\ncache_dir = {tmp_path}/cache\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    url = nginx.url("/cache-contents.raw")
    broker.download(None, f"{url}?X-Amz-Signature=0123456789abcdef", tmp_path / "dest")
    [entry] = broker.cache.entries()
    assert_that(entry.refs, Equals((url,)))
    assert_that(str(entry), Not(Contains("0123456789abcdef")))


@pytest.mark.promise("cache-contents")
def test_labels_that_make_no_sense_are_none(
    scripted: Scripted, cached: Broker, tmp_path: Path
) -> None:
    import os

    ref, _ = scripted.image(DATA, version="1")
    cached.load(None, ref)
    [name] = entries(tmp_path)
    os.setxattr(tmp_path / "cache" / name, "user.imagebroker.labels", b'{"a": [')
    [entry] = cached.cache.entries()
    assert_that((entry.refs, entry.names), Equals(((), ())))
