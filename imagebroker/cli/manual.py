"""The man page, made from the command's parsers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator

from imagebroker.cli.app import Application
from imagebroker.cli.completion.vocabulary import explained as help_of
from imagebroker.cli.parsers import Described, actions, described

#: What each exit status means.
STATUSES = {
    "0": "done",
    "1": "any other error: a conflict, a transfer error that retrying does not fix",
    "2": "invalid ref, checksum or argument; config file missing or invalid",
    "3": "image not found, or deleted",
    "4": "not authorized; refused by policy (address, path, host key, certificate, size); quota "
    "exceeded",
    "5": "temporary, try again later: a network or service failure, an image that changed or is "
    "not ready",
    "6": "verification failed: wrong checksum, or a web page instead of an image",
    "7": "the backend does not support this, the scheme is not enabled, or its plugin cannot be "
    "loaded",
    "9": "the destination cannot be written: no space, no permission, or a closed pipe",
    "130": "interrupted; 129 after SIGHUP, 143 after SIGTERM",
}
CHECK_STATUSES = "`check` alone: 0 no problems, 1 warnings, 2 failures."


def escaped(text: str) -> str:
    """Text with everything escaped that roff would interpret."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return "\n".join(
        ("\\&" if line.startswith((".", "'")) else "") + line for line in text.splitlines()
    )


def paragraph(text: str) -> str:
    return escaped(" ".join(text.split()))


def argument(action: argparse.Action) -> str:
    """The placeholder for the value of an argument."""
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
        yield paragraph(help_of(option))


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
    for status, meaning in STATUSES.items():
        yield ".TP"
        yield f"\\fB{status}\\fR"
        yield paragraph(meaning)
    yield ".P"
    yield paragraph(CHECK_STATUSES)


def manual(app: Application) -> str:
    """The whole page."""
    return "\n".join(page(app)) + "\n"


def page(app: Application) -> Iterator[str]:
    yield '.\\" Generated from the parsers of imagebroker: do not edit.'
    yield '.TH IMAGEBROKER 1 "" imagebroker "User Commands"'
    yield ".SH NAME"
    yield "imagebroker \\- get, store and list disk images, wherever they live"
    yield ".SH SYNOPSIS"
    yield "\\fBimagebroker\\fR [\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIARGUMENT\\fR]..."
    yield ".SH DESCRIPTION"
    yield paragraph(
        "Images are named by a ref: a UUID in the default backend, NAME[:INSTANCE]:UUID, a URL "
        "(http, https), file:///path or scp://[user@]host[:port]/path, each with an optional pin "
        "#sha256=HEX or #sha512=HEX. A destination file is replaced only by the complete and "
        "verified image. An error message says what happened, which line of the config file "
        "decides it, and what to do."
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
        ("$XDG_CONFIG_HOME/imagebroker/imagebroker.conf", "config file of the user"),
        ("/etc/imagebroker/imagebroker.conf", "config file of the host, if the user has none"),
        ("$XDG_DATA_HOME/imagebroker", "store that is used without a config file"),
        (".DEST.KEY.imagebroker-part", "part file of an unfinished download, beside DEST"),
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
