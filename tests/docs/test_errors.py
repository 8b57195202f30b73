"""docs/errors.md lists every error, with its id and its exit status."""

from __future__ import annotations

import re
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals, MatchesRegex

from imagebroker import exceptions
from imagebroker.cli.exit_status import exit_status
from imagebroker.exceptions import ImageBrokerError

TEXT = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
KINDS = {
    name: kind
    for name, kind in vars(exceptions).items()
    if isinstance(kind, type) and issubclass(kind, ImageBrokerError)
}


def test_every_error_is_there_with_its_id_and_exit_status() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| `(\w+)` \| (\d+) \|", TEXT, flags=re.MULTILINE)
    found = {name: (error_id, int(status)) for error_id, name, status in rows}
    expected = {name: (kind.id, exit_status(kind("x"))) for name, kind in KINDS.items()}
    assert_that(found, Equals(expected))


def test_no_two_errors_share_an_id() -> None:
    ids = [kind.id for kind in KINDS.values()]
    assert_that(len(set(ids)), Equals(len(KINDS)))
    for error_id in ids:
        assert_that(error_id, MatchesRegex("[a-z]+(-[a-z]+)*$"))
