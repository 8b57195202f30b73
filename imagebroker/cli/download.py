"""`imagebroker download`: an image into a file, or to standard output."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import shlex
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

from cliff.formatters.base import SingleFormatter

from imagebroker.cli import arguments
from imagebroker.cli.command import ShowCommand
from imagebroker.cli.console import NAME
from imagebroker.cli.main import flush_output
from imagebroker.cli.memory import share_arenas
from imagebroker.cli.output import TableFormatter, cell, size_text
from imagebroker.cli.progress import display
from imagebroker.exceptions import (
    BackendError,
    ChecksumMismatch,
    DestinationError,
    ImageNotFound,
    NotAuthorized,
    TransferError,
    UsageError,
)
from imagebroker.model.algorithms import STRONG, WEAK
from imagebroker.redaction import redact
from imagebroker.transfer.codecs import unpacked_name
from imagebroker.transfer.store.replaceable import OPENED

if TYPE_CHECKING:
    from imagebroker.transfer.download import Download as Done

_STDOUT = "-"
#: How names of images end that have a disk inside.
_CONVERTED = re.compile(rb"\.(qcow2|vmdk|vhd|vpc|vhdx|vdi)\Z", re.IGNORECASE)
#: How servers may answer a URL whose signature has expired.
_REFUSED = (NotAuthorized, ImageNotFound)


#: The columns that `-c` can name; digests are shown if they were computed.
_COLUMNS = (
    "path", "size", "seconds", "rate", "source", "attempts", "resumed_from", "via",
    "checked_against",
    *STRONG, *WEAK, "disk_format", "virtual_size", "signature", "compression", "compressed_size",
    "decompressed_sha256", "converted_from", "converted_size", "raw_sha256", "insecure",
)  # fmt: skip


class LineFormatter(SingleFormatter):
    """One line for a person."""

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        pass

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        values = {
            name: each.machine_readable() for name, each in zip(column_names, data, strict=True)
        }
        stdout.write(f"{NAME}: {_sentence(values)}\n")


class Download(ShowCommand):
    """Download an image to a file, or to standard output, and verify it.

    DEST is replaced only when the image is complete and every known checksum matches; until then it
    stays as it is. A summary is printed to standard error; with -f, a record to standard output.
    """

    formats = {"line": LineFormatter, **ShowCommand.formats}
    formatter_default = "line"
    reads_files = True
    column_names = _COLUMNS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        parser.add_argument(
            "dest", metavar="DEST", nargs="?", type=arguments.path,
            help="file to store it in, a directory, or - for standard output (default: the current "
            "directory); in a directory, the file is named after the last part of REF, and another "
            "file of that name is never overwritten",
        )  # fmt: skip
        parser.add_argument(
            "-o",
            "--output",
            metavar="DEST",
            dest="output",
            type=arguments.path,
            help="the same as the argument DEST",
        )
        for habit in ("--continue", "--force"):  # both are what is done without them
            parser.add_argument(habit, action="store_true", help=argparse.SUPPRESS)
        parser.add_argument(
            "--overwrite", action=argparse.BooleanOptionalAction, default=True,
            help="replace an existing DEST",
        )  # fmt: skip
        parser.add_argument(
            "--file-mode", type=arguments.mode, metavar="OCTAL",
            help="permissions of DEST, such as 0640 (default: those of the file it replaces, else "
            "0666 less the umask)",
        )  # fmt: skip
        parser.add_argument(
            "--keep-partial", action=argparse.BooleanOptionalAction, default=True,
            help="keep an unfinished download in a hidden file, which the same command resumes",
        )  # fmt: skip
        arguments.add_switch(
            parser, "--preallocate", "reserve disk space for the whole image before the transfer"
        )
        parser.add_argument(
            "--to-device", action="store_true",
            help="DEST is an unused block device: overwrite it with the image",
        )  # fmt: skip
        parser.add_argument(
            "--convert", choices=("raw",), metavar="raw",
            help="verify the image, then convert the qcow2, VMDK, VHD, VHDX or VDI to a raw disk "
            "with a sandboxed qemu-img",
        )  # fmt: skip
        arguments.add_transfer_options(parser)
        arguments.add_ca_file(parser)
        arguments.add_progress(parser)
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        if parsed_args.output is not None:
            if parsed_args.dest not in (None, parsed_args.output):
                raise UsageError(
                    f"two destinations: {redact(parsed_args.dest, 100)!r} and --output "
                    f"{redact(parsed_args.output, 100)!r}",
                    hint="name one",
                )
            parsed_args.dest = parsed_args.output
        if parsed_args.dest != _STDOUT or not _is_one_place(1, 2):
            return super().run(parsed_args)
        # `> FILE 2>&1`: messages would end up in the image. Errors are printed anyway: then
        # the image is incomplete anyway.
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            return super().run(parsed_args)

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        if parsed_args.columns and parsed_args.formatter == "line":
            parsed_args.formatter = "table"
            self.formatter = TableFormatter()
        share_arenas()
        ref = self.ref_of(parsed_args.ref)
        dest, options = self._destination(parsed_args, ref)
        title = redact(os.fsdecode(dest) if isinstance(dest, (str, bytes)) else NAME, 40)
        with display(parsed_args.progress, self.console, title) as shown:
            try:
                done = self.broker.download(
                    None, ref, dest, progress=shown.callback,
                    **options, **arguments.transfer_arguments(parsed_args, ref, parsed_args.ref),
                )  # fmt: skip
            except DestinationError as error:
                raise _with_better_hint(error, parsed_args, dest) from error
            except (*_REFUSED, TransferError, BackendError, KeyboardInterrupt) as error:
                self._say_how_to_go_on(error, ref)
                raise
            except ChecksumMismatch as error:
                error.args = (_named(str(error), parsed_args.checksum_origin),)
                if parsed_args.decompress is not None:
                    error.hint += "; with --decompress, it is the digest of the compressed file"
                raise
        if parsed_args.dest == _STDOUT:
            flush_output()  # before success is reported
        columns = dict.fromkeys(parsed_args.columns) | _columns(done)
        if parsed_args.checksum_origin is not None:
            columns["checked_against"] = tuple(
                _named(each, parsed_args.checksum_origin) for each in columns["checked_against"]
            )
        return tuple(columns), [cell(name, value) for name, value in columns.items()]

    def _say_how_to_go_on(self, error: BaseException, ref: str) -> None:
        """Add to the hint how to resume, if a part file was kept that the next call can resume."""
        kept = getattr(error, "bytes_kept", None)
        if not kept:
            return
        before, size = getattr(error, "hint", ""), size_text(kept)
        final = isinstance(error, BackendError) and not error.retryable
        if "?" in ref and (final or isinstance(error, _REFUSED)):
            hint = f"{size} are kept; resume by running this command with a newly signed URL"
        else:
            hint = f"{size} are kept; resume with: {self.console.command}"
            hint = "; ".join(filter(None, [before, hint]))
        setattr(error, "hint", hint)  # noqa: B010 - it may be Ctrl-C

    def _destination(self, parsed: argparse.Namespace, ref: str) -> tuple[Any, dict[str, Any]]:
        """The destination for the broker, and the options that go with it."""
        if parsed.to_device:
            self._check_device(parsed)
        if parsed.dest == _STDOUT:
            if parsed.convert is not None:
                raise UsageError(
                    "--convert needs a file or a device as DEST: an image is stored before it is "
                    "converted",
                    hint="name the destination: imagebroker download REF DEST --convert raw",
                )
            return self._standard_output(), {}
        options = {
            "overwrite": parsed.overwrite,
            "file_mode": parsed.file_mode,
            "keep_partial": parsed.keep_partial,
            "preallocate": parsed.preallocate,
            "to_device": parsed.to_device,
            "convert": parsed.convert,
        }
        folder = "" if parsed.dest is None else parsed.dest
        if parsed.dest is not None and not (folder.endswith("/") or os.path.isdir(folder)):
            return parsed.dest, options
        if parsed.overwrite:
            options["overwrite"] = None  # the person did not name the file
        name = self._file_name(parsed, ref)
        if parsed.decompress is not None:
            name = unpacked_name(name, parsed.decompress)
        if parsed.convert is not None:
            name = _CONVERTED.sub(b".raw", name)
        return os.path.join(os.fsencode(folder), name), options

    def _file_name(self, parsed: argparse.Namespace, ref: str) -> bytes:
        """The name of the file in a directory: the image's name, if it was named so.

        :raises UsageError: the ref ends in none.
        """
        bare, typed = ref.partition("#")[0], parsed.ref.partition("#")[0]
        if bare != typed:
            backend = bare[: bare.rindex(":") + 1] if ":" in bare else ""
            return os.fsencode(typed.removeprefix(backend).replace("/", "_"))
        name = self.broker.resolve(ref).ref.file_name
        if not name:
            raise UsageError(
                f"{redact(parsed.ref, 200)!r} does not end in a file name",
                hint="name the destination: imagebroker download REF DEST",
            )
        return name

    @staticmethod
    def _check_device(parsed: argparse.Namespace) -> None:
        """:raises DestinationError: something else is asked for that only a file has."""
        if parsed.dest in (None, _STDOUT):
            raise DestinationError(
                "--to-device needs the name of a device",
                hint="name it: imagebroker download REF /dev/VG/LV --to-device",
            )
        if not parsed.overwrite or parsed.file_mode is not None:
            option = "--file-mode" if parsed.overwrite else "--no-overwrite"
            raise DestinationError(
                f"{option} is for files: a device has no mode, and is always overwritten",
                hint=f"omit {option}",
            )

    def _standard_output(self) -> BinaryIO:
        """:raises DestinationError: it is closed, or a terminal."""
        if self.console.no_output:
            raise DestinationError(
                "standard output is closed",
                hint="redirect it: imagebroker download REF - > FILE",
                errno=errno.EBADF,
            )
        if sys.stdout.isatty():
            raise DestinationError(
                "standard output is a terminal: the image would be printed to it",
                hint="redirect it: imagebroker download REF - > FILE",
            )
        binary = sys.stdout.buffer
        # Unbuffered: every byte that counts as written has left this process.
        return cast(BinaryIO, getattr(binary, "raw", binary))

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        columns, selector = self._generate_columns_and_selector(parsed_args, column_names)
        if selector:
            data = list(self._compress_iterable(data, selector))
        text = io.StringIO()
        self.formatter.emit_one(columns, data, text, parsed_args)
        if parsed_args.formatter == "line":
            if not self.console.quiet:
                self.console.write(text.getvalue().rstrip("\n"))
        elif parsed_args.dest == _STDOUT:  # which is for the image alone
            self.console.write(text.getvalue().rstrip("\n"))
        else:
            self.app.stdout.write(text.getvalue())
        return 0


def _is_one_place(image: int, text: int) -> bool:
    """Whether two descriptors write to the same file; devices such as /dev/null do not count."""
    found = os.fstat(image)
    return os.path.samestat(found, os.fstat(text)) and not stat.S_ISCHR(found.st_mode)


def _with_better_hint(
    error: DestinationError, parsed: argparse.Namespace, dest: Any
) -> DestinationError:
    """Replace the library's hint, which is for Python, with one for the command line."""
    path = os.fsdecode(dest) if isinstance(dest, (str, bytes)) else ""
    if error.errno == errno.EEXIST:
        error.hint = (
            "choose another name, or omit --no-overwrite"
            if path == parsed.dest
            else f"name the destination as DEST to overwrite it: {shlex.quote(path)}"
        )
    elif error.errno == errno.ENOENT and os.path.isdir(os.path.dirname(path) or "."):
        error.hint = "choose another directory: this one was deleted, or takes no new files"
    elif error.errno == errno.ENOENT and os.path.dirname(path):
        parent = shlex.quote(os.path.dirname(path))
        error.hint = f"create the parent directory first: mkdir -p {parent}"
    elif error.found == "socket":
        error.hint = "pipe the image to the program: imagebroker download REF - | PROGRAM"
    elif error.found == "block device":
        error.hint = (
            "write to it with: imagebroker download REF - > DEST; or, read back and verified, with "
            "--to-device"
        )
    elif error.hint == OPENED:
        error.hint = "write to it with: imagebroker download REF - > DEST"
    return error


