"""`imagebroker show` and `list`: what is known about images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ListCommand, ShowCommand
from imagebroker.cli.output import Cell, cell
from imagebroker.exceptions import Gone
from imagebroker.model.image import FIELDS, STATUSES, VISIBILITIES, Image


def record(image: Image, parsed: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
    """An image as cliff shows it. A table leaves out what is not known."""
    brief = parsed.formatter == "table" and not parsed.columns
    names = [
        name for name in FIELDS if not brief or getattr(image, name) not in (None, (), {})
    ]  # fmt: skip
    return names, [cell(name, getattr(image, name)) for name in names]


class Show(ShowCommand):
    """Show what is known about an image."""

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        parser.add_argument(
            "--deleted", action="store_true", help="show what is left of an image that was deleted"
        )
        parser.add_argument(
            "--locations", action="store_true", help="show where else its bytes are"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        try:
            image = self.broker.get(
                None,
                parsed_args.ref,
                include_locations=parsed_args.locations,
                show_deleted=parsed_args.deleted,
            )
        except Gone as error:
            if not parsed_args.deleted:
                error.hint = "--deleted shows what is left of it"
            raise
        return record(image, parsed_args)


_SHORT = ("ref", "name", "disk_format", "size", "status")
_LONG = (
    *_SHORT, "visibility", "owner", "protected", "hidden", "tags", "virtual_size",
    "container_format", "min_disk", "min_ram", "checksums", "created_at", "updated_at",
)  # fmt: skip


class List(ListCommand):
    """List images: those that are active and not hidden, unless options ask for others."""

    column_names = FIELDS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_backend(parser, "whose images; by default those of default_backend")
        parser.add_argument(
            "--limit", type=arguments.count, metavar="N", help="at most so many images"
        )
        parser.add_argument(
            "--marker", metavar="ID", help="begin after this image, the last one already seen"
        )
        parser.add_argument(
            "--page-size", type=arguments.positive, metavar="N", help="images in one request"
        )
        parser.add_argument(
            "--sort", type=arguments.sort, default=("created_at", "desc"), metavar="FIELD[:DIR]",
            help="asc (the default for a FIELD) or desc by any field; by default the newest first",
        )  # fmt: skip
        parser.add_argument(
            "--long", action="store_true", help="more columns; -c names any of them without this"
        )
        _add_filters(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterator[Sequence[Any]]]:
        sort_key, sort_dir = parsed_args.sort
        images = self.broker.get_all(
            None,
            backend=parsed_args.backend,
            filters=_filters(parsed_args),
            marker=parsed_args.marker,
            limit=parsed_args.limit,
            page_size=parsed_args.page_size,
            sort_key=sort_key,
            sort_dir=sort_dir,
        )
        names = FIELDS if parsed_args.columns else _LONG if parsed_args.long else _SHORT
        return names, (_row(image, names) for image in images)


def _row(image: Image, names: Sequence[str]) -> list[Cell]:
    return [cell(name, getattr(image, name)) for name in names]


#: Options of `list` that are filters of the same name.
_FILTERS = (
    "name", "visibility", "owner", "disk_format", "container_format", "size_min", "size_max"
)  # fmt: skip


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters", "only images that match all of these")
    group.add_argument("--name")
    group.add_argument(
        "--status", action="append", choices=STATUSES, metavar="STATUS",
        help="by default active; may be repeated",
    )  # fmt: skip
    group.add_argument("--visibility", choices=VISIBILITIES)
    group.add_argument("--owner", metavar="PROJECT")
    group.add_argument("--tag", action="append", metavar="TAG", help="may be repeated: all of them")
    group.add_argument(
        "--property", type=arguments.pair, action="append", default=[], metavar="NAME=VALUE",
        dest="properties", help="may be repeated",
    )  # fmt: skip
    group.add_argument("--disk-format", metavar="FORMAT")
    group.add_argument("--container-format", metavar="FORMAT")
    group.add_argument("--size-min", type=arguments.size, metavar="SIZE", help="at least so large")
    group.add_argument("--size-max", type=arguments.size, metavar="SIZE", help="at most so large")
    group.add_argument("--hidden", action="store_true", help="the hidden images instead")


def _filters(parsed: argparse.Namespace) -> dict[str, Any]:
    filters = {name: value for name in _FILTERS if (value := getattr(parsed, name)) is not None}
    if parsed.status:
        filters["status"] = parsed.status[0] if len(parsed.status) == 1 else parsed.status
    if parsed.tag:
        filters["tags"] = parsed.tag
    if parsed.hidden:
        filters["hidden"] = True
    return filters | {f"property-{name}": value for name, value in parsed.properties}
