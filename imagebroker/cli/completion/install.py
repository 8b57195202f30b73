"""Stores a completion script and the man page where a user's shell and `man` look for them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from imagebroker.cli.console import NAME
from imagebroker.exceptions import DestinationError
from imagebroker.system.person import own_folder, own_home

#: Seconds that a shell may take to say where it looks.
_TIMEOUT = 20


def install(shell: str, script: str, page: str, tell: Callable[[str], None]) -> None:
    """Store both, and `tell` where, and what remains to be done.

    :raises DestinationError: they cannot be written, or the user has no home directory.
    """
    data, config = (
        own_folder("XDG_DATA_HOME", ".local/share"),
        own_folder("XDG_CONFIG_HOME", ".config"),
    )
    if data is None or config is None:
        raise DestinationError(
            "this user has no home directory",
            hint=f"print the script instead: {NAME} complete --shell {shell}",
        )
    remarks = []
    if shell == "bash":
        own = os.environ.get("BASH_COMPLETION_USER_DIR", "")
        base = Path(own) if own.startswith("/") else data / "bash-completion"
        path = base / "completions" / NAME
        if not _has_bash_completion():
            remarks.append(
                "bash reads this file if the package bash-completion is installed; if it is not, "
                f"add to ~/.bashrc: source {shlex.quote(str(path))}"
            )
    elif shell == "fish":
        path = config / "fish" / "completions" / f"{NAME}.fish"
    else:
        searched = _said_by(["zsh", "-ic", 'print -rl -- "IN:"$^fpath'])
        path = _choose(searched, data / "zsh" / "site-functions") / f"_{NAME}"
        if path.parent not in searched:
            remarks.append(
                f"add to ~/.zshrc, before any compinit: fpath=({shlex.quote(str(path.parent))} "
                "$fpath); autoload -Uz compinit && compinit"
            )
    _store(path, script)
    tell(f"stored {path}")

    searched = [Path(line) for line in _run(["manpath", "-q"]).strip().split(":")]
    folder = _choose(searched, data / "man")
    manual = folder / "man1" / f"{NAME}.1"
    _store(manual, page)
    tell(f"stored {manual}")
    if folder not in searched and shutil.which("man"):
        remarks.append(
            f'man looks there after: export MANPATH={shlex.quote(str(folder))}:"$MANPATH"'
        )
    for remark in remarks:
        tell(remark)


def _choose(searched: Sequence[Path], own: Path) -> Path:
    """The user's own folder if it is searched, else one that is searched and theirs to write."""
    if own in searched:
        return own
    home = own_home() or "/nonexistent"
    below = [home, "/usr/local"] if os.geteuid() == 0 else [home]
    for folder in searched:
        theirs = any(folder.is_relative_to(each) for each in below)
        if theirs and folder.is_dir() and os.access(folder, os.W_OK):
            return folder
    return own


def _has_bash_completion() -> bool:
    places = ("/usr/share/bash-completion", "/usr/local/share/bash-completion",
              "/etc/bash_completion")  # fmt: skip
    return any(map(os.path.exists, places))


def _said_by(argv: Sequence[str]) -> list[Path]:
    """The folders that a shell names; what its startup files print is left out."""
    lines = _run(argv).splitlines()
    return [Path(line.removeprefix("IN:")) for line in lines if line.startswith("IN:")]


def _run(argv: Sequence[str]) -> str:
    """The output of a program; empty if it is missing, or fails."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_TIMEOUT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _store(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise DestinationError.wrap(error, f"cannot write {path}") from error
