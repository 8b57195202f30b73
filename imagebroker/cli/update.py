"""`imagebroker update`: changes the record of an image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ShowCommand
from imagebroker.cli.image_data import UNCHECKED_HELP, add_file_options, opened_data
from imagebroker.cli.record import record
from imagebroker.exceptions import UsageError
from imagebroker.model.image import FIELDS, SETTABLE


class Update(ShowCommand):
    """Change the record of an image, or upload its data if it has none yet."""

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        add_file_options(parser)
        arguments.add_field_options(parser)
        parser.add_argument(
            "--remove", action="append", default=[], metavar="FIELD",
            choices=sorted(set(SETTABLE) - {"id", "size", "checksums", "locations"}),
            help="clear a field; repeatable",
        )  # fmt: skip
        parser.add_argument(
            "--remove-property", action="append", default=[], metavar="NAME",
            help="remove a property; repeatable",
        )  # fmt: skip
        parser.add_argument(
            "--purge-props", action="store_true",
            help="remove all properties that are not set with --property",
        )  # fmt: skip
        parser.add_argument(
            "--if-version", metavar="VERSION",
            help="refuse if the image has another version by now",
        )  # fmt: skip
        arguments.add_no_check_format(parser, UNCHECKED_HELP)
        arguments.add_ca_file(parser)
        arguments.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        changes = _changes(parsed_args)
        if not changes and parsed_args.file is None and not parsed_args.purge_props:
            raise UsageError(
                "nothing to change", hint="list what can be changed with: imagebroker update --help"
            )
        ref = self.ref_of(parsed_args.ref)
        with opened_data(parsed_args, self) as data:
            image = self.broker.update(
                None,
                ref,
                changes,
                data,
                purge_props=parsed_args.purge_props,
                if_version=parsed_args.if_version,
                check_format=arguments.checks_format(parsed_args),
            )
        return record(image, parsed_args)


def _changes(parsed: argparse.Namespace) -> dict[str, Any]:
    """:raises UsageError: a field is both set and removed."""
    changes = arguments.field_values(parsed)
    for name in parsed.remove:
        if name in changes:
            raise UsageError(f"{name} is both set and removed", hint="choose one of the two")
        changes[name] = None
    removed = dict.fromkeys(parsed.remove_property)
    if removed:
        changes["properties"] = {**removed, **(changes.get("properties") or {})}
    return changes
