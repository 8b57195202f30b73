"""`imagebroker show`: the record of one image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ShowCommand
from imagebroker.cli.record import record
from imagebroker.exceptions import Gone
from imagebroker.model.image import FIELDS


class Show(ShowCommand):
    """Show the record of an image."""

    reads_files = True
    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        parser.add_argument(
            "--deleted", action="store_true", help="also show an image that was deleted"
        )
        parser.add_argument(
            "--locations", action="store_true", help="also show the locations of its data"
        )
        arguments.add_ca_file(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        try:
            image = self.broker.get(
                None,
                self.ref_of(parsed_args.ref),
                include_locations=parsed_args.locations,
                show_deleted=parsed_args.deleted,
            )
        except Gone as error:
            if not parsed_args.deleted:
                error.hint = "show what is left of it with --deleted"
            raise
        return record(image, parsed_args)
