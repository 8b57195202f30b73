"""`imagebroker import`: the image service fetches the data itself."""

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


class Import(ShowCommand):
    """Have the service fetch a queued image from --url, or copy an active one to --store.

    Waits for the import to finish. Ctrl-C only stops waiting: the import continues.
    """

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        parser.add_argument("--url", metavar="URL", help="URL that the service fetches it from")
        parser.add_argument(
            "--store", action="append", dest="stores", default=[], metavar="NAME",
            help="store of the service to put it in; repeatable",
        )  # fmt: skip
        parser.add_argument(
            "--deadline", type=arguments.seconds, metavar="SECONDS",
            help="stop waiting after this time",
        )  # fmt: skip
        arguments.add_ca_file(parser)
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        limits = {} if parsed_args.deadline is None else {"deadline": parsed_args.deadline}
        ref = self.ref_of(parsed_args.ref)
        with display(parsed_args.progress, self.console, redact(parsed_args.ref, 40)) as shown:
            image = self.broker.import_image(
                None,
                ref,
                url=parsed_args.url,
                stores=parsed_args.stores,
                progress=shown.callback,
                **limits,
            )
        return record(image, parsed_args)
