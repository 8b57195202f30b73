"""`imagebroker swarm init`: certificates for the hosts of a fleet."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagebroker.cli.command import ListCommand
from imagebroker.exceptions import BackendLoadError

_COLUMNS = ("file",)


class SwarmInit(ListCommand):
    """Create a CA for the fleet, unless it is there, and a certificate for each host.

    Copy ca.pem, and each host's own certificate and key, to the hosts; keep ca.key off them.
    """

    column_names = _COLUMNS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="where to write")
        parser.add_argument("hosts", metavar="HOST", nargs="*", help="names of hosts")
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        from imagebroker.swarm import certificates

        try:
            written = certificates.init(parsed_args.directory, parsed_args.hosts)
        except ImportError as error:
            raise BackendLoadError(
                f"certificates cannot be made: {error}", hint="pip install 'imagebroker[swarm]'"
            ) from error
        return _COLUMNS, [(str(path),) for path in written]
