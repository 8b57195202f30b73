"""`imagebroker cache list`: what the local cache holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from imagebroker.cli.cache_entry import COLUMNS, cache_row
from imagebroker.cli.command import ListCommand


class CacheList(ListCommand):
    """List the images in the cache, most recently used first."""

    column_names = COLUMNS

    def nothing(self, parsed_args: argparse.Namespace) -> str:
        return "the cache is empty"

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterator[Sequence[Any]]]:
        return COLUMNS, (cache_row(COLUMNS, each) for each in self.broker.cache.entries())
