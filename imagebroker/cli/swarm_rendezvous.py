"""`imagebroker swarm rendezvous`: where the hosts of a fleet find each other."""

from __future__ import annotations

import argparse
from pathlib import Path

from imagebroker.cli.command import BrokerCommand
from imagebroker.exceptions import ConfigError


class SwarmRendezvous(BrokerCommand):
    """Tell the hosts of a fleet about each other, until interrupted.

    Its state is in memory: it may die at any time, and be started again elsewhere.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--listen", default="0.0.0.0:7880", metavar="ADDRESS:PORT",
            help="where to listen (default: %(default)s)",
        )  # fmt: skip
        for name, what in (
            ("ca", "certificate of the fleet's CA"),
            ("certificate", "this host's certificate"),
            ("key", "key of this host's certificate"),
        ):
            parser.add_argument(
                f"--{name}", type=Path, required=True, metavar="FILE", help=what
            )  # fmt: skip
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from imagebroker.swarm.certificates import Identity
        from imagebroker.swarm.rendezvous import Server

        identity = Identity(parsed_args.ca, parsed_args.certificate, parsed_args.key)
        identity.check()
        host, _, port = parsed_args.listen.rpartition(":")
        try:
            server = Server((host.strip("[]"), int(port)), identity)
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {parsed_args.listen}: {error}",
                hint="name an address of this host and a free port with --listen",
            ) from error
        with server:
            at = server.server_address[1]
            self.app.stdout.write(f"listening on {host}:{at}\n")
            self.app.stdout.flush()
            server.serve_forever()
