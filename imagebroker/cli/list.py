"""`imagebroker list`: the images of a backend, a row each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from shlex import quote
from typing import Any

from imagebroker.cli import arguments
from imagebroker.cli.command import ListCommand
from imagebroker.cli.output import Cell, cell
from imagebroker.exceptions import InvalidImageRef, UsageError
from imagebroker.model.image import FIELDS, STATUSES, VISIBILITIES, Image
from imagebroker.model.reference import parse

#: The columns that `-c` can name, and how each is made from an image: every field of the record. A
#: new column is one more entry; `SHORT` and `LONG` say whether it is shown without `-c`.
COLUMNS: dict[str, Callable[[Image], Any]] = {field: attrgetter(field) for field in FIELDS}
SHORT = ("ref", "name", "disk_format", "size", "status")
LONG = (
    *SHORT, "visibility", "owner", "protected", "hidden", "tags", "virtual_size",
    "container_format", "min_disk", "min_ram", "checksums", "created_at", "updated_at",
)  # fmt: skip


class List(ListCommand):
    """List images: by default the active ones that are not hidden."""

    column_names = tuple(COLUMNS)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        arguments.add_backend(parser, "backend to list (default: default_backend)")
        parser.add_argument(
            "--limit", type=arguments.count, metavar="N", help="show at most N images"
        )
        parser.add_argument(
            "--marker", metavar="ID", help="start after this image, the last one already seen"
        )
        parser.add_argument(
            "--page-size", type=arguments.positive, metavar="N", help="fetch N images per request"
        )
        parser.add_argument(
            "--sort", type=arguments.sort, default=("created_at", "desc"), metavar="FIELD[:DIR]",
            help="sort by any field, asc (the default) or desc (default: created_at:desc)",
        )  # fmt: skip
        parser.add_argument(
            "--long", action="store_true", help="show more columns; -c chooses any of them"
        )
        _add_filters(parser)
        arguments.add_ca_file(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterator[Sequence[Any]]]:
        sort_key, sort_dir = parsed_args.sort
        images = self.broker.get_all(
            None,
            backend=parsed_args.backend,
            filters=_filters(parsed_args),
            marker=_id(parsed_args.marker),
            limit=parsed_args.limit,
            page_size=parsed_args.page_size,
            sort_key=sort_key,
            sort_dir=sort_dir,
        )
        names = COLUMNS if parsed_args.columns else LONG if parsed_args.long else SHORT
        return tuple(names), (_row(image, names) for image in images)

    def nothing(self, parsed_args: argparse.Namespace) -> str:
        where = parsed_args.backend or "the default backend"
        what = "no image matches" if _filters(parsed_args) or parsed_args.marker else "no images"
        return f"{what} in {where}"


def _id(marker: str | None) -> str | None:
    """The id in a marker that is a ref, as the list shows it."""
    try:
        return marker and (parse(marker).id or marker)
    except InvalidImageRef:
        return marker


def _row(image: Image, names: Iterable[str]) -> list[Cell]:
    return [cell(name, COLUMNS[name](image)) for name in names]


#: Options that are filters of the same name.
_FILTERS = (
    "name", "visibility", "owner", "disk_format", "container_format", "size_min", "size_max"
)  # fmt: skip


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters", "only images that match all of these")
    group.add_argument("--name")
    group.add_argument(
        "--status", action="append", choices=STATUSES, metavar="STATUS",
        help="default: active; repeat it to list any of several",
    )  # fmt: skip
    group.add_argument("--visibility", choices=VISIBILITIES)
    group.add_argument("--owner", metavar="PROJECT")
    group.add_argument(
        "--tag", action="append", metavar="TAG", help="repeat it to require all of several"
    )
    group.add_argument(
        "--property", type=arguments.pair, action="append", default=[], metavar="NAME=VALUE",
        dest="properties", help="repeat it to require all of several",
    )  # fmt: skip
    group.add_argument("--disk-format", metavar="FORMAT")
    group.add_argument("--container-format", metavar="FORMAT")
    group.add_argument("--size-min", type=arguments.size, metavar="SIZE", help="SIZE or larger")
    group.add_argument("--size-max", type=arguments.size, metavar="SIZE", help="SIZE or smaller")
    group.add_argument("--hidden", action="store_true", help="list the hidden images instead")


def _filters(parsed: argparse.Namespace) -> dict[str, Any]:
    filters = {name: value for name in _FILTERS if (value := getattr(parsed, name)) is not None}
    if parsed.status:
        filters["status"] = parsed.status[0] if len(parsed.status) == 1 else parsed.status
    if parsed.tag:
        filters["tags"] = parsed.tag
    if parsed.hidden:
        filters["hidden"] = True
    for name, value in parsed.properties:
        if name == "tag" or (name in COLUMNS and name in (*_FILTERS, "status")):
            raise UsageError(
                f"{name} is a field of every image, not a property",
                hint=f"write --{name.replace('_', '-')} {quote(value)}",
            )
    return filters | {f"property-{name}": value for name, value in parsed.properties}
