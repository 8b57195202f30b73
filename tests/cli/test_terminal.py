"""Nothing that the command prints as text can do anything to a terminal."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.cli.main import main
from imagebroker.cli.safe_text import safe
from tests import distributions
from tests.cli.conftest import Inside

#: ESC, BEL, CR, C1's CSI, an override of the direction of writing, an isolate, a line separator.
EVIL = "\x1b]0;x\x07\r\x9b31m\u202egpj.\u2066x\u2028\x7f\x00\u200b"
FORBIDDEN = set(EVIL) - set("]0;x31mgpj.")
NAME = f'a{EVIL}b, 日本 \\ "q" \u200dé'

HOSTILE = """
import logging
from imagebroker.plugin import *

EVIL = {evil!a}


class HostileBackend(ImageBackend):
    api_version = 1
    name = "hostile"
    ref_form = RefForm(id=True, host=True, path=True)

    def open(self, context, ref):
        logging.getLogger("a.library").warning("a server says %s", EVIL)
        raise ImageNotFound(f"no {{EVIL}}", hint=f"ask {{EVIL}}", where=EVIL)

    def get(self, context, ref, include_locations=False, show_deleted=True):
        return self._image()

    def get_all(self, context, query):
        yield self._image()

    def _image(self):
        return Image(ref="hostile:3f2504e0-4f89-11d3-9a0c-0305e82c3301", name={name!a}, size=1,
                     status="active", tags=(EVIL,), properties={{EVIL: EVIL, "two": "a\\nb"}})
"""


@pytest.fixture
def hostile(imagebroker: Inside) -> Inside:
    distributions.install(
        imagebroker.plugins, "hostile", {"hostile": "hostile:HostileBackend"},
        hostile=HOSTILE.format(evil=EVIL, name=NAME),
    )  # fmt: skip
    imagebroker.config("[imagebroker]\nenabled_schemes = hostile\ndefault_backend = hostile\n")
    return imagebroker


def text_of(done: Any) -> str:
    return done.stdout.decode() + done.stderr


ID = "hostile:3f2504e0-4f89-11d3-9a0c-0305e82c3301"
COLUMNS = ("-c", "name", "-c", "tags", "-c", "properties")
COMMANDS = [
    *(("list", "-f", f, *COLUMNS) for f in ("table", "csv", "value", "json", "yaml")),
    *(("list", "-f", "csv", "--quote", q, "-c", "name") for q in ("none", "all", "minimal")),
    *(("show", ID, "-f", f) for f in ("table", "value", "json", "yaml")),
    ("download", "hostile://h/x", "dest"),
    ("download", "hostile://h/x", "dest", "-f", "json"),
    ("--debug", "-v", "download", "hostile://h/x", "dest"),
    ("resolve", f"hostile://h/{EVIL}"),
    ("show", f"--{EVIL}"),
    (f"{EVIL}", "x"),
    ("list", "--limit", EVIL),
    ("list", "-c", EVIL),
]  # fmt: skip


@pytest.mark.promise("terminal-text")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: " ".join(map(ascii, each)))
def test_no_control_character_reaches_standard_output_or_error(
    command: tuple[str, ...], hostile: Inside
) -> None:
    shown = text_of(hostile(*command))
    assert_that(sorted(map(ascii, FORBIDDEN & set(shown))), Equals([]), ascii(shown))
    assert_that(shown, Contains("x"))


@pytest.mark.promise("terminal-text")
def test_json_and_yaml_say_exactly_what_the_name_is_and_csv_says_it_in_escapes(
    hostile: Inside,
) -> None:
    listed = json.loads(hostile("list", "-f", "json", "-c", "name").stdout)
    assert_that(listed, Equals([{"name": NAME}]))
    listed = yaml.safe_load(hostile("list", "-f", "yaml", "-c", "name").stdout)
    assert_that(listed, Equals([{"name": NAME}]))
    text = hostile("list", "-f", "csv", "-c", "name").stdout.decode()
    rows = list(csv.reader(io.StringIO(text), escapechar="\\"))
    assert_that(rows, Equals([["name"], [safe(NAME)]]))


def test_what_people_write_in_their_languages_stays_as_it_is() -> None:
    for text in ("naïve 日本\u3000語", "می\u200cخواهم", "👩\u200d🚀", "tab\tand\nline", "a\xa0b"):
        assert_that(safe(text), Equals(text))


def test_the_log_file_has_one_line_for_each_record(hostile: Inside, tmp_path: Path) -> None:
    log = tmp_path / "log"
    hostile("--log-file", str(log), "list")
    hostile("--log-file", str(log), "download", "hostile://h/x", "dest")
    lines = [line for line in log.read_text().split("\n") if "a server says" in line]
    assert_that((len(lines), FORBIDDEN & set("".join(lines))), Equals((1, set())))


@pytest.mark.promise("terminal-text")
def test_a_record_with_line_feeds_does_not_forge_another_one(tmp_path: Path) -> None:
    from imagebroker.cli.app import RedactingFormatter

    record = logging.LogRecord("x", 30, "", 0, "one\n2026 CRITICAL two %s", ("\x85three",), None)
    shown = RedactingFormatter("%(levelname)s %(message)s").format(record)
    assert_that(shown, Equals("WARNING one\\n2026 CRITICAL two \\x85three"))


def test_streams_are_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    before = sys.stdout, sys.stderr
    main(["backends", "-h"])
    assert_that((sys.stdout, sys.stderr) == before, Equals(True))
