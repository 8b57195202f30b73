"""Where the code of the command is found: a module for each command, and for each line of check."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

import imagebroker.cli.check
from imagebroker.cli.check import checks, insecure, paths, plugins, servers, unknown_options
from imagebroker.cli.commands import COMMANDS
from imagebroker.cli.list import COLUMNS, LONG, SHORT
from imagebroker.model.image import Image


def test_every_command_has_a_module_of_its_own() -> None:
    modules = [target.partition(":")[0] for target in COMMANDS.values()]
    assert_that(sorted(set(modules)), Equals(sorted(modules)))


#: Run for each instance of a backend, by `instances.check`.
_OF_AN_INSTANCE = {
    insecure.check, paths.check, plugins.check, servers.check, unknown_options.check_instance
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [each.name for each in pkgutil.iter_modules(imagebroker.cli.check.__path__)]
)
def test_no_check_is_forgotten(name: str) -> None:
    """A module that is written and not listed would check nothing."""
    module = importlib.import_module(f"imagebroker.cli.check.{name}")
    if module is checks:
        return
    for title, function in inspect.getmembers(module, inspect.isfunction):
        if title.startswith("check") and function.__module__ == module.__name__:
            assert_that({*checks.CHECKS, *_OF_AN_INSTANCE}, Contains(function))


def test_every_column_of_a_list_is_made_from_an_image() -> None:
    image = Image(ref="file:3f2504e0-4f89-11d3-9a0c-0305e82c3301", name="a")
    values = {name: column(image) for name, column in COLUMNS.items()}
    assert_that((values["ref"], values["name"]), Equals((image.ref, "a")))
    assert_that(set(SHORT) | set(LONG) | set(COLUMNS), Equals(set(COLUMNS)))
