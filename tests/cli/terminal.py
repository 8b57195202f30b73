"""The command on a real terminal, and what its screen shows."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable

from tests.bounds import HANGS
from tests.cli.conftest import Shell


def on_a_terminal(
    shell: Shell,
    *argv: str,
    columns: int = 80,
    enough: Callable[[list[str]], bool] = lambda seen: False,
) -> tuple[list[list[str]], int]:
    """All screens that differed, each as its lines, and the exit status.

    As soon as a screen is `enough`, the command is terminated.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**shell.environment, "TERM": "xterm-256color"}
    screens: list[list[str]] = []
    screen = Screen(columns)
    ends = time.monotonic() + HANGS
    with subprocess.Popen(
        [sys.executable, "-m", "imagebroker", *argv],
        cwd=shell.work, env=environment, stdin=slave, stdout=slave, stderr=slave,
    ) as process:  # fmt: skip
        os.close(slave)
        try:
            while select.select([master], [], [], max(ends - time.monotonic(), 0))[0]:
                piece = os.read(master, 65536)
                if not piece:
                    break
                for shown in screen.feed(piece.decode(errors="replace")):
                    if not screens or screens[-1] != shown:
                        screens.append(shown)
                if screens and enough(screens[-1]):
                    process.terminate()
                    break
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux ends a terminal whose other side is closed
                raise
        finally:
            process.wait(HANGS)
            os.close(master)
    return screens, process.returncode


class Screen:
    """A screen of so many columns: what is longer continues on the next line, as in a terminal."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._lines = [""]
        self._row = self._column = 0

    def feed(self, text: str) -> list[list[str]]:
        """The screen each time before a line is erased, and at the end."""
        shown = []
        for token in re.split(r"(\r|\n|\x1b\[[\d;?]*[A-Za-z])", text):
            if token == "\x1b[2K":
                shown.append(self._copy())
                self._lines[self._row] = ""
            elif move := re.fullmatch(r"\x1b\[(\d*)A", token):
                self._row = max(0, self._row - int(move[1] or 1))
            elif token == "\r":
                self._column = 0
            elif token == "\n":
                self._down()
            elif not token.startswith("\x1b"):
                for character in token:
                    self._put(character)
        return [*shown, self._copy()]

    def _put(self, character: str) -> None:
        if self._column >= self._columns:
            self._down()
            self._column = 0
        line = self._lines[self._row].ljust(self._column)
        self._lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
        self._column += 1

    def _down(self) -> None:
        self._row += 1
        while len(self._lines) <= self._row:
            self._lines.append("")

    def _copy(self) -> list[str]:
        lines = [line.rstrip() for line in self._lines]
        return [line for line in lines if line]
