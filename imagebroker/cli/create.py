"""`imagebroker create`: a new image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ShowCommand
from imagebroker.cli.image_data import UNCHECKED_HELP, add_file_options, opened_data
from imagebroker.cli.record import record
from imagebroker.model.image import FIELDS


class Create(ShowCommand):
    """Create an image, and upload its data with --file; if that fails, no image is left."""

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_backend(parser, "backend to create it in (default: default_backend)")
        parser.add_argument(
            "--id", metavar="UUID", help="id of the image (default: chosen by the backend)"
        )
        add_file_options(parser)
        parser.add_argument(
            "--keep-record", action="store_true",
            help="if the upload fails, keep the record, for `imagebroker update REF --file FILE`",
        )  # fmt: skip
        parser.add_argument(
            "--location", action="append", dest="locations", metavar="URL",
            help="use data that is already stored at URL, instead of --file; repeatable",
        )  # fmt: skip
        arguments.add_no_check_format(parser, UNCHECKED_HELP)
        arguments.add_field_options(parser)
        arguments.add_ca_file(parser)
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        info = arguments.field_values(parsed_args)
        for name in ("id", "locations"):
            if getattr(parsed_args, name):
                info[name] = getattr(parsed_args, name)
        with opened_data(parsed_args, self) as data:
            image = self.broker.create(
                None,
                info,
                data,
                backend=parsed_args.backend,
                keep_record=parsed_args.keep_record,
                check_format=arguments.checks_format(parsed_args),
            )
        return record(image, parsed_args)
