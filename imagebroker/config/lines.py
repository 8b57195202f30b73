"""The line of each section and option in the config files, which oslo.config does not record."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_SECTION = re.compile(r"\[(.+)\]")
#: A name at the beginning of a line. An indented line continues the value above it.
_OPTION = re.compile(r"([^\s=:#;\[][^=:]*?)\s*[=:]")


class Line(NamedTuple):
    """A place in a file."""

    file: Path
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


class Lines:
    """The lines of sections and options in some files; of duplicates the last one, which wins."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._places: dict[tuple[str, str], Line] = {}
        #: The titles with blanks inside their brackets, which oslo.config takes for part of them.
        self.padded: dict[str, Line] = {}
        for file in files:
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # lines only improve messages
            self._scan(file, text)

    def _scan(self, file: Path, text: str) -> None:
        section = "default"
        for number, content in enumerate(text.split("\n"), 1):
            if match := _SECTION.fullmatch(content.rstrip()):
                section = match[1].strip().lower()
                self._places[section, ""] = Line(file, number)
                if match[1] != match[1].strip():
                    self.padded[match[1].strip()] = Line(file, number)
            elif match := _OPTION.match(content):
                self._places[section, _dest(match[1])] = Line(file, number)

    def titles(self) -> dict[str, Line]:
        """The sections, in small letters, as oslo.config takes them."""
        return {section: line for (section, name), line in self._places.items() if not name}

    def options(self, section: str) -> dict[str, Line]:
        """The options that are written in a section."""
        return {name: at for (title, name), at in self._places.items() if name and title == section}

    def find(self, section: str, option: str = "") -> Line | None:
        """The line of an option, or of the title of a section; None if it is in no file."""
        return self._places.get((section.lower(), _dest(option)))


def _dest(name: str) -> str:
    return name.replace("-", "_")
