"""Host aliases: `Host` lines in the user's ssh_config, which only `ssh` reads.

That file is never obeyed: its `ProxyCommand` and `Match exec` run programs. It is only looked at
for a hint, after a host was refused.
"""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Iterator
from pathlib import Path

#: Files that may include one another, and bytes of each, that are looked at.
_FILES, _LONGEST = 32, 1 << 20


def is_alias(name: str, folder: Path) -> bool:
    """Whether the `config` in `folder`, or a file that it includes, gives it another host name."""
    within = False
    for keyword, words in _lines(folder):
        if keyword in ("host", "match"):
            within = keyword == "host" and any(
                fnmatch.fnmatchcase(name, word.lower()) for word in words
            )
        elif within and keyword == "hostname" and words and words[0].lower() not in (name, "%h"):
            return True
    return False


def _lines(folder: Path) -> Iterator[tuple[str, list[str]]]:
    waiting = [folder / "config"]
    for _ in range(_FILES):
        if not waiting:
            return
        for keyword, words in _words(waiting.pop(0)):
            if keyword == "include":
                waiting += (path for word in words for path in _included(word, folder))
            yield keyword, words


def _words(path: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST).decode(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            keyword, *words = shlex.split(line.replace("=", " ", 1), comments=True)
        except ValueError:
            continue
        yield keyword.lower(), words


def _included(word: str, folder: Path) -> list[Path]:
    try:
        path = Path(word).expanduser() if word.startswith("~") else folder / word
        return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    except (OSError, ValueError, RuntimeError, NotImplementedError):
        return []  # another user's home, or no pattern
