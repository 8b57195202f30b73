"""The types of option values, and the options that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, TypeVar

from imagebroker.config.options import Size
from imagebroker.transfer.codecs import AUTO, KINDS

_N = TypeVar("_N", int, float)


def size(text: str) -> int:
    """Bytes: `4096`, `10G`."""
    try:
        return Size()(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path(text: str) -> str:
    """A path; a leading `~`, which shells leave as it is in `--output=~/disk.img`, is expanded."""
    first = text.partition("/")[0]
    return os.path.expanduser(text) if first[:1] == "~" and not os.path.lexists(first) else text


def file(text: str) -> str:
    """A path, which is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("'' is not the name of a file")
    return path(text)


def length(text: str) -> int:
    """The size of what is uploaded, in bytes; 0 is allowed."""
    return 0 if text.strip() == "0" else size(text)


def rate(text: str) -> int:
    """Bytes a second; 0 for no limit."""
    return 0 if text == "0" else size(text)


def seconds(text: str) -> float:
    """A positive number of seconds."""
    return _number(text, float, lambda number: 0 < number < float("inf"), "a positive number")


def age(text: str) -> float:
    """Seconds, or a number of `s`, `m`, `h` or `d`."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    unit = units.get(text[-1:], 1)
    number = text[:-1] if text[-1:] in units else text
    return unit * _number(number, float, lambda n: 0 <= n < float("inf"), "an age like 90m or 7d")


def count(text: str) -> int:
    """A whole number, 0 or more."""
    return _number(text, int, lambda number: number >= 0, "a whole number of 0 or more")


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    return _number(text, int, lambda number: number >= 1, "a whole number of 1 or more")


def mode(text: str) -> int:
    """The permissions of a file, octal."""
    return _number(
        text, lambda t: int(t, 8), lambda bits: 0 <= bits <= 0o777, "octal permissions like 0644"
    )


def _number(text: str, convert: Callable[[str], _N], fits: Callable[[_N], bool], what: str) -> _N:
    try:
        number = convert(text)
        if fits(number):
            return number
    except ValueError:
        pass  # not a number at all: the same message
    raise argparse.ArgumentTypeError(f"{text!r} is not {what}")


def pair(text: str) -> tuple[str, str]:
    """`NAME=VALUE`."""
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def sort(text: str) -> tuple[str, str]:
    """`FIELD` or `FIELD:asc` or `FIELD:desc`."""
    field, sign, direction = text.partition(":")
    if not field or (direction not in ("asc", "desc") and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD, FIELD:asc or FIELD:desc")
    return field, direction or "asc"


def add_switch(parser: Any, flag: str, help_text: str) -> None:
    """`--FLAG` and `--no-FLAG`; None where neither is given."""
    parser.add_argument(
        flag, action=argparse.BooleanOptionalAction, default=None, help=help_text
    )  # fmt: skip


def add_backend(parser: Any, help_text: str, *, required: bool = False) -> None:
    parser.add_argument(
        "--backend", metavar="NAME[:INSTANCE]", required=required, help=help_text
    )  # fmt: skip


#: Options of a transfer that are keyword arguments of the broker.
_TRANSFER = (
    "checksum", "require_checksum", "max_size", "deadline", "retries", "stall_timeout", "min_rate",
    "rate_limit", "allow_unknown_size", "allow_empty", "allowed_formats", "check_format",
    "trusted_certs", "decompress", "max_compression_ratio", "prefer",
)  # fmt: skip


def add_no_check_format(parser: Any, help_text: str) -> None:
    """`--no-check-format`: sets `check_format` to False; None without it."""
    parser.add_argument(
        "--no-check-format", action="store_false", default=None, dest="check_format",
        help=help_text,
    )  # fmt: skip


def checks_format(parsed: argparse.Namespace) -> bool:
    return parsed.check_format is not False


def names(text: str) -> list[str]:
    """A list, written as in the config file: `a,b`."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names like a,b")
    return found


class _Attached(argparse.Action):
    """An option whose value is optional, and attached: `--decompress=xz`. The next word is never
    its value: it may be REF.
    """

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        setattr(namespace, self.dest, str(option_string).partition("=")[2] or AUTO)


