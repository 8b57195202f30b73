"""`imagebroker config sample`: a first config file, and below it every option."""

from __future__ import annotations

import argparse
import io
import re

from imagebroker.backends.entry_points import uncache_stevedore
from imagebroker.cli.command import BrokerCommand
from imagebroker.config.options import GROUP

#: What a first config file needs.
_FIRST = """\
[imagebroker]
# Schemes that refs may have; all others are refused.
enabled_schemes = file, https
# Backend for plain ids, and for list and create.
default_backend = file
# Keep verified images, so that the next download is a local copy.
#cache_dir = /var/cache/imagebroker

[backend:file]
# Where images are stored that are created here.
store_dir = /var/lib/imagebroker
# Directories that file: refs may read.
allowed_paths =

# OpenStack: add glance to enabled_schemes. Then try it: imagebroker check
#[backend:glance]
#auth_type = password
#auth_url = https://keystone.example.org:5000/v3
#username = imagebroker
#password =
#project_name = service
#user_domain_name = Default
#project_domain_name = Default
"""

_REST = """

# All options, with their defaults. A service that reloads its configuration gets new values without
# a restart.

"""
#: What the generator says at every option, or at every section.
_NOISE = re.compile(
    r"# Note: This option can be changed without restarting\.\n"
    r"|#\n# This option has a sample default set, which means that\n"
    r"# its actual default value may vary from the one documented\n# below\.\n"
    r"|\n#\n# From imagebroker\n#\n"
)


class ConfigSample(BrokerCommand):
    """Print a first config file, and below it every option of the core and the backends.

    The options are commented, with their defaults, as from: oslo-config-generator --namespace
    imagebroker
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--minimal", action="store_true", help="leave out the list of all options"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        self.app.stdout.write(_FIRST if parsed_args.minimal else _FIRST + _REST + all_options())


def all_options() -> str:
    """A section for the core and for each installed backend, with every option commented."""
    from oslo_config import cfg, generator

    uncache_stevedore()
    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    conf(
        ["--namespace", "imagebroker"], project="imagebroker",
        default_config_files=[], default_config_dirs=[], use_env=False,
    )  # fmt: skip
    text = io.StringIO()
    generator.generate(conf, output_file=text)
    sections = re.split(r"(?m)^(?=\[)", _NOISE.sub("", text.getvalue()))
    ours = [each.rstrip() for each in sections if each and not each.startswith("[DEFAULT]")]
    ours.sort(key=lambda each: not each.startswith(f"[{GROUP}]"))  # the core's first
    return "\n\n\n".join(ours) + "\n"
