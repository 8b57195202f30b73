"""A copy from the cache says so, and the list of the cache says what is in it."""

from __future__ import annotations

from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesRegex

from tests.cli.conftest import Inside


def stored(imagebroker: Inside) -> str:
    imagebroker.config(
        f"[imagebroker]\nenabled_schemes = file\ncache_dir = {imagebroker.folder}/cache\n"
        f"[backend:file]\nstore_dir = {imagebroker.folder}/store\n"
    )
    (imagebroker.work / "disk.raw").write_bytes(bytes(range(256)) * 40)
    done = imagebroker("create", "--file", "disk.raw", "--name", "debian-12", "-f", "json")
    ref: str = done.record["ref"]
    imagebroker("cache", "load", ref)
    return ref


def test_the_line_says_that_it_came_from_the_cache(imagebroker: Inside) -> None:
    done = imagebroker("download", stored(imagebroker), "dest")
    assert_that(done.stderr, MatchesRegex("imagebroker: stored dest: 10.0 KiB from the cache"))


def test_json_says_so_too(imagebroker: Inside) -> None:
    ref = stored(imagebroker)
    assert_that(imagebroker("download", ref, "dest", "-f", "json").record["via"], Equals("cache"))


def test_the_list_shows_names_and_refs(imagebroker: Inside) -> None:
    ref = stored(imagebroker)
    [row] = imagebroker("cache", "list", "-f", "json").record
    assert_that((row["names"], row["refs"]), Equals((["debian-12"], [ref])))
    assert_that(row["checksum"], MatchesRegex("sha256:[0-9a-f]{64}"))
    assert_that(imagebroker("cache", "list").stdout.decode(), Contains("debian-12"))
