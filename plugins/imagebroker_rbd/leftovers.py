"""Uploads that were abandoned."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from imagebroker.plugin import BackendHost, Image, ImageNotFound
from imagebroker_rbd.client import Cluster
from imagebroker_rbd.errors import translated
from imagebroker_rbd.names import UPLOAD, Place
from imagebroker_rbd.removal import remove


def abandoned(
    cluster: Cluster, host: BackendHost, place: Place, older_than: float, *, dry_run: bool
) -> Iterator[Image]:
    """Remove the uploads in a pool that are older than so many seconds, and yield each."""
    doing = f"cannot list the pool {place.pool}"
    with cluster.pool(place.pool, place.namespace) as pool, translated(doing):
        names = cluster.rbd.list(pool)
    before = datetime.now(UTC) - timedelta(seconds=older_than)
    for name in names:
        if not name.startswith(UPLOAD):
            continue
        found = Place(place.pool, name, None, place.namespace)
        try:
            image = _abandoned(cluster, host, found, before)
            if image is not None:
                if not dry_run:
                    remove(cluster, found, image.ref)
                yield image
        except ImageNotFound:
            continue  # somebody else has removed it


def _abandoned(cluster: Cluster, host: BackendHost, place: Place, before: datetime) -> Image | None:
    """The record of an upload, unless it is young or somebody writes it."""
    ref = place.uri(host)
    doing = f"cannot read {ref}"
    with cluster.open(place, ref) as opened:
        made = opened.call(doing, "create_timestamp").replace(tzinfo=UTC)
        if made > before or opened.listed(doing, "watchers_list"):
            return None
        return Image(ref, name=place.image, size=opened.call(doing, "size"), created_at=made)
