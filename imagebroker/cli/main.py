"""Where the process `imagebroker` begins and ends: its streams, signals and exit status.

Nothing heavy is imported before it is needed: `--version` costs no more than Python itself.
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
from typing import TYPE_CHECKING, TextIO

from imagebroker._version import VERSION
from imagebroker.system.standard_streams import occupy

if TYPE_CHECKING:
    from imagebroker.cli.console import Console


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (by default the process's own); returns its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    has_output = _open_standard_streams()
    if _asks_for_version(arguments):
        return _print_version(arguments)
    # Modules are made to stay: looking for garbage among them takes a tenth of the start.
    gc.set_threshold(100_000)
    from imagebroker.cli.postponed import postpone

    postpone()
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
    """Whether `--version` stands before the name of a command."""
    for argument in arguments:
        if argument == "--version":
            return True
        if not argument.startswith("-"):
            return False
    return False


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does: part files are removed first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) == signal.SIG_DFL:  # nohup ignores SIGHUP: so be it
            before[signum] = signal.signal(signum, _terminate)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _terminate(signum: int, frame: FrameType | None) -> None:
    from imagebroker.cli.exit_status import Terminated

    raise Terminated(signum)


def _open_standard_streams() -> bool:
    """Let text for a stream that is closed go nowhere; whether there is a standard output.

    Before anything is opened: no file of ours may get the number of such a stream. Python has None
    in its place, and `print` to that goes to standard output: into the image, where it goes there.
    """
    has_output = sys.stdout is not None
    occupy()
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for the rest of this process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding lacks is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    return has_output


def flush_output() -> None:
    """Have all that was written to standard output arrive.

    :raises DestinationError: it does not.
    """
    try:
        sys.stdout.flush()
        _settle(sys.stdout)
    except OSError as error:
        from imagebroker.cli.console import unprintable

        raise unprintable(error) from error


def _settle(stream: TextIO) -> None:
    """Network and cloud file systems say that they could not store a file when it is closed."""
    try:
        fd = stream.fileno()
    except (OSError, ValueError):
        return  # not a file at all
    os.close(os.dup(fd))


def _abandon(stream: TextIO) -> None:
    """Let what is still buffered go to nowhere, or Python complains about it at its end."""
    try:
        stream.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
