"""`imagebroker cache load`: fetches an image into the local cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.cache_entry import COLUMNS, cache_row
from imagebroker.cli.checksum_argument import checksum_of
from imagebroker.cli.command import ShowCommand
from imagebroker.cli.console import NAME
from imagebroker.cli.progress import display
from imagebroker.redaction import redact


class CacheLoad(ShowCommand):
    """Download an image into the cache, verified, unless it is already there."""

    column_names = COLUMNS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        parser.add_argument(
            "--checksum",
            metavar="DIGEST|URL|FILE|-",
            help="digest that the image must have, as for download",
        )
        arguments.add_ca_file(parser)
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        title = redact(parsed_args.ref, 40) or NAME
        with display(parsed_args.progress, self.console, title) as shown:
            ref, checksum = self.ref_of(parsed_args.ref), parsed_args.checksum
            if checksum is not None:
                checksum = checksum_of(checksum, ref, parsed_args.ref).checksum
            cached = self.broker.load(None, ref, checksum=checksum, progress=shown.callback)
        return COLUMNS, cache_row(COLUMNS, cached)
