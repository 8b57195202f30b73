"""The words to complete: commands, options, their values, and beginnings of refs.

Not cliff's own scripts, which know neither values nor schemes, and mix up the options of different
commands.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from imagebroker.cli.app import Application
from imagebroker.cli.parsers import Described, actions, described
from imagebroker.registry import find_entry_points, installed_backends

#: What is completed for a positional argument, by its metavar.
_POSITIONAL = {"REF": "refs", "DEST": "files", "SCHEME": "schemes", "SECTION": "sections"}


class Vocabulary:
    """The commands, and the words of the installed plugins."""

    def __init__(self, app: Application) -> None:
        self.commands: Sequence[Described] = list(described(app))
        self.global_options: Sequence[argparse.Action] = actions(app.parser)

    @cached_property
    def first_words(self) -> dict[str, str]:
        """The first words of all commands, and what each does."""
        found: dict[str, str] = {}
        for each in self.commands:
            first, _, second = each.name.partition(" ")
            what = ", ".join(self.second_words[first]) if second else summary(each)
            found.setdefault(first, what)
        return found

    @cached_property
    def second_words(self) -> dict[str, dict[str, str]]:
        """The second words of commands like `config show`, by the first, and what each does."""
        found: dict[str, dict[str, str]] = {}
        for each in self.commands:
            first, _, second = each.name.partition(" ")
            if second:
                found.setdefault(first, {})[second] = summary(each)
        return found

    @cached_property
    def words(self) -> dict[str, Sequence[str]]:
        """Words of each kind, except files."""
        backends = sorted(each.name for each in installed_backends())
        return {
            "refs": sorted(set(_beginnings())),
            "schemes": sorted(find_entry_points()),
            "backends": backends,
            "sections": ["imagebroker", *(f"backend:{name}" for name in backends)],
            "commands": list(self.first_words),
        }


def summary(command: Described) -> str:
    return command.description.strip().split("\n")[0].rstrip(".")


def explained(option: argparse.Action) -> str:
    """The help text of an argument, on one line."""
    text = (option.help or "") % {"default": option.default, "prog": "imagebroker"}
    return " ".join(text.split())


def spellings(options: Iterable[argparse.Action]) -> list[str]:
    return [spelling for option in options for spelling in option.option_strings]


def valued(options: Iterable[argparse.Action]) -> list[str]:
    """Options that take a value."""
    return [s for option in options if option.nargs != 0 for s in option.option_strings]


def value_of(option: argparse.Action, command: Described | None = None) -> str | Sequence[str]:
    """The completion of an option's value: a kind (`files`, `backends`) or the values.

    Empty if nothing does.
    """
    if option.nargs == 0:
        return ""
    if option.choices:
        return [str(each) for each in option.choices]
    if option.dest == "columns" and command is not None:
        return list(command.columns)
    if option.dest == "backend":
        return "backends"
    if option.metavar == "FILE" or option.dest.endswith("file"):
        return "files"
    return ""


def argument_kind(positional: argparse.Action) -> str:
    """The completion of a positional argument: a kind of `Vocabulary.words`, `files`, or none."""
    if positional.dest == "cmd":
        return "commands"
    return _POSITIONAL.get(str(positional.metavar), "")


def repeated(positional: argparse.Action) -> bool:
    return positional.nargs in ("+", "*")


def _beginnings() -> Iterator[str]:
    """How refs of the installed schemes begin."""
    points = find_entry_points()
    for backend in installed_backends():
        form = backend.ref_form
        if form.id:
            yield f"{backend.name}:"
        named = form.host or form.authority
        for scheme, found in points.items():
            if (named or form.path) and found[0].value == points[backend.name][0].value:
                yield f"{scheme}://" if named else f"{scheme}:///"