def _columns(done: Done) -> dict[str, Any]:
    """All columns: how the transfer went, and what was computed over the bytes."""
    return {
        "path": None if done.path is None else os.fspath(done.path),
        "size": done.size,
        "seconds": round(done.seconds, 3),
        # Of what arrived in this run: nothing that an earlier one stored.
        "rate": round((sum(done.served.values()) or done.size) / done.seconds)
        if done.seconds and done.attempts
        else None,
        "source": redact(done.source),
        "attempts": done.attempts,
        "resumed_from": done.resumed_from,
        "via": done.via,
        "checked_against": (),
        **done.evidence,
    }


#: Where the bytes came from, if not from the server.
_VIA = {"cache": " from the cache", "shared": " from another download", "swarm": " in a swarm"}


def _sentence(values: Mapping[str, Any]) -> str:
    """`stored x.img: 1.0 GiB in 2.0 s (512.0 MiB/s), sha256:0123..., qcow2, virtual size 10.0 GiB;
    verified: sha256 of the record`
    """
    where = f"stored {redact(values['path'])}" if values["path"] else "written"
    if values["via"] == "present":
        where = f"{redact(values['path'])} is up to date"
    parts = [f"{where}: {size_text(values['size'])}{_VIA.get(values['via'], '')}"]
    if values.get("compression"):
        parts[0] += f" from {size_text(values['compressed_size'])} of {values['compression']}"
    if values.get("converted_size"):
        parts[0] += f" from {size_text(values['converted_size'])} of {values['converted_from']}"
    if values["seconds"] >= 0.1 and values["rate"]:  # a shorter time says little about the rate
        parts[0] += f" in {values['seconds']:.1f} s ({size_text(values['rate'])}/s)"
    if values["attempts"] > 1:
        parts.append(f"{values['attempts']} attempts")
    if values["resumed_from"]:
        parts.append(f"resumed at {size_text(values['resumed_from'])}")
    of = " of the compressed data" if values.get("decompressed_sha256") else ""
    if values.get("converted_from") and not of:
        of = f" of the {values['converted_from']}"
    parts += [f"{name}:{values[name]}{of}" for name in (*STRONG, *WEAK) if values.get(name)]
    if values.get("raw_sha256"):
        parts.append(f"sha256:{values['raw_sha256']} of the raw disk")
    if values.get("disk_format"):
        parts.append(_format(values))
    return f"{', '.join(parts)}; {_verification(values)}"


def _format(values: Mapping[str, Any]) -> str:
    size = values.get("virtual_size")
    return f"{values['disk_format']}{'' if size is None else f', virtual size {size_text(size)}'}"


def _verification(values: Mapping[str, Any]) -> str:
    """The checks that the bytes have passed."""
    if values["checked_against"]:
        return f"verified: {', '.join(values['checked_against'])}"
    return "not verified: no checksum is known for this image (pass one with --checksum)"


def _named(text: str, origin: str | None) -> str:
    """With the list that `--checksum` named, where the broker knows only that its caller did."""
    return text if origin is None else text.replace("of the caller", f"of {redact(origin, 200)}", 1)
