"""What zsh and fish offer for a line, when the TAB key is pressed at its end."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bounds import HANGS

ETC = Path(__file__).parents[2] / "etc"

#: Prints what is offered instead of showing it: `compadd` is what every completer ends in.
_CAPTURE = r"""
compadd () {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return $?; fi
    local -a offered
    builtin compadd -A offered "$@"
    (( $#offered )) && print -l -- "<"$^offered">"
    builtin compadd "$@"
}
ended () { print "<END>"; comppostfuncs=(ended) }  # zsh empties the list at each use
comppostfuncs=(ended)
PS1=''; unsetopt prompt_sp auto_menu; LISTMAX=100000; zstyle ':completion:*' completer _complete
print -n REA; print DY
"""


def fish(line: str, folder: Path, setup: str = "") -> list[str]:
    """What fish is given, without the descriptions."""
    setup = setup or f"source {shlex.quote(str(ETC / 'fish' / 'imagebroker.fish'))}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"{setup}; complete -C {shlex.quote(line)}"],
        cwd=folder, env=environment(folder), check=True, capture_output=True, text=True,
        timeout=HANGS,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return [each.partition("\t")[0] for each in done.stdout.splitlines()]


def zsh(line: str, folder: Path, setup: str = "") -> list[str]:
    """What zsh is given: it completes on a terminal only."""
    with zsh_session(folder, setup) as offered:
        return offered(line)


@contextmanager
def zsh_session(folder: Path, setup: str = "") -> Iterator[Callable[[str], list[str]]]:
    """The same for several lines."""
    setup = setup or f"source {shlex.quote(str(ETC / 'zsh' / '_imagebroker'))}"
    (folder / ".capture").write_text(f"{setup}\n{_CAPTURE}")
    master, slave = pty.openpty()

    def offered(line: str) -> list[str]:
        os.write(master, b"\x15" + line.encode() + b"\t")
        shown = read_until(master, "<END>")
        return [word for word in re.findall("<([^<>]*)>", shown) if word != "END"]

    with subprocess.Popen(
        ["zsh", "-f", "-i"], cwd=folder, env=environment(folder), start_new_session=True,
        stdin=slave, stdout=slave, stderr=slave,
    ) as shell:  # fmt: skip
        os.close(slave)
        try:
            os.write(master, b"source ./.capture; rm .capture\n")
            read_until(master, "READY")
            yield offered
        finally:
            shell.kill()
            os.close(master)


def environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "LANG": "C.UTF-8"}


def read_until(master: int, wanted: str) -> str:
    """What the terminal shows, as soon as it has `wanted`."""
    seen, ends = "", time.monotonic() + HANGS
    while wanted not in seen:
        ready = select.select([master], [], [], max(ends - time.monotonic(), 0))[0]
        assert ready, f"{wanted!r} is not in {seen!r}"
        seen += os.read(master, 4096).decode(errors="replace")
    return seen