def add_transfer_options(parser: argparse.ArgumentParser) -> None:
    """The options of a transfer, for download and copy."""
    parser.add_argument(
        "--checksum", type=path, metavar="DIGEST|URL|FILE|-",
        help="digest that the image must have: sha256:HEX, or HEX alone; or the URL or path of a "
        "SHA256SUMS file that lists it, or - to read it from standard input; checked in addition "
        "to the checksum in the image's record",
    )  # fmt: skip
    add_switch(
        parser, "--require-checksum",
        "refuse an image for which no strong checksum is known (default: as configured; on for "
        "glance, off for other backends)",
    )  # fmt: skip
    parser.add_argument(
        "--allowed-formats", type=names, metavar="FORMAT[,...]",
        help="disk formats to accept, such as qcow2,raw",
    )  # fmt: skip
    add_no_check_format(parser, "accept any content: text, an unsafe disk image, or another "
                        "format than the declared one")  # fmt: skip
    parser.add_argument(
        "--trusted-certs", type=names, metavar="ID[,...]",
        help="require a signature whose certificate was issued by one of these certificates (ids "
        "in the key manager)",
    )  # fmt: skip
    parser.add_argument(
        "--prefer", type=names, metavar="STORE[,...]",
        help="stores of the image service, best first: the order in which locations that may be "
        "read directly (direct_url_schemes) are tried",
    )  # fmt: skip
    parser.add_argument(
        "--decompress", *(f"--decompress={kind}" for kind in (AUTO, *KINDS)), nargs=0,
        action=_Attached, dest="decompress",
        help="decompress the image; the compression is detected, unless it is named; checksums are "
        "those of the compressed data",
    )  # fmt: skip
    group = parser.add_argument_group("limits", "these override the config file")
    group.add_argument(
        "--max-size", type=size, metavar="SIZE",
        help="refuse an image that is larger, in bytes or like 10G",
    )  # fmt: skip
    group.add_argument(
        "--max-compression-ratio", type=positive, metavar="N",
        help="refuse an image that decompresses to more than N times its size (the first GiB is "
        "free)",
    )  # fmt: skip
    group.add_argument(
        "--deadline", type=seconds, metavar="SECONDS",
        help="give up after this time, even if bytes still arrive",
    )  # fmt: skip
    group.add_argument(
        "--retries", type=count, metavar="N",
        help="give up after N retries in a row without new bytes",
    )  # fmt: skip
    group.add_argument(
        "--stall-timeout", type=seconds, metavar="SECONDS",
        help="drop a connection on which nothing arrives for this time",
    )  # fmt: skip
    group.add_argument(
        "--min-rate", type=rate, metavar="SIZE",
        help="drop a connection slower than SIZE bytes a second, on average over the stall "
        "timeout; 0 for no minimum",
    )  # fmt: skip
    group.add_argument(
        "--rate-limit", type=size, metavar="SIZE",
        help="limit the transfer to SIZE bytes a second, such as 10M",
    )  # fmt: skip
    # As curl and wget call it.
    parser.add_argument("--limit-rate", type=size, dest="rate_limit", help=argparse.SUPPRESS)
    add_switch(group, "--allow-unknown-size",
               "accept an image with neither a known size nor a checksum")  # fmt: skip
    add_switch(group, "--allow-empty",
               "accept an empty image even if no record says that it is empty")  # fmt: skip


def transfer_arguments(
    parsed: argparse.Namespace, ref: str, called: str | None = None
) -> dict[str, Any]:
    """The options above that were given, as keyword arguments of the broker.

    `ref`: of the image; `called`: its name, if it was named so. If a checksum was found in a local
    list, `parsed.checksum_origin` says which.
    """
    parsed.checksum_origin = None
    if parsed.checksum is not None:
        from imagebroker.cli.checksum_argument import checksum_of

        parsed.checksum, parsed.checksum_origin = checksum_of(parsed.checksum, ref, called)
    return {name: value for name in _TRANSFER if (value := getattr(parsed, name)) is not None}


def add_ca_file(parser: argparse.ArgumentParser) -> None:
    """`--ca-file`, for the commands that talk to servers; `BrokerCommand` reads it."""
    parser.add_argument(
        "--ca-file", type=file, metavar="FILE",
        help="PEM file with the certificates of the authorities to trust, instead of the system's",
    )  # fmt: skip


def add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--progress", choices=("auto", "json", "plain", "none"), default="auto",
        help="how to report progress on standard error: auto (a bar on a terminal, else a line "
        "every ten seconds), plain (a line every two seconds), json (one object a line), none",
    )  # fmt: skip


#: Options that set the field of the same name.
_FIELDS = (
    "name", "disk_format", "container_format", "visibility", "protected", "hidden", "owner",
    "min_disk", "min_ram", "size",
)  # fmt: skip


def add_field_options(parser: argparse.ArgumentParser) -> None:
    """The fields of a record that create, update and copy can set."""
    group = parser.add_argument_group("fields of the record")
    group.add_argument("--name")
    group.add_argument("--disk-format", metavar="FORMAT", help="raw, qcow2, iso, vmdk, ...")
    group.add_argument("--container-format", metavar="FORMAT", help="bare, ovf, ...")
    group.add_argument(
        "--property", type=pair, action="append", default=[], metavar="NAME=VALUE",
        dest="properties", help="set a custom property; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--tag", action="append", dest="tags", metavar="TAG", help="set a tag; repeatable"
    )
    seen_by = group.add_mutually_exclusive_group()
    for visibility, who in (
        ("public", "visible to everyone"),
        ("private", "visible to its project only"),
        ("shared", "visible to its project and its members"),
        ("community", "usable by everyone, but not in their lists"),
    ):
        seen_by.add_argument(
            f"--{visibility}", dest="visibility", action="store_const", const=visibility, help=who
        )
    add_switch(group, "--protected", "protect it from being deleted")
    add_switch(group, "--hidden", "hide it from lists")
    group.add_argument("--owner", metavar="PROJECT")
    group.add_argument(
        "--member", action="append", dest="members", metavar="PROJECT",
        help="share a shared image with this project; repeatable",
    )  # fmt: skip
    group.add_argument("--min-disk", type=count, metavar="GIB", help="smallest disk to boot it on")
    group.add_argument("--min-ram", type=count, metavar="MIB", help="least memory to boot it with")


def field_values(parsed: argparse.Namespace) -> dict[str, Any]:
    """`image_info` from the options above."""
    info = {name: value for name in _FIELDS if (value := getattr(parsed, name, None)) is not None}
    for name in ("tags", "members"):
        if getattr(parsed, name):
            info[name] = list(getattr(parsed, name))
    if parsed.properties:
        info["properties"] = dict(parsed.properties)
    return info
