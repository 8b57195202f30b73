"""`imagebroker purge`: removes leftovers of deleted images and failed uploads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ListCommand
from imagebroker.cli.output import cell
from imagebroker.model.image import FIELDS

_SHOWN = ("ref", "name", "status", "owner", "updated_at")


class Purge(ListCommand):
    """Remove leftovers of deleted images and of failed uploads, and list them."""

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_backend(parser, "backend to clean up (default: default_backend)")
        parser.add_argument(
            "--older-than", type=arguments.age, default=7 * 86400.0, metavar="AGE",
            help="remove only what is older, in seconds or like 90m, 12h (default: 7d)",
        )  # fmt: skip
        parser.add_argument(
            "--dry-run", action="store_true", help="list what would be removed, but remove nothing"
        )
        arguments.add_ca_file(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterator[Sequence[Any]]]:
        images = self.broker.purge(
            None,
            backend=parsed_args.backend,
            older_than=parsed_args.older_than,
            dry_run=parsed_args.dry_run,
        )
        names = FIELDS if parsed_args.columns else _SHOWN
        return names, ([cell(name, getattr(image, name)) for name in names] for image in images)
