"""Large objects: manifests, the segments that they name, and segments that none names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import unquote

from imagebroker.plugin import (
    BackendHost,
    Image,
    ImageNotFound,
    MalformedAnswer,
    http,
    objects,
    peer,
)
from imagebroker_swift.client import Account
from imagebroker_swift.record import dynamic_prefix, is_static

#: Between the key of an object and the id of the upload whose segments follow.
MARK = "/.imagebroker-upload-"
#: Segments that are removed at once.
_PARALLEL = 4
#: Manifests within manifests.
_DEEPEST = 10


class Segment(NamedTuple):
    """An object that is a part of another."""

    container: str
    key: str
    size: int
    etag: str
    #: Whether it consists of segments itself.
    nested: bool = False


def manifest_of(segments: Sequence[Segment]) -> bytes:
    """What Swift makes a static large object of."""
    return json.dumps([
        {"path": f"/{each.container}/{each.key}", "size_bytes": each.size, "etag": each.etag}
        for each in segments
    ]).encode()  # fmt: skip


def read_manifest(account: Account, what: object, container: str, key: str) -> list[Segment]:
    """The segments that a static large object names."""
    url = account.url(container, key, multipart_manifest="get")
    listed = peer.document(account.ask(what, "GET", url).body, list, url.partition("?")[0])
    return [found for each in listed if (found := _segment(each)) is not None]


def _segment(entry: Any) -> Segment | None:
    """None: data in the manifest itself."""
    if isinstance(entry, dict) and "data" in entry:
        return None
    try:
        container, _, key = str(entry["name"]).lstrip("/").partition("/")
        return Segment(
            container, key, int(entry["bytes"]), str(entry.get("hash")), bool(entry.get("sub_slo"))
        )
    except (KeyError, TypeError, ValueError):
        raise MalformedAnswer("a manifest names something that is not a segment") from None


def all_segments(
    account: Account, what: object, container: str, key: str, depth: int = 0
) -> Iterator[Segment]:
    """The segments of a static large object, and those of its segments."""
    if depth > _DEEPEST:
        raise MalformedAnswer(f"{what}: its manifests are nested more than {_DEEPEST} deep")
    for each in read_manifest(account, what, container, key):
        if each.nested:
            yield from all_segments(account, what, each.container, each.key, depth + 1)
        yield each


def segments_below(account: Account, container: str, prefix: str) -> Iterator[Segment]:
    """The objects of a container that begin so."""
    for each in account.listed(container, prefix):
        size = peer.number(each.get("bytes"), "bytes", f"the container {container}") or 0
        yield Segment(container, each["name"], size, str(each.get("hash", "")))


def delete(account: Account, what: object, container: str, key: str, head: http.Head) -> None:
    """Remove an object, and then the segments that it consists of.

    In this order, because an image without some of its segments would be there and unreadable;
    segments that are left are found by `abandoned`.
    """
    segments: list[Segment] = []
    named = dynamic_prefix(head)
    if is_static(head):
        segments = list(all_segments(account, what, container, key))
    elif named is not None:
        where, _, prefix = unquote(named).lstrip("/").partition("/")
        if prefix:  # else: every object of a container
            segments = list(segments_below(account, where, prefix))
    account.ask(what, "DELETE", account.url(container, key))
    remove(account, [each for each in segments if (each.container, each.key) != (container, key)])


def remove(account: Account, segments: Sequence[Segment]) -> None:
    """Remove objects, a few at once; one that is gone already is fine."""

    def one(segment: Segment) -> None:
        try:
            account.ask(segment.key, "DELETE", account.url(segment.container, segment.key))
        except ImageNotFound:
            pass

    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="imagebroker-segment") as pool:
        list(pool.map(one, segments))


def abandoned(
    account: Account,
    host: BackendHost,
    place: objects.Place,
    container: str,
    older_than: float,
    *,
    dry_run: bool,
) -> Iterator[Image]:
    """Remove the segments of uploads that are so many seconds old, and that no object names;
    yields what each would have become."""
    latest = datetime.now(UTC) - timedelta(seconds=older_than)
    try:
        listed = list(_ours(account, container, place.prefix))
    except ImageNotFound:
        return  # nothing was ever stored in segments
    for group, found in groupby(listed, key=lambda each: _group(each["name"])):
        each = list(found)
        begun = [moment for one in each if (moment := peer.moment(one.get("last_modified")))]
        key = group.partition(MARK)[0]
        if not begun or max(begun) > latest or is_used(account, place.bucket, key, group):
            continue
        if not dry_run:
            remove(account, [Segment(container, one["name"], 0, "") for one in each])
        ref = host.uri(place.bucket, key)
        yield Image(ref, name=key.rpartition("/")[2], status="saving", created_at=min(begun))


def _ours(account: Account, container: str, prefix: str) -> Iterator[Mapping[str, Any]]:
    return (each for each in account.listed(container, prefix) if MARK in each["name"])


def _group(name: str) -> str:
    """What all segments of one upload begin with."""
    return name.rpartition("/")[0] + "/"


def is_used(account: Account, container: str, key: str, group: str) -> bool:
    """Whether the object consists of segments of this upload."""
    try:
        reply = account.ask(key, "HEAD", account.url(container, key))
        if not is_static(reply.head):
            return False
        segments = read_manifest(account, key, container, key)
    except ImageNotFound:
        return False
    return any(each.key.startswith(group) for each in segments)
