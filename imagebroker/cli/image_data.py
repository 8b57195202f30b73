"""`--file`: the data of an image, for the commands that upload it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ShowCommand
from imagebroker.cli.progress import WatchedFile, display
from imagebroker.exceptions import FormatError, UsageError
from imagebroker.redaction import redact

STDIN = "-"
#: What `--no-check-format` does to an upload.
UNCHECKED_HELP = "store the data even if a download would refuse it"


def add_file_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file",
        type=arguments.file,
        metavar="FILE",
        help="file with the image's data; - for standard input",
    )
    parser.add_argument(
        "--size", type=arguments.length, metavar="SIZE",
        help="size of the data, if it cannot be seen from the file (standard input); 0 to upload "
        "an empty image on purpose",
    )  # fmt: skip


def format_of(path: str) -> str | None:
    """The disk format that the bytes of a file show; None if it cannot be read.

    :raises FormatError: it is not an acceptable image.
    """
    from imagebroker.verify.disk_format import FormatPolicy, inspect_file

    if not os.path.isfile(path):
        return None  # what is read of a pipe is gone
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            found = inspect_file(file.fileno(), size, FormatPolicy())
    except OSError:
        return None
    except FormatError as error:
        raise FormatError(f"the data: {error}", hint=error.hint) from error
    return str(found["disk_format"])


@contextmanager
def opened_data(parsed: argparse.Namespace, command: ShowCommand) -> Iterator[Any]:
    """The data to upload, None for nothing; reports progress if the user wants it.

    :raises UsageError: the file cannot be read.
    """
    if parsed.file is None:
        yield None
        return
    if "://" in parsed.file and not os.path.exists(parsed.file):
        raise UsageError(
            "--file takes a file on this host, not a URL",
            hint=f"imagebroker copy {redact(parsed.file, 200)} --backend {parsed.backend or 'NAME'}"
            if "backend" in parsed else "download the image first, and name that file",
        )  # fmt: skip
    title = "standard input" if parsed.file == STDIN else redact(parsed.file, 40)
    with display(parsed.progress, command.console, title) as shown:
        if parsed.file == STDIN:
            if sys.stdin is None or sys.stdin.isatty():
                raise UsageError(
                    "standard input is a terminal, or closed",
                    hint="pipe the image into it, or name a file: --file FILE",
                )
            source: Any = sys.stdin.buffer
            yield source if shown.callback is None else WatchedFile(source, shown.callback)
        elif shown.callback is None:
            yield Path(parsed.file)
        else:
            with _opened(parsed.file) as file:
                yield WatchedFile(file, shown.callback)


def _opened(path: str) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(
            f"cannot read {redact(path)!r}: {error.strerror}", hint="check the path"
        ) from error
