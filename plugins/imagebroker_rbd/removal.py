"""Removes images and snapshots, unless they have clones."""

from __future__ import annotations

from typing import Any

from imagebroker_rbd.client import Cluster
from imagebroker_rbd.errors import has_clones, translated
from imagebroker_rbd.image_state import user_snapshots
from imagebroker_rbd.names import Place
from imagebroker_rbd.operations import OpenImage
from imagebroker_rbd.records import key_of


def remove(cluster: Cluster, place: Place, subject: str) -> None:
    """Remove an image with all its snapshots.

    :raises Conflict: a snapshot has clones, or somebody uses the image.
    """
    doing = f"cannot delete {subject}"
    with cluster.open(place.at(None), subject, writable=True) as opened:
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
