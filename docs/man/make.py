"""Writes the manual page to standard output: `python docs/man/make.py > docs/man/imagebroker.1`.

From the command's own parsers and from docs/command.md, so that it says nothing else than they do;
a test compares it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from imagebroker.cli.app import Application
from imagebroker.cli.console import Console
from imagebroker.cli.parsers import Described, actions, described

DOCS = Path(__file__).parents[1]


def escaped(text: str) -> str:
    """Text that roff takes for nothing else."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return "\n".join(
        ("\\&" if line.startswith((".", "'")) else "") + line for line in text.splitlines()
    )


def paragraph(text: str) -> str:
    return escaped(" ".join(text.split()))


def argument(action: argparse.Action) -> str:
    """What stands for the value of an argument."""
    if action.choices and action.metavar is None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def spelled(option: argparse.Action) -> str:
    names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in option.option_strings)
    return names if option.nargs == 0 else f"{names} \\fI{escaped(argument(option))}\\fR"


def explained(options: Iterable[argparse.Action]) -> Iterator[str]:
    for option in options:
        yield ".TP"
        yield spelled(option)
        yield paragraph((option.help or "") % {"default": option.default, "prog": "imagebroker"})


def synopsis(command: Described) -> str:
    """The command with its positional arguments."""
    words = [f"\\fBimagebroker {escaped(command.name)}\\fR", "[\\fIOPTION\\fR]..."]
    for each in command.positionals:
        word = f"\\fI{escaped(argument(each))}\\fR"
        if each.nargs == "+":
            word += "..."
        words.append(f"[{word}]" if each.nargs in ("?", "*") else word)
    return " ".join(words)


def statuses() -> Iterator[str]:
    """The table of exit statuses in docs/command.md."""
    text = (DOCS / "command.md").read_text(encoding="utf-8").partition("## Exit status")[2]
    for status, meaning in re.findall(r"^\| (\d+) \| (.*?) \|$", text, flags=re.MULTILINE):
        yield ".TP"
        yield f"\\fB{status}\\fR"
        yield paragraph(meaning)
    yield ".P"
    last = re.findall(r"^`check` alone.*$", text, flags=re.MULTILINE)
    yield paragraph(last[0])


def page() -> Iterator[str]:
    app = Application(Console())
    yield '.\\" Written by docs/man/make.py: do not edit.'
    yield '.TH IMAGEBROKER 1 "" imagebroker "User Commands"'
    yield ".SH NAME"
    yield "imagebroker \\- get, store and list disk images, wherever they live"
    yield ".SH SYNOPSIS"
    yield "\\fBimagebroker\\fR [\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIARGUMENT\\fR]..."
    yield ".SH DESCRIPTION"
    yield paragraph(
        "Images are named by a ref: a UUID in the default backend, NAME[:INSTANCE]:UUID, a URL "
        "(http, https), file:///path or scp://[user@]host[:port]/path, each with an optional pin "
        "#sha256=HEX or #sha512=HEX. A file is at every instant either what it was or the complete "
        "and verified image. An error says what happened, where the option stands that decides, "
        "and what to do."
    )
    yield ".SH OPTIONS"
    yield from explained(actions(app.parser))
    yield ".SH COMMANDS"
    for command in described(app):
        yield f".SS {escaped(command.name)}"
        yield synopsis(command)
        for part in re.split(r"\n\s*\n", command.description.strip()):
            yield ".P"
            yield paragraph(part)
        yield from explained(command.options)
    yield ".SH EXIT STATUS"
    yield from statuses()
    yield ".SH FILES"
    for file, meaning in (
        ("$XDG_CONFIG_HOME/imagebroker/imagebroker.conf", "the person's configuration"),
        ("/etc/imagebroker/imagebroker.conf", "the host's, where the person has none"),
        ("$XDG_DATA_HOME/imagebroker", "the store that is used without any configuration"),
        (".DEST.KEY.imagebroker-part", "what is kept of a broken download, beside DEST"),
    ):
        yield ".TP"
        yield f"\\fI{escaped(file)}\\fR"
        yield meaning
    yield ".SH EXAMPLES"
    for example in (
        "imagebroker download https://example.org/disk.qcow2",
        "imagebroker download https://example.org/disk.qcow2#sha256=HEX /var/lib/images/disk.qcow2",
        "imagebroker -q download glance:UUID - > /dev/vg/volume",
        "imagebroker create --file disk.qcow2 --disk-format qcow2 --name disk",
        "imagebroker --config-file /etc/imagebroker/imagebroker.conf check",
    ):
        yield ".P"
        yield ".nf"
        yield escaped(example)
        yield ".fi"


if __name__ == "__main__":
    sys.stdout.write("\n".join(page()) + "\n")
