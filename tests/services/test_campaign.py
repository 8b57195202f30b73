"""The campaign on a service of two files: what it says of tests that pass, fail, end their process."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from tests.services.__main__ import tried
from tests.services.environment import Environment, unpack_folders
from tests.services.model import Reason, Service, Suite
from tests.services.runs import Incomplete, run_suite
from tests.services.table import Comparison

TESTS = """
import os, sys, unittest
import sample_service

class Case(unittest.TestCase):
    def test_same(self): self.assertTrue(sample_service.answer)
    def test_broken(self): self.fail("never worked")
    def test_changed(self): self.assertEqual(42, sample_service.answer)
    def test_said(self): self.assertEqual("own", sample_service.inside, "a key too many")
    def test_said_otherwise(self): self.assertEqual("own", sample_service.inside, "a wrong value")
    def test_inside(self): self.assertEqual("own", sample_service.inside)
    def test_ends_the_process(self):
        if sample_service.answer != 42: os._exit(3)
    @unittest.skip("not here")
    def test_skipped(self): pass
"""
SWAP = """
import sample_service
def swap():
    sample_service.answer, sample_service.inside = 43, "ours"
"""
CASE = "test_sample_service.Case."
#: Tests that are interrupted once, and one with scenarios.
LONG_TESTS = """
import os, signal, unittest
from pathlib import Path

class Case(unittest.TestCase):
    scenarios = [("x", {"good": True}), ("y", {"good": False})]
    def test_scenarios(self): self.assertTrue(self.good)

class Long(unittest.TestCase):
    def test_1(self): pass
    def test_2(self):
        seen = Path("seen")
        if not seen.exists():
            seen.touch()
            os.kill(os.getpid(), signal.SIGTERM)
    def test_3(self): pass
"""
#: What the library of that name does for them.
SCENARIOS = """
import copy

def generate_scenarios(test):
    for name, values in test.scenarios:
        made = copy.copy(test)
        vars(made).update(values, scenarios=None, id=lambda name=name: f"{test.id()}({name})")
        yield made
