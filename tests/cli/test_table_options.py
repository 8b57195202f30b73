"""Our table has the options of cliff's, and costs nothing where none is printed."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

from cliff.formatters import table
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.cli.output import TableFormatter


def options(formatter: Any) -> list[tuple[Any, ...]]:
    parser = argparse.ArgumentParser()
    formatter.add_argument_group(parser)
    return [
        (each.option_strings, each.default, each.type, each.help, each.metavar)
        for each in parser._actions
    ]


def test_the_options_are_those_of_cliff() -> None:
    assert_that(options(TableFormatter()), Equals(options(table.TableFormatter())))


def test_a_command_that_prints_no_table_does_not_load_them() -> None:
    program = (
        "import sys, imagebroker.cli.download\n"
        "print([each for each in ('prettytable', 'urllib3', 'ssl') if each in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert_that(done.stdout.strip(), Equals("[]"))
