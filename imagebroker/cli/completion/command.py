"""`imagebroker complete`: prints a completion script, or installs it."""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import cast

from imagebroker.cli.app import Application
from imagebroker.cli.command import BrokerCommand
from imagebroker.cli.completion.vocabulary import Vocabulary

SHELLS = ("bash", "zsh", "fish")


class Complete(BrokerCommand):
    """Print a completion script for bash, zsh or fish, or install it.

    `imagebroker complete --install` stores the script and the man page where your shell and `man`
    look for them. Without it, the script is printed, for `source <(imagebroker complete)` in
    ~/.bashrc, `source <(imagebroker complete --shell zsh)` in ~/.zshrc, or `imagebroker complete
    --shell fish | source` in ~/.config/fish/config.fish.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--shell", choices=SHELLS,
            help="the shell (default: bash; with --install, the login shell)",
        )  # fmt: skip
        parser.add_argument(
            "--install", action="store_true",
            help="store the script and the man page where the shell and man look for them",
        )  # fmt: skip
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        app = cast(Application, self.app)
        if not parsed_args.install:
            self.app.stdout.write(script(app, parsed_args.shell or "bash"))
            return
        from imagebroker.cli.completion.install import install
        from imagebroker.cli.manual import manual

        shell = parsed_args.shell or _login_shell()
        install(shell, script(app, shell), manual(app), self.console.note)


def script(app: Application, shell: str) -> str:
    """The completion script for `shell`, with the schemes of the installed plugins."""
    module = import_module(f"imagebroker.cli.completion.{shell}")
    text: str = module.script(Vocabulary(app))
    return text


def _login_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    return name if name in SHELLS else "bash"
