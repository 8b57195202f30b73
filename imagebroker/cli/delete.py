"""`imagebroker delete`."""

from __future__ import annotations

import argparse

from imagebroker.cli import arguments
from imagebroker.cli.command import BrokerCommand
from imagebroker.exceptions import ImageBrokerError


class Delete(BrokerCommand):
    """Delete images. A download that is already running can finish."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("refs", metavar="REF", nargs="+", help="an image")
        arguments.add_ca_file(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Try all of them; the exit status is that of the first failure."""
        status = 0
        for ref in parsed_args.refs:
            try:
                self.broker.delete(None, self.ref_of(ref))
            except ImageBrokerError as error:
                failed = self.console.error(error)
                status = status or failed
        return status
