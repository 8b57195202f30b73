"""The list of the directory of an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imagebroker_scp import ScpBackend
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.model.reference import parse
from imagebroker.plugin import Image, ImageData, ImageQuery, InvalidImageRef, UnsupportedOperation
from tests.plugins.scp.endpoint import log_of, with_endpoint
from tests.plugins.scp_peers import fetched, make_backend, ssh_threads
from tests.servers.sshd import Sshd


def names(backend: ScpBackend, **query: Any) -> list[str | None]:
    return [image.name for image in backend.get_all(None, ImageQuery(**query))]


def test_the_list_has_the_regular_files_of_the_directory(sshd: Sshd, folder: Path) -> None:
    backend = with_endpoint(sshd, folder)
    images = {image.name: image for image in backend.get_all(None, ImageQuery())}
    assert_that(sorted(images, key=str), Equals(["a b.qcow2", "b.raw", "c"]))
    image = images["a b.qcow2"]
    assert_that(image.size, Equals(299))
    assert_that(image.status, Equals("active"))
    assert_that(image.ref, Equals(f"{sshd.url(folder)}/a%20b.qcow2"))
    assert_that(fetched(image.ref, backend), Equals(b"x" * 299))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"sort_key": "name", "sort_dir": "asc"}, ["a b.qcow2", "b.raw", "c"]),
        ({"sort_key": "name", "sort_dir": "desc"}, ["c", "b.raw", "a b.qcow2"]),
        ({"sort_key": "size", "sort_dir": "asc"}, ["c", "a b.qcow2", "b.raw"]),
        ({"sort_key": "updated_at"}, ["c", "a b.qcow2", "b.raw"]),
        ({"sort_key": "name", "sort_dir": "asc", "limit": 2}, ["a b.qcow2", "b.raw"]),
        ({"limit": 0}, []),
        ({"sort_key": "name", "sort_dir": "asc", "marker": "b.raw"}, ["c"]),
        ({"filters": {"name": "c"}}, ["c"]),
        ({"filters": {"name": ["c", "b.raw"], "status": "active"}}, ["c", "b.raw"]),
        ({"filters": {"size_min": 299, "size_max": "299"}}, ["a b.qcow2"]),
        ({"filters": {"changes-since": "2023-11-14T22:13:21Z"}}, ["c", "a b.qcow2"]),
        ({"filters": {"status": "queued"}}, []),
        ({"filters": {"hidden": True}}, []),
        ({"filters": {"hidden": False, "name": "c"}}, ["c"]),
        ({"filters": {"property-os": "linux"}}, []),
        ({"filters": {"disk_format": "raw"}}, []),
    ],
    ids=str,
)
def test_the_list_is_sorted_filtered_and_cut(
    sshd: Sshd, folder: Path, query: dict[str, Any], expected: list[str]
) -> None:
    assert_that(names(with_endpoint(sshd, folder), **query), Equals(expected))


@pytest.mark.parametrize(
    "query",
    [
        {"sort_key": "shoe size"}, {"sort_dir": "up"}, {"filters": {"shoe size": 1}},
        {"filters": {"size_min": "big"}}, {"filters": {"changes-since": "yesterday"}},
        {"limit": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_refused_at_once(
    sshd: Sshd, folder: Path, query: dict[str, Any]
) -> None:
    log = len(log_of(sshd))
    with pytest.raises(InvalidImageRef):
        with_endpoint(sshd, folder).get_all(None, ImageQuery(**query))
    # What an earlier session's end still writes is no business of this one.
    assert_that("Connection from" in log_of(sshd)[log:], Equals(False))


def test_a_marker_that_is_not_there_is_refused(sshd: Sshd, folder: Path) -> None:
    with pytest.raises(InvalidImageRef):
        names(with_endpoint(sshd, folder), marker="gone")


def test_a_list_that_is_left_early_leaves_no_connection(sshd: Sshd, folder: Path) -> None:
    listing = with_endpoint(sshd, folder).get_all(None, ImageQuery())
    next(listing)
    del listing
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.parametrize("verb", ["list", "create", "delete"])
def test_without_an_endpoint_there_is_nothing_to_list_or_change(
    sshd: Sshd, image: Path, verb: str
) -> None:
    backend = make_backend(sshd)
    calls: dict[str, Callable[[], Any]] = {
        "list": lambda: list(backend.get_all(None, ImageQuery())),
        "create": lambda: backend.create(None, Image(ref="", name="new"), ImageData(b"x")),
        "delete": lambda: backend.delete(None, parse(sshd.url(image))),
    }
    with pytest.raises(UnsupportedOperation) as caught:
        calls[verb]()
    assert_that(caught.value.hint, Contains("endpoint"))
    assert_that(image.exists(), Is(True))
