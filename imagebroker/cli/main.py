"""The entry point of the command: standard streams, signals and exit status.

Imports nothing heavy before it is needed: `--version` costs no more than Python itself.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from imagebroker._version import VERSION
from imagebroker.system.standard_streams import occupy

if TYPE_CHECKING:
    from imagebroker.cli.console import Console


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the arguments of the process); returns the status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    has_output = _open_standard_streams()
    if _asks_for_version(arguments):
        return _print_version(arguments)
    # Modules are never garbage: collecting among them takes a tenth of the start-up time.
    gc.set_threshold(100_000)
    from imagebroker.cli.lazy_modules import load_lazily

    load_lazily()
    from imagebroker.cli.console import Console
    from imagebroker.cli.safe_text import safe_streams

    console = Console(argv=arguments, no_output=not has_output)
    with _signals(), safe_streams():
        try:
            status = _run(console, arguments)
            if status == 0:
                flush_output()
        except (Exception, KeyboardInterrupt) as error:
            status = console.error(error)
        if status:
            _abandon(sys.stdout)
        _abandon(sys.stderr)
        return status


def _run(console: Console, arguments: list[str]) -> int:
    from imagebroker.cli.app import Application

    try:
        return Application(console).run(arguments)
    except SystemExit as ended:  # argparse, after --help or a wrong argument
        return ended.code if isinstance(ended.code, int) else 0


def _print_version(arguments: list[str]) -> int:
    try:
        print(f"imagebroker {VERSION}", flush=True)
    except OSError as error:
        from imagebroker.cli.console import Console, unprintable

        _abandon(sys.stdout)
        return Console(argv=arguments).error(unprintable(error))
    return 0


def _asks_for_version(arguments: list[str]) -> bool:
    """Whether `--version` precedes the name of a command."""
    for argument in arguments:
        if argument == "--version":
            return True
        if not argument.startswith("-"):
            return False
    return False


@contextmanager
def _signals() -> Iterator[None]:
    """End the command at SIGTERM and SIGHUP as at Ctrl-C: part files are cleaned up first.

    And let the exit status of a child be known, which is lost where SIGCHLD is ignored: that is
    inherited from whoever started the command.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) == signal.SIG_DFL:  # not if nohup has it ignored
            before[signum] = signal.signal(signum, _terminate)
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(signum: int, frame: FrameType | None) -> None:
    from imagebroker.cli.exit_status import Terminated

    raise Terminated(signum)


def _open_standard_streams() -> bool:
    """Open closed standard streams on /dev/null; returns whether standard output was open.

    Writing to an output that was closed fails: what was asked for must not vanish with status 0.

    Done before anything else is opened, so that no file of ours gets descriptor 0, 1 or 2. Python
    sets such a stream to None, and `print(file=None)` writes to standard output: into the image.
    """
    has_output = sys.stdout is not None
    occupy()
    if sys.stdout is None:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 1)
        os.close(null)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for the rest of this process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Do not fail because of a name that the terminal's encoding cannot represent.
        sys.stdout.reconfigure(errors="backslashreplace")
    return has_output


def flush_output() -> None:
    """Flush standard output.

    :raises DestinationError: what was written could not be stored.
    """
    try:
        sys.stdout.flush()
        _settle(sys.stdout)
    except OSError as error:
        from imagebroker.cli.console import unprintable

        raise unprintable(error) from error


def _settle(stream: TextIO) -> None:
    """Close a duplicate: network file systems report a failed write when a file is closed."""
    try:
        fd = stream.fileno()
    except (OSError, ValueError):
        return  # not a real file
    os.close(os.dup(fd))


def _abandon(stream: TextIO) -> None:
    """Discard what is still buffered, or Python complains about it at exit."""
    try:
        stream.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
