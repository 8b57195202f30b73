"""`imagebroker create`, `update`, `delete` and `copy`: what changes images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import BrokerCommand, ShowCommand
from imagebroker.cli.images import record
from imagebroker.cli.progress import WatchedFile, display
from imagebroker.exceptions import ImageBrokerError, InvalidImageRef
from imagebroker.model.image import FIELDS, SETTABLE
from imagebroker.redaction import redact

_STDIN = "-"
_UNCHECKED = "store the bytes even where a download would refuse them"


class Create(ShowCommand):
    """Create an image, with its bytes where --file is given: both, or neither."""

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_backend(parser, "where; by default in default_backend")
        parser.add_argument("--id", metavar="UUID", help="by default the backend chooses one")
        _add_file(parser)
        parser.add_argument(
            "--keep-record", action="store_true",
            help="should the bytes not be stored, leave the record for an update with --file",
        )  # fmt: skip
        parser.add_argument(
            "--location", action="append", dest="locations", metavar="URL",
            help="where the bytes are already, instead of --file; may be repeated",
        )  # fmt: skip
        arguments.add_no_check_format(parser, _UNCHECKED)
        arguments.add_field_options(parser)
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        info = arguments.field_values(parsed_args)
        for name in ("id", "locations"):
            if getattr(parsed_args, name):
                info[name] = getattr(parsed_args, name)
        with _data(parsed_args, self) as data:
            image = self.broker.create(
                None,
                info,
                data,
                backend=parsed_args.backend,
                keep_record=parsed_args.keep_record,
                check_format=arguments.checks_format(parsed_args),
            )
        return record(image, parsed_args)


class Update(ShowCommand):
    """Change the record of an image, and its bytes where none were stored yet."""

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        _add_file(parser)
        arguments.add_field_options(parser)
        parser.add_argument(
            "--remove", action="append", default=[], metavar="FIELD",
            choices=sorted(set(SETTABLE) - {"id", "size", "checksums", "locations"}),
            help="a field that is to have no value any more; may be repeated",
        )  # fmt: skip
        parser.add_argument(
            "--remove-property", action="append", default=[], metavar="NAME", help="may be repeated"
        )
        parser.add_argument(
            "--purge-props", action="store_true",
            help="remove all properties but those that are given here",
        )  # fmt: skip
        parser.add_argument(
            "--if-version", metavar="VERSION", help="only if this is still its version"
        )
        arguments.add_no_check_format(parser, _UNCHECKED)
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        changes = _changes(parsed_args)
        if not changes and parsed_args.file is None and not parsed_args.purge_props:
            raise InvalidImageRef(
                "nothing is to be changed", hint="see what can be: imagebroker update --help"
            )
        with _data(parsed_args, self) as data:
            image = self.broker.update(
                None,
                parsed_args.ref,
                changes,
                data,
                purge_props=parsed_args.purge_props,
                if_version=parsed_args.if_version,
                check_format=arguments.checks_format(parsed_args),
            )
        return record(image, parsed_args)


def _changes(parsed: argparse.Namespace) -> dict[str, Any]:
    """:raises InvalidImageRef: a field is both set and removed."""
    changes = arguments.field_values(parsed)
    for name in parsed.remove:
        if name in changes:
            raise InvalidImageRef(f"{name} is both set and removed", hint="do one of them")
        changes[name] = None
    removed = dict.fromkeys(parsed.remove_property)
    if removed:
        changes["properties"] = {**removed, **(changes.get("properties") or {})}
    return changes


class Delete(BrokerCommand):
    """Delete images. A download that runs may finish."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("refs", metavar="REF", nargs="+", help="an image")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Each one is tried; the first failure decides what the process ends with."""
        status = 0
        for ref in parsed_args.refs:
            try:
                self.broker.delete(None, ref)
            except ImageBrokerError as error:
                failed = self.console.error(error)
                status = status or failed
        return status


class Copy(ShowCommand):
    """Create an image in a backend with the bytes of another, verified on both sides."""

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image to copy")
        arguments.add_backend(parser, "where the copy is to be", required=True)
        arguments.add_field_options(parser)
        arguments.add_transfer_options(parser)
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        title = redact(parsed_args.ref, 40)
        with display(parsed_args.progress, self.console, title) as shown:
            image = self.broker.copy(
                None,
                parsed_args.ref,
                arguments.field_values(parsed_args),
                backend=parsed_args.backend,
                progress=shown.callback,
                **arguments.transfer_arguments(parsed_args),
            )
        return record(image, parsed_args)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", metavar="FILE", help="its bytes; - for standard input")
    parser.add_argument(
        "--size", type=arguments.length, metavar="SIZE",
        help="how many bytes there will be, where it does not show (standard input); 0: an empty "
        "image is meant",
    )  # fmt: skip


@contextmanager
def _data(parsed: argparse.Namespace, command: ShowCommand) -> Iterator[Any]:
    """What to send, None if nothing, watched where somebody watches.

    :raises InvalidImageRef: the file cannot be read.
    """
    if parsed.file is None:
        yield None
        return
    title = "standard input" if parsed.file == _STDIN else redact(parsed.file, 40)
    with display(parsed.progress, command.console, title) as shown:
        if parsed.file == _STDIN:
            if sys.stdin is None or sys.stdin.isatty():
                raise InvalidImageRef(
                    "standard input is a terminal, or closed", hint="send the image's bytes into it"
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
        raise InvalidImageRef(
            f"cannot read {redact(path)!r}: {error.strerror}", hint="check the path"
        ) from error
