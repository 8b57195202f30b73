"""`imagebroker create`: a new image."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ShowCommand
from imagebroker.cli.image_data import (
    STDIN,
    UNCHECKED_HELP,
    add_file_options,
    format_of,
    opened_data,
)
from imagebroker.cli.record import record
from imagebroker.exceptions import FormatError, InvalidImageRef, UnsupportedOperation
from imagebroker.model.image import FIELDS, Image


class Create(ShowCommand):
    """Create an image, and upload its data with --file; if that fails, no image is left.

    Without --name and --disk-format, the image has the name of the file, and the format that its
    bytes show.
    """

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_backend(parser, "backend to create it in (default: default_backend)")
        parser.add_argument(
            "--id", metavar="UUID", help="id of the image (default: chosen by the backend)"
        )
        add_file_options(parser)
        parser.add_argument(
            "--keep-record", action="store_true",
            help="if the upload fails, keep the record, for `imagebroker update REF --file FILE`",
        )  # fmt: skip
        parser.add_argument(
            "--location", action="append", dest="locations", metavar="URL",
            help="use data that is already stored at URL, instead of --file; repeatable",
        )  # fmt: skip
        arguments.add_no_check_format(parser, UNCHECKED_HELP)
        arguments.add_field_options(parser)
        arguments.add_ca_file(parser)
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        info = arguments.field_values(parsed_args)
        for name in ("id", "locations"):
            if getattr(parsed_args, name):
                info[name] = getattr(parsed_args, name)
        assumed, unacceptable = _assumed(parsed_args.file, info)
        try:
            image = self._created(parsed_args, info | assumed)
        except InvalidImageRef as error:
            if unacceptable is None or arguments.checks_format(parsed_args) is False:
                raise
            # That it has no format is not the mistake: the upload would have said why.
            raise unacceptable from error
        except UnsupportedOperation:
            if "name" not in assumed:
                raise
            # This backend stores no names, and none was asked for.
            image = self._created(parsed_args, info | {**assumed, "name": None})
        return record(image, parsed_args)

    def _created(self, parsed: argparse.Namespace, info: dict[str, Any]) -> Image:
        with opened_data(parsed, self) as data:
            return self.broker.create(
                None,
                {name: value for name, value in info.items() if value is not None},
                data,
                backend=parsed.backend,
                keep_record=parsed.keep_record,
                check_format=arguments.checks_format(parsed),
            )


def _assumed(
    file: str | None, info: Mapping[str, Any]
) -> tuple[dict[str, Any], FormatError | None]:
    """The name and the format of the file, if the user names no others; and why it has none."""
    if file is None or file == STDIN:
        return {}, None
    found: dict[str, Any] = {"name": os.path.basename(file)}
    unacceptable = None
    if "disk_format" not in info:
        try:
            found["disk_format"] = format_of(file)
        except FormatError as error:
            unacceptable = error
    assumed = {name: value for name, value in found.items() if value and name not in info}
    return assumed, unacceptable
