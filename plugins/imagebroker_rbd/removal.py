"""Removes images and snapshots, unless they have clones."""

from __future__ import annotations

from shlex import quote
from typing import Any

from imagebroker.plugin import Conflict, printable
from imagebroker_rbd.client import Cluster
from imagebroker_rbd.errors import has_clones, translated
from imagebroker_rbd.image_state import user_snapshots
from imagebroker_rbd.names import Place
from imagebroker_rbd.operations import OpenImage
from imagebroker_rbd.records import key_of

#: What librbd calls its own locks.
_OF_A_CLIENT = "auto "


def remove(cluster: Cluster, place: Place, subject: str) -> None:
    """Remove an image with all its snapshots.

    :raises Conflict: a snapshot has clones, or somebody uses the image, or has locked it.
    """
    doing = f"cannot delete {subject}"
    with cluster.open(place.at(None), subject, writable=True) as opened:
        _check_lock(opened, place, subject, doing)
        snapshots = user_snapshots(opened, doing)
        for each in snapshots:  # all before the first is removed
            _check_clones(opened, each["name"], subject, doing)
        for each in snapshots:
            _remove_snapshot(opened, each, doing)
    with cluster.pool(place.pool, place.namespace) as pool, translated(doing):
        cluster.rbd.remove(pool, place.image)


def remove_snapshot(cluster: Cluster, place: Place, subject: str) -> int:
    """Remove one snapshot; how many are left.

    :raises Conflict: it has clones.
    """
    doing = f"cannot delete {subject}"
    with cluster.open(place.at(None), subject, writable=True) as opened:
        for each in user_snapshots(opened, doing):
            if each["name"] == place.snapshot:
                _check_clones(opened, each["name"], subject, doing)
                _remove_snapshot(opened, each, doing)
        return len(user_snapshots(opened, doing))


def _check_lock(opened: OpenImage, place: Place, subject: str, doing: str) -> None:
    """Ceph itself would wait until somebody removes a lock of `rbd lock add`.

    A client that writes has a lock too, but that one is asked to give it up.
    """
    held = opened.call(doing, "list_lockers") or {}
    for client, cookie, _ in held.get("lockers", ()):
        if not cookie.startswith(_OF_A_CLIENT):
            named = "/".join(filter(None, (place.pool, place.namespace, place.image)))
            words = " ".join(map(quote, (named, cookie, client)))
            raise Conflict(
                f"{subject} is locked by {client}, as {printable(cookie, 100)!r}",
                hint=f"if nobody uses it: rbd lock rm {words}",
            )


def _check_clones(opened: OpenImage, snapshot: str, subject: str, doing: str) -> None:
    opened.call(doing, "set_snap", snapshot)
    try:
        clones = opened.listed(doing, "list_children2")
    finally:
        opened.call(doing, "set_snap", None)
    if clones:
        raise has_clones(subject, [_named(each) for each in clones])


def _named(clone: dict[str, Any]) -> str:
    parts = (clone.get("pool"), clone.get("pool_namespace"), clone.get("image"))
    return "/".join(str(part) for part in parts if part)


def _remove_snapshot(opened: OpenImage, snapshot: dict[str, Any], doing: str) -> None:
    name = snapshot["name"]
    if opened.call(doing, "is_protected_snap", name):
        opened.call(doing, "unprotect_snap", name)
    opened.call(doing, "remove_snap", name)
    try:
        opened.call(doing, "metadata_remove", key_of(snapshot["id"]))
    except KeyError:
        pass  # it had no record
