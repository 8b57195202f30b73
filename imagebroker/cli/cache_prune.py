"""`imagebroker cache prune`: makes room in the local cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.cache_entry import COLUMNS, cache_row
from imagebroker.cli.command import ListCommand


class CachePrune(ListCommand):
    """Remove images from the cache, least recently used first."""

    column_names = COLUMNS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--to", type=arguments.size, metavar="SIZE",
            help="remove images until the cache is no larger than SIZE (default: cache_size)",
        )  # fmt: skip
        parser.add_argument(
            "--unused", type=arguments.count, metavar="DAYS",
            help="also remove images that were not used for DAYS days; 0 removes all",
        )  # fmt: skip
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        days = parsed_args.unused
        since = None if days is None else datetime.now(UTC) - timedelta(days=days)
        gone = self.broker.cache.prune(parsed_args.to, since)
        return COLUMNS, [cache_row(COLUMNS, each) for each in gone]
