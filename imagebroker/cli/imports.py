"""`imagebroker import`: a service fetches an image's bytes itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ShowCommand
from imagebroker.cli.images import record
from imagebroker.cli.progress import display
from imagebroker.model.image import FIELDS
from imagebroker.redaction import redact


class Import(ShowCommand):
    """Let the service fetch a queued image from --url, or copy an active one into --store.

    Waits until it is done. To end the waiting does not end the import.
    """

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        parser.add_argument("--url", metavar="URL", help="where the service is to fetch the data")
        parser.add_argument(
            "--store", action="append", dest="stores", default=[], metavar="NAME",
            help="one of the service's own stores; may be repeated",
        )  # fmt: skip
        parser.add_argument(
            "--deadline", type=arguments.seconds, metavar="SECONDS", help="wait no longer than this"
        )
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        limits = {} if parsed_args.deadline is None else {"deadline": parsed_args.deadline}
        with display(parsed_args.progress, self.console, redact(parsed_args.ref, 40)) as shown:
            image = self.broker.import_image(
                None,
                parsed_args.ref,
                url=parsed_args.url,
                stores=parsed_args.stores,
                progress=shown.callback,
                **limits,
            )
        return record(image, parsed_args)
