"""Where the process `imagebroker` begins and ends: its streams, signals and exit status.

Nothing heavy is imported before it is needed: `--version` costs no more than Python itself.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from imagebroker._version import VERSION


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (by default the process's own); returns its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if _asks_for_version(arguments):
        print(f"imagebroker {VERSION}")
        return 0
    # Modules are made to stay: looking for garbage among them takes a tenth of the start.
    gc.set_threshold(100_000)
    from imagebroker.cli.postponed import postpone

    postpone()
    from imagebroker.cli.console import Console

    console = Console(argv=arguments)
    with _signals():
        try:
            console.no_output = sys.stdout is None
            _open_standard_streams()
            from imagebroker.cli.app import Application

            status = Application(console).run(arguments)
            if status == 0:
                _flush()
        except SystemExit as ended:  # argparse, after --help or a wrong argument
            return ended.code if isinstance(ended.code, int) else 0
        except (Exception, KeyboardInterrupt) as error:
            status = console.error(error)
        if status:
            _abandon_output()
        return status


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


def _open_standard_streams() -> None:
    """Occupy descriptors 0 to 2: an image must never be opened as one of them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of this process
    if hasattr(sys.stdout, "reconfigure"):
        # A name that the terminal's encoding lacks is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """:raises DestinationError: what was printed did not arrive."""
    try:
        sys.stdout.flush()
    except OSError as error:
        from imagebroker.cli.console import unprintable

        raise unprintable(error) from error


def _abandon_output() -> None:
    """Let what is still buffered go to nowhere, or Python complains about it at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
