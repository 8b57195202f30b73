"""`imagebroker resolve`: which backend an image belongs to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imagebroker.cli.command import ShowCommand
from imagebroker.cli.output import Cell


class Resolve(ShowCommand):
    """Show which backend handles an image, and why, without using the network."""

    column_names = ("ref", "backend", "distribution", "reason", "capabilities")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        found = self.broker.resolve(parsed_args.ref)
        values = (
            str(found.ref), found.backend, found.distribution, found.reason, found.capabilities
        )  # fmt: skip
        return self.column_names, [Cell(value) for value in values]
