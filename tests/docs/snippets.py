"""Finds the code blocks of a document, and runs them (CONTRIBUTING.md says how they are marked)."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

from imagebroker.config.options import CORE_OPTIONS, GROUP
from imagebroker.config.settings import Settings
from imagebroker.registry import Registry, installed_backends
from tests.bounds import HANGS

#: Blocks in these languages must say how they are tested.
TESTED = ("python", "console", "ini")

_MARK = re.compile(r"\s*(?:<!--|\.\.) (?P<mark>test: .*?|not run: .*?)(?: -->)?\s*\Z")
_FENCE = re.compile(r"(?P<indent> *)```(?P<language>[a-z]*)\s*\Z")
_DIRECTIVE = re.compile(r"\.\. code-block:: (?P<language>[a-z]+)\s*\Z")


@dataclass(frozen=True)
class Snippet:
    """One code block."""

    document: Path
    #: The number of its first line.
    line: int
    language: str
    text: str
    #: What its mark says, without the brackets of the comment; None if it has none.
    mark: str | None

    @property
    def action(self) -> str:
        """The first word after `test:`; empty if it is not to be run."""
        return (self.mark or "").removeprefix("test: ").split()[0] if self.tested else ""

    @property
    def arguments(self) -> list[str]:
        return (self.mark or "").removeprefix("test: ").split()[1:]

    @property
    def tested(self) -> bool:
        return self.mark is not None and self.mark.startswith("test: ")

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def snippets(document: Path) -> Iterator[Snippet]:
    """The code blocks of `document`, in order."""
    lines = document.read_text(encoding="utf-8").splitlines()
    find = _in_rst if document.suffix == ".rst" else _in_markdown
    for start, stop, language, text in find(lines):
        yield Snippet(document, start + 1, language, text, _mark_above(lines, stop))


def _in_markdown(lines: list[str]) -> Iterator[tuple[int, int, str, str]]:
    """First line of the text, line of the opening fence, language, text."""
    position = 0
    while position < len(lines):
        fence = _FENCE.match(lines[position])
        opened, position = position, position + 1
        if fence is None:
            continue
        indent, body = len(fence["indent"]), []
        while lines[position].strip() != "```":
            body.append(lines[position][indent:])
            position += 1
        position += 1
        yield opened + 1, opened, fence["language"], "\n".join(body) + "\n"


def _in_rst(lines: list[str]) -> Iterator[tuple[int, int, str, str]]:
    for opened, line in enumerate(lines):
        directive = _DIRECTIVE.match(line)
        if directive is None:
            continue
        stop = opened + 2
        while stop < len(lines) and (not lines[stop] or lines[stop].startswith("    ")):
            stop += 1
        body = "\n".join(line[4:] for line in lines[opened + 2 : stop]).rstrip("\n")
        yield opened + 2, opened, directive["language"], body + "\n"


def _mark_above(lines: list[str], block: int) -> str | None:
    above = next((line for line in reversed(lines[:block]) if line.strip()), "")
    found = _MARK.match(above)
    return found["mark"] if found else None


class Session:
    """Runs the blocks of one document, one after the other, in one folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment
        self._printed: str | None = None

    def run(self, snippet: Snippet) -> None:
        """:raises AssertionError: it fails, or prints something else than the document says."""
        getattr(self, f"_run_{snippet.action}")(snippet)

    def _run_file(self, snippet: Snippet) -> None:
        """`test: file PATH`: the block is that file."""
        path = self.folder / snippet.arguments[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(snippet.text, encoding="utf-8")

    def _run_config(self, snippet: Snippet) -> None:
        """`test: config`: every section and option exists, and every value can be used."""
        path = self.folder / f"snippet-{snippet.line}.conf"
        path.write_text(snippet.text, encoding="utf-8")
        check_config(str(snippet), path)

    def _run_python(self, snippet: Snippet) -> None:
        """`test: python`: a program; what it prints stands in the next block, `test: output`."""
        program = self.folder / f"snippet-{snippet.line}.py"
        program.write_text(snippet.text, encoding="utf-8")
        status, self._printed = self._execute(f"python -W error {program.name}")
        assert status == 0, f"{snippet}: exit status {status}\n{self._printed}"

    def _run_output(self, snippet: Snippet) -> None:
        printed, self._printed = self._printed, None
        assert printed is not None, f"{snippet}: no python block stands before this output"
        compare(str(snippet), snippet.text, printed)

    def _run_console(self, snippet: Snippet) -> None:
        """`test: console [exit=N]`: commands after `$ `, each with what it prints below it.

        N is the exit status of the last one; the others end with 0.
        """
        commands = list(_commands(snippet.text))
        expected = dict(argument.split("=") for argument in snippet.arguments).get("exit", "0")
        for number, (command, output) in enumerate(commands, start=1):
            status, printed = self._execute(command)
            wanted = int(expected) if number == len(commands) else 0
            where = f"{snippet}: $ {command}"
            assert status == wanted, f"{where}\nexit status {status}, not {wanted}\n{printed}"
            compare(where, output, printed)

    def _execute(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self._environment, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=HANGS, text=True, encoding="utf-8",
        )  # fmt: skip
        return done.returncode, done.stdout


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command (`$ `, continued by a backslash) and what it prints."""
    assert text.startswith("$ "), f"a console block begins with '$ ': {text!r:.60}"
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, output = part.partition("\n")[::2]
        while command.endswith("\\"):
            further, output = output.partition("\n")[::2]
            command = f"{command[:-1]}{further.removeprefix('> ').lstrip()}"
        yield command, output


def check_config(where: str, path: Path) -> None:
    """Read a config file as a broker does, without the files and servers that it names.

    :raises AssertionError: something in it would have no effect.
    """
    settings = Settings.from_file(path)
    Registry(settings).check_schemes()
    classes = {each.name: each for each in installed_backends()}
    written: dict[str, dict[str, object]] = {}
    cfg.ConfigParser(str(path), written).parse()
    known = {GROUP: {option.dest for option in CORE_OPTIONS}}
    for section in settings.sections():
        cls = classes[section.name]
        options = settings.backend(section, cls.options, cls.require_checksum)
        settings.policy(section, options)
        known[section.group] = set(options)
    unknown = [f"[{title}] {name}" for title, names in written.items() for name in names
               if name not in known.get(title, ())]  # fmt: skip
    assert not unknown, f"{where}: there is no {', '.join(unknown)}"


#: How long a transfer took, which the command says of all but the shortest.
_SECONDS = re.compile(r" in \d+\.\d s \([^)]*/s\)")


def compare(where: str, expected: str, printed: str) -> None:
    """Equal, where `...` in `expected` stands for anything: on a line of its own, for any lines.

    :raises AssertionError: they differ.
    """
    printed = _SECONDS.sub("", printed)
    pattern = ""
    for line in expected.rstrip("\n").splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r"[^\n]*?".join(map(re.escape, line.rstrip().split("..."))) + r"[ ]*\n"
    text = printed.rstrip("\n") + "\n" if printed.strip() else ""
    assert re.fullmatch(pattern, text), (
        f"{where}\nthe document says\n{expected}\nand this is\n{text}"
    )


def environment(home: Path, *programs: Path) -> dict[str, str]:
    """What a newcomer's shell has: a home of its own, and nothing of this machine's clouds."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "SSL_", "REQUESTS_")) or name in ("TMPDIR", "PATH", "TERM")
    }
    return kept | {
        "PATH": os.pathsep.join([*map(str, programs), kept["PATH"]]),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_DATA_HOME": str(home / ".local" / "share"),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")),
        "COLUMNS": "100",
        "LC_ALL": "C.UTF-8",
        # What pip says of a machine's own configuration is no part of the document.
        "PIP_QUIET": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
