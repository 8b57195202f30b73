"""All commands with their parsers, for the completion script and the man page."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagebroker.cli.commands import COMMANDS
from imagebroker.cli.console import NAME

if TYPE_CHECKING:
    from imagebroker.cli.app import Application


@dataclass(frozen=True)
class Described:
    """One command."""

    name: str
    #: Its docstring.
    description: str
    parser: argparse.ArgumentParser
    #: The columns that `-c` can name.
    columns: tuple[str, ...]

    @property
    def options(self) -> list[argparse.Action]:
        return [action for action in actions(self.parser) if action.option_strings]

    @property
    def positionals(self) -> list[argparse.Action]:
        return [action for action in actions(self.parser) if not action.option_strings]


def described(app: Application) -> Iterator[Described]:
    """Every command, in the order in which help shows them."""
    for name in (*COMMANDS, "complete", "help"):
        command = app.command_manager.find_command(name.split())[0](app, None)
        yield Described(
            name,
            command.get_description(),
            command.get_parser(f"{NAME} {name}"),
            tuple(getattr(command, "column_names", ())),
        )


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments of a parser that help shows; argparse has no public way to ask."""
    return [each for each in parser._actions if each.help != argparse.SUPPRESS]
