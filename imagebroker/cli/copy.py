"""`imagebroker copy`: an image from one backend into another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ShowCommand
from imagebroker.cli.progress import display
from imagebroker.cli.record import record
from imagebroker.model.image import FIELDS
from imagebroker.redaction import redact


class Copy(ShowCommand):
    """Copy an image to another backend, verified on both sides."""

    reads_files = True
    column_names = (*FIELDS, "not_stored")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image to copy")
        arguments.add_backend(parser, "backend to copy it to", required=True)
        parser.add_argument(
            "--strict", action="store_true",
            help="fail if the backend cannot store a field of the record",
        )  # fmt: skip
        arguments.add_field_options(parser)
        arguments.add_transfer_options(parser)
        arguments.add_ca_file(parser)
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        title = redact(parsed_args.ref, 40)
        ref = self.ref_of(parsed_args.ref)
        with display(parsed_args.progress, self.console, title) as shown:
            image = self.broker.copy(
                None,
                ref,
                arguments.field_values(parsed_args),
                backend=parsed_args.backend,
                strict=parsed_args.strict,
                progress=shown.callback,
                **arguments.transfer_arguments(parsed_args, ref, parsed_args.ref),
            )
        return record(image, parsed_args, self.column_names)
