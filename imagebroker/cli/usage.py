"""Errors of usage: wrong options and arguments, and what to type instead. Read only after one."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from itertools import pairwise

from imagebroker.cli import foreign
from imagebroker.cli.console import NAME
from imagebroker.cli.parsers import actions
from imagebroker.exceptions import UsageError
from imagebroker.redaction import redact
from imagebroker.system.spelling import nearest


def unknown_command(word: str, commands: Sequence[str]) -> UsageError:
    if word.startswith("-"):
        return UsageError(
            f"unknown option {redact(word, 100)!r} before the command",
            hint=f"put the options of a command after it; list the global ones with: {NAME} --help",
        )
    begun = [each for each in commands if each.startswith(f"{word} ")]
    near = begun or nearest(word, commands) or [foreign.COMMANDS.get(word, "")]
    return UsageError(
        f"unknown command {redact(word, 100)!r}",
        hint=f"did you mean {' or '.join(near)}?" if near[0] else
        f"list the commands with: {NAME} --help",
    )  # fmt: skip


def unknown_arguments(
    name: str, parser: argparse.ArgumentParser, unknown: Sequence[str], arguments: Sequence[str]
) -> UsageError:
    first = next((word for word in unknown if word.startswith("-")), unknown[0])
    word = redact(first.partition("=")[0], 100)
    if not word.startswith("-"):
        return UsageError(
            f"{name}: unexpected argument {word!r}", hint=_unexpected(name, word, arguments)
        )
    return UsageError(f"{name}: unknown option {word!r}", hint=_for_option(name, parser, word))


def _for_option(name: str, parser: argparse.ArgumentParser, word: str) -> str:
    if use := foreign.instead_of(word, name):
        return use
    if not word.startswith("--") and (use := foreign.instead_of(word[:2], name)):
        return use  # several short ones in one word, or one with its value
    known = [s for action in actions(parser) for s in action.option_strings]
    if near := nearest(word, known):
        return f"did you mean {' or '.join(near)}?"
    return _help(name)


#: What a word is probably meant for where no argument is expected.
_MEANT_FOR = {"create": "--file", "list": "--backend", "copy": "--backend", "update": "--file"}


def _unexpected(name: str, word: str, arguments: Sequence[str]) -> str:
    from imagebroker.transfer.codecs import AUTO, KINDS

    for option, value in pairwise(arguments):
        if option == "--decompress" and value in (AUTO, *KINDS):
            return f"write the kind with an equals sign: --decompress={value}"
    meant = _MEANT_FOR.get(name)
    if meant is not None and meant not in arguments:
        return f"write {meant} {shlex.quote(word)}"
    return _help(name)


def _help(name: str) -> str:
    return f"list the arguments and options with: {NAME} {name} --help"


def refused(
    name: str, parser: argparse.ArgumentParser, message: str, arguments: Sequence[str]
) -> UsageError:
    """The error for what argparse says of the arguments."""
    hint = _help(name)
    if "required: " in message and (unknown := _unknown_options(parser, arguments)):
        return unknown_arguments(name, parser, unknown, arguments)
    if match := re.match(r"ignored explicit argument '(.*)'", message.partition(": ")[2]):
        message = message.partition(":")[0]
        if "--decompress=" in message:
            kinds = [s.partition("=")[2] for s in re.findall(r"--decompress=\w+", message)]
            return UsageError(
                f"{name}: --decompress cannot be {redact(match[1], 40)!r}",
                hint=f"choose one of {', '.join(kinds)}, or leave it out to detect the kind",
            )
        message = f"{message}: takes no value, but {match[1]!r} was given"
    if "required: " in message:
        hint = f"run: {NAME} {name} {_arguments(parser)}; {hint}"
    return UsageError(f"{name}: {redact(message)}", hint=hint)


def _unknown_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Unknown options: a missing argument may have been taken for their value."""
    known = [spelling for action in parser._actions for spelling in action.option_strings]
    words = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    return [word for word in words if not any(each.startswith(word) for each in known)]


def _arguments(parser: argparse.ArgumentParser) -> str:
    """The arguments that are not options, as help writes them."""
    words = []
    for each in actions(parser):
        if not each.option_strings:
            word = str(each.metavar or each.dest) + ("..." if each.nargs == "+" else "")
            words.append(f"[{word}]" if each.nargs in ("?", "*") else word)
        elif each.required:
            words.append(f"{each.option_strings[0]} {each.metavar}")
    return " ".join(words)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether `-f json` is among arguments that could not be parsed."""
    return any(
        word in ("-fjson", "--format=json")
        or (word in ("-f", "--format") and arguments[at + 1 : at + 2] == ["json"])
        for at, word in enumerate(arguments)
    )