"""


class Sample(Environment):
    """The environment of these tests, which has the service already."""

    @property
    def python(self) -> Path:
        return Path(sys.executable)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    tmp_path = tmp_path_factory.mktemp("service")
    (tmp_path / "sample_service.py").write_text('answer, inside = 42, "own"\n')
    (tmp_path / "test_sample_service.py").write_text(TESTS)
    (tmp_path / "sample_swap.py").write_text(SWAP)
    suite = Suite(("test_sample_service",), environment={"PYTHONPATH": str(tmp_path)})
    reasons = (
        Reason(rf"{CASE}test_inside", "looks inside"),
        Reason(rf"{CASE}test_same", "was mended long ago"),
        Reason(rf"{CASE}test_(said.*|skipped)", "has one key more", says=": a key too many$"),
    )
    return Service("sample", ("sample",), {"all": suite}, reasons)


@pytest.fixture(scope="module")
def result(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    tmp_path = tmp_path_factory.mktemp("result")
    environment = Sample(service, tmp_path / "none")
    before, after = (
        run_suite(environment, service.suites["all"], tmp_path / str(swapped), swapped=swapped,
                  seconds=600)
        for swapped in (False, True)
    )  # fmt: skip
    return Comparison(service, "all", before, after)


def test_what_only_fails_after_the_swap_is_told_apart(result: Comparison) -> None:
    assert_that(result.row(), Equals(("all", 8, 7, 2)))
    names = [name.removeprefix(CASE) for name in result.changed()]
    assert_that(names, Equals([
        "test_changed", "test_ends_the_process", "test_inside", "test_said", "test_said_otherwise",
    ]))  # fmt: skip


def test_a_failure_without_a_reason_is_unknown_and_one_with_a_reason_is_not(
    result: Comparison,
) -> None:
    unknown = {name.removeprefix(CASE): each.kind for name, each in result.unknown().items()}
    assert_that(unknown, Equals({
        "test_changed": "fail", "test_ends_the_process": "crash", "test_said_otherwise": "fail",
    }))  # fmt: skip
    assert_that(result.unknown()[f"{CASE}test_changed"].last_line, Contains("42 != 43"))


def test_a_process_that_ends_in_a_test_costs_no_other_test(result: Comparison) -> None:
    assert_that(set(result.after), Equals(set(result.before)))
    assert_that(result.before[f"{CASE}test_skipped"].kind, Equals("skip"))


def test_each_test_is_printed_with_its_reason(result: Comparison) -> None:
    text = "\n".join(result.lines())
    assert_that(text, Contains(f"  looks inside\n    {CASE}test_inside"))
    assert_that(text, Contains(f"  has one key more\n    {CASE}test_said\n  fails before"))
    assert_that(text, Not(Contains(f"{CASE}test_skipped")))
    assert_that(text, Contains(f"fails before, too (1):\n    {CASE}test_broken"))
    assert_that(text, Contains(f"passes, though a reason to fail is known: {CASE}test_same"))


def test_a_sample_runs_before_the_swap_what_fails_after_it_without_a_reason(
    service: Service, tmp_path: Path
) -> None:
    result = tried(Sample(service, tmp_path / "none"), "all", tmp_path, 600)
    assert_that(
        [name.removeprefix(CASE) for name in result.unknown()],
        Equals(["test_changed", "test_ends_the_process", "test_said_otherwise"]),
    )
    assert_that(result.before[f"{CASE}test_broken"].failed, Equals(True))
    assert_that(next(result.lines()), Equals("sample, all: 8 tests, 2 pass"))
    begun = (tmp_path / "sample-all-before" / "out").read_text().count('"begun"')
    assert_that(begun, Equals(4))


@pytest.fixture
def long(tmp_path: Path) -> Sample:
    """The environment of a service whose tests are interrupted once."""
    (tmp_path / "test_long.py").write_text(LONG_TESTS)
    (tmp_path / "testscenarios.py").write_text(SCENARIOS)
    (tmp_path / "long_swap.py").write_text("def swap(): pass")
    suite = Suite(("test_long",), environment={"PYTHONPATH": str(tmp_path)})
    return Sample(Service("long", ("long",), {"all": suite}), tmp_path / "none")


def run_long(environment: Sample, folder: Path, only: Collection[str] = ()) -> dict[str, str]:
    found = run_suite(
        environment, environment.service.suites["all"], folder, swapped=True, seconds=600, only=only
    )
    return {test.removeprefix("test_long."): outcome.kind for test, outcome in found.items()}


def test_a_run_that_was_interrupted_goes_on_in_its_folder(long: Sample, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Incomplete, match="interrupted"):
        run_long(long, folder)
    with (folder / "out").open("a") as file:
        file.write('{"test": "test_long.Long.te')  # it was ended while it wrote
    found = run_long(long, folder)
    assert_that(found, Equals({
        "Case.test_scenarios(x)": "ok", "Case.test_scenarios(y)": "fail",
        "Long.test_1": "ok", "Long.test_2": "ok", "Long.test_3": "ok",
    }))  # fmt: skip
    lines = (folder / "out").read_text().splitlines()
    begun = [each["test"] for each in map(json.loads, lines) if each["outcome"] == "begun"]
    assert_that(begun.count("test_long.Long.test_1"), Equals(1))
    assert_that(begun.count("test_long.Case.test_scenarios(y)"), Equals(1))


def test_one_scenario_of_a_test_can_be_run_alone(long: Sample, tmp_path: Path) -> None:
    found = run_long(long, tmp_path / "run", ["test_long.Case.test_scenarios(y)"])
    assert_that(found, Equals({"Case.test_scenarios(y)": "fail"}))


def test_tests_that_cannot_be_loaded_are_no_success(service: Service, tmp_path: Path) -> None:
    suite = Suite(("no_such_tests",))
    with pytest.raises(Incomplete, match="no_such_tests"):
        run_suite(Sample(service, tmp_path / "none"), suite, tmp_path / "run", swapped=False,
                  seconds=600)  # fmt: skip


def test_folders_of_a_source_distribution_are_put_beside_the_packages(tmp_path: Path) -> None:
    for name in ("doc/samples/a/one.json", "doc/samples-of-others/no", "setup.py"):
        path = tmp_path / "service-1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    archive = Path(shutil.make_archive(str(tmp_path / "made"), "gztar", tmp_path, "service-1"))
    unpack_folders(archive, ["doc/samples"], tmp_path / "target")
    found = [p.relative_to(tmp_path) for p in (tmp_path / "target").rglob("*") if p.is_file()]
    assert_that(found, Equals([Path("target/doc/samples/a/one.json")]))
    with pytest.raises(KeyError, match="no-such"):
        unpack_folders(archive, ["no-such"], tmp_path / "target")


def test_packages_that_tests_look_for_are_where_they_run(service: Service, tmp_path: Path) -> None:
    template = tmp_path / "lib" / "python3" / "site-packages" / "sample" / "template"
    template.parent.mkdir(parents=True)
    template.write_text("text")
    (work := tmp_path / "work").mkdir()
    Environment(replace(service, here=("sample",)), tmp_path).variables(work, {})
    assert_that((work / "sample" / "template").read_text(), Equals("text"))
