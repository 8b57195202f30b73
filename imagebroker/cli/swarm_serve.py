"""`imagebroker swarm serve`: passes the images in the cache on to other hosts of the fleet."""

from __future__ import annotations

import argparse
import os
from contextlib import closing
from typing import TYPE_CHECKING

from imagebroker.cli.command import BrokerCommand
from imagebroker.exceptions import ConfigError

if TYPE_CHECKING:
    from imagebroker.swarm.cache_server import Images


class SwarmServe(BrokerCommand):
    """Pass the images in the cache on to other hosts of the fleet, until interrupted.

    It asks no backend: other hosts prove by its bytes that their own backend lets them read an
    image, and get nothing before.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--ports", default="7889-7920", metavar="FIRST-LAST",
            help="hosts call the first that is free; images travel on the others, one on each "
            "(default: %(default)s)",
        )  # fmt: skip
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        fleet = self.broker.fleet
        if fleet is None:
            raise ConfigError("no swarm is configured", hint="set swarm = true in [imagebroker]")
        from imagebroker.swarm.cache_server import CacheServer, every_port, image

        cache = self.broker.cache

        def images() -> Images:
            found: dict[str, tuple[str, str, str, int]] = {}
            for each in cache.entries():
                if each.size >= fleet.from_size:
                    path = os.path.abspath(cache.path / each.name)
                    found |= image(path, each.algorithm, each.digest, each.size)
            return found

        with closing(CacheServer(fleet, every_port(parsed_args.ports), images)) as keeper:
            keeper.serve(lambda port: self._listening(fleet.address, port))

    def _listening(self, address: str, port: int) -> None:
        self.app.stdout.write(f"serving at {address}:{port}\n")
        self.app.stdout.flush()
