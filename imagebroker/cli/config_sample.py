"""`imagebroker config sample`: a config file with every option."""

from __future__ import annotations

import argparse

from imagebroker.backends.entry_points import uncache_stevedore
from imagebroker.cli.command import BrokerCommand


class ConfigSample(BrokerCommand):
    """Print a sample config file with every option of the core and of the installed backends.

    The same as: oslo-config-generator --namespace imagebroker
    """

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from oslo_config import cfg, generator

        uncache_stevedore()
        conf = cfg.ConfigOpts()
        generator.register_cli_opts(conf)
        conf(
            ["--namespace", "imagebroker"], project="imagebroker",
            default_config_files=[], default_config_dirs=[], use_env=False,
        )  # fmt: skip
        generator.generate(conf, output_file=self.app.stdout)
