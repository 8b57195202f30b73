"""The rooms of the architecture: which module may import which (docs/architecture.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.bounds import HANGS

ROOT = Path(__file__).parents[2]
PLUGINS = (
    "imagebroker_file",
    "imagebroker_http",
    "imagebroker_oci",
    "imagebroker_rbd",
    "imagebroker_s3",
    "imagebroker_scp",
    "imagebroker_glance",
    "imagebroker_swift",
)


def test_the_contracts_in_pyproject_are_kept() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    options = ["--config", "pyproject.toml", "--no-cache", "--no-logo"]
    done = subprocess.run(
        [sys.executable, "-c", program, *options],
        cwd=ROOT, check=False, timeout=HANGS, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("imagebroker", *PLUGINS, cache_dir=None)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_imports_the_facade_and_nothing_else_of_ours(
    plugin: str, graph: grimp.ImportGraph
) -> None:
    imported = {
        target
        for module in {plugin, *graph.find_descendants(plugin)}
        for target in graph.find_modules_directly_imported_by(module)
        if target.partition(".")[0] != plugin
    }
    facades = {
        "imagebroker.plugin",
        *(f"imagebroker.plugin.{each}" for each in ("http", "keystone", "objects", "records")),
    }
    assert_that(imported - facades, Equals(set()))


def test_who_calls_plugins_does_so_through_the_boundary_which_few_know(
    graph: grimp.ImportGraph,
) -> None:
    modules = ("boundary", "opened_source", "running_call")
    users = {
        name
        for each in modules
        for name in graph.find_modules_that_directly_import(f"imagebroker.backends.{each}")
    }
    rooms = {name.split(".")[1] for name in users} - {"backends"}
    assert_that(
        rooms, Equals({"verbs", "request", "registry", "routing", "snapshot", "swarm", "transfer"})
    )


def test_importing_the_package_loads_no_more_than_its_errors() -> None:
    program = (
        "import sys, imagebroker; print(*sorted(m for m in sys.modules if 'imagebroker' in m))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=HANGS, capture_output=True, text=True
    )
    loaded = [name for name in done.stdout.split() if not name.startswith("__editable__")]
    assert_that(
        loaded,
        Equals([
            "imagebroker", "imagebroker._version", "imagebroker.exceptions",
            "imagebroker.redaction",
        ]),
    )  # fmt: skip
