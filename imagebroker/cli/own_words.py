"""Hints of the library in the words of the command: `--max-size` instead of `max_size`.

Read only after an error.
"""

from __future__ import annotations

import re
from collections.abc import Collection

#: A hint with one of these names an option of the command already, or a line of the config file.
_ELSEWHERE = ("--", "[", "config file")
#: Options whose names are also words: only what one can raise is meant.
_RAISED = re.compile(r"(?<=raise )(deadline|retries)\b")
#: `max_size`, and `checksum=`; `set ca_file` is about the config file.
_KEYWORD = re.compile(
    r"(?<![\w'.])(?<!set )(?<!'s )([a-z]+(?:_[a-z]+)+(?!\w| ?=)|[a-z_]{3,}(?==\W))=?"
)
#: A list of values, which are no options.
_VALUES = re.compile(r"(\bone of (?:\w+, )+\w+)")


def hint_for(hint: str, options: Collection[str]) -> str:
    """`hint` for a command with these options, which are named like their keywords in Python."""
    if any(each in hint for each in _ELSEWHERE):
        return hint
    parts = _VALUES.split(hint)
    for pattern in (_KEYWORD, _RAISED):
        parts[::2] = (
            pattern.sub(lambda m: _flag(m[1]) if m[1] in options else m[0], each)
            for each in parts[::2]
        )
    return "".join(parts)


def names_section(hint: str) -> bool:
    """Whether what it says is to be written into a section of the config file."""
    return re.search(r"\[(?:imagebroker|backend:[^]]+)\]|'s section", hint) is not None


def text_for(text: str) -> str:
    """An error about a file of `--ca-file`, which is in no config file, in words of the command."""
    about_it = re.compile(r"^\[backend:[^]]+\] (?:ca_?file |(?=.*the certificates))")
    return about_it.sub("--ca-file: ", text)


def _flag(keyword: str) -> str:
    return f"--{keyword.replace('_', '-')}"
