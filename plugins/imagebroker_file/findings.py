"""What `imagebroker check` finds out about the store: it can be read."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.plugin import Finding, ImageQuery
from imagebroker_file.store import Store


def check(store: Store) -> Iterator[Finding]:
    """Read one record. A store that is not there yet is made when an image is created."""
    if not store.is_there:
        return
    for _ in store.get_all(None, ImageQuery(limit=1)):
        break
    yield Finding(f"the image store {store.directory} can be read", option="store_dir")
