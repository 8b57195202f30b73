"""`imagebroker cache`: what the local cache holds, whether it is intact, what shall be in it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ListCommand, ShowCommand
from imagebroker.cli.console import NAME
from imagebroker.cli.exit_status import exit_status
from imagebroker.cli.output import cell
from imagebroker.cli.progress import display
from imagebroker.exceptions import ChecksumMismatch
from imagebroker.redaction import redact
from imagebroker.transfer.layers.cache import Cached

_COLUMNS = ("checksum", "size", "used_at")


def _row(names: Sequence[str], cached: Cached, **more: Any) -> list[Any]:
    return [cell(name, more[name] if name in more else getattr(cached, name)) for name in names]


class CacheList(ListCommand):
    """List the images in the cache, the last used first."""

    column_names = _COLUMNS

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterator[Sequence[Any]]]:
        return _COLUMNS, (_row(_COLUMNS, each) for each in self.broker.cache.entries())


class CacheVerify(ListCommand):
    """Read every image in the cache, and remove what is damaged; the exit status is then 6."""

    column_names = ("checksum", "size", "intact")

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        found = list(self.broker.cache.verify())
        if not all(intact for _, intact in found):
            self.status = exit_status(ChecksumMismatch(""))
        names = self.column_names
        return names, [_row(names, cached, intact=intact) for cached, intact in found]


class CachePrune(ListCommand):
    """Remove images from the cache, those first that were not used for the longest time."""

    column_names = _COLUMNS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--to", type=arguments.size, metavar="SIZE",
            help="until so much is left; by default cache_size",
        )  # fmt: skip
        parser.add_argument(
            "--unused", type=arguments.count, metavar="DAYS",
            help="also what was not used for so many days; 0 is everything",
        )  # fmt: skip
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        days = parsed_args.unused
        since = None if days is None else datetime.now(UTC) - timedelta(days=days)
        gone = self.broker.cache.prune(parsed_args.to, since)
        return _COLUMNS, [_row(_COLUMNS, each) for each in gone]


class CacheLoad(ShowCommand):
    """Fetch an image into the cache, verified, unless it is there."""

    column_names = _COLUMNS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        parser.add_argument(
            "--checksum", metavar="ALGORITHM:HEX", help="digest that the bytes must have"
        )
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        title = redact(parsed_args.ref, 40) or NAME
        with display(parsed_args.progress, self.console, title) as shown:
            cached = self.broker.load(
                None, parsed_args.ref, checksum=parsed_args.checksum, progress=shown.callback
            )
        return _COLUMNS, _row(_COLUMNS, cached)
