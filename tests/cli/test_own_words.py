"""Hints name what the command has: `--max-size`, where a program would pass `max_size`."""

from __future__ import annotations

import gzip
import re

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.cli.own_words import hint_for
from tests.cli.conftest import Inside
from tests.cli.mistakes import HTTP

OPTIONS = (
    "max_size",
    "deadline",
    "allow_empty",
    "checksum",
    "ca_file",
    "disk_format",
    "require_checksum",
)


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("raise max_size if that is wanted", "raise --max-size if that is wanted"),
        ("pass allow_empty, or max_size", "pass --allow-empty, or --max-size"),
        ("check the URL that checksum= has", "check the URL that --checksum has"),
        ("check the network, or raise deadline", "check the network, or raise --deadline"),
        (
            "use one of the allowed formats, or pass disk_format",
            "use one of the allowed formats, or pass --disk-format",
        ),
        # Of what the command has no option for, or says so already, or of the config file:
        *((same, same) for same in (
            "raise max_virtual_size",
            "max_size = 10G",
            "set ca_file to a PEM file",
            "name it: --ca-file FILE, or ca_file",
            "set max_size in [imagebroker]",
            "remove require_checksum from the config file",
            "correct the image's disk_format",
            "a checksum of the image",
            "the deadline is over",
            "chmod o= FILE",
            "sort by one of disk_format, name, asc or desc",
        )),
    ],
)  # fmt: skip
def test_an_option_is_named_as_it_is_typed(hint: str, said: str) -> None:
    assert_that(hint_for(hint, OPTIONS), Equals(said))


@pytest.mark.parametrize(
    ("data", "argv", "applied"),
    [
        (b"x" * 100, ("--max-size", "10"), ("--max-size", "100")),
        (gzip.compress(b""), ("--decompress",), ("--allow-empty", "--decompress")),
    ],
    ids=["too large", "empty"],
)
def test_the_option_in_the_hint_helps(
    data: bytes, argv: tuple[str, ...], applied: tuple[str, ...], imagebroker: Inside
) -> None:
    (imagebroker.folder / "disk").write_bytes(data)
    ref = f"file://{imagebroker.folder}/disk"
    refused = imagebroker("download", ref, "x", *argv)
    assert_that(refused.status != 0, Equals(True))
    named = re.search(r"hint: .*?(--[a-z-]+)", refused.stderr)
    assert named is not None, refused.stderr
    assert_that(named[1], Equals(applied[0]))
    assert_that(imagebroker("download", ref, "x", *applied).status, Equals(0))


def test_a_list_that_is_missing_is_found_by_the_option_that_named_it(imagebroker: Inside) -> None:
    (imagebroker.folder / "disk").write_bytes(b"x" * 100)
    ref = f"file://{imagebroker.folder}/disk"
    refused = imagebroker("download", ref, "x", "--checksum", f"{ref}.SHA256SUMS")
    assert_that(refused.stderr, Contains("hint: check the URL of --checksum"))


def test_the_line_of_the_config_file_is_named_as_it_stands_there(imagebroker: Inside) -> None:
    imagebroker.config(f"{HTTP}ca_file = /not/there.pem\n")
    refused = imagebroker("download", "https://127.0.0.1:1/x", "x")
    assert_that(refused.stderr, Contains("[backend:http] ca_file"))
    assert_that("--ca-file" in refused.stderr, Equals(False), refused.stderr)
