"""An image in the local cache, as the cache commands show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imagebroker.cli.output import cell
from imagebroker.transfer.layers.cache import Cached

COLUMNS = ("checksum", "size", "used_at", "names", "refs")


def cache_row(names: Sequence[str], cached: Cached, **more: Any) -> list[Any]:
    return [cell(name, more[name] if name in more else getattr(cached, name)) for name in names]
