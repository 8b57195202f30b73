"""Runs the tests of a service in its environment, and writes one result a line.

The argument is a file with a JSON object: `swap` (the name of a module, or null), `modules`,
`select`, `only` (ids, or none), `skip` (ids that have been run), `out` (a file), `seconds` (that one test may take).
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import re
import sys
import traceback
import unittest
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO


class Lines(unittest.TestResult):
    """Writes a line when a test begins, and one when it has ended."""

    def __init__(self, out: TextIO, seconds: float) -> None:
        super().__init__()
        self._out, self._seconds = out, seconds
        self._ended: set[str] = set()

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's names
        super().startTest(test)
        self._say(test, "begun")
        faulthandler.dump_traceback_later(self._seconds, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        faulthandler.cancel_dump_traceback_later()
        if test.id() not in self._ended:  # of fixtures that end without a result
            self._say(test, "ok")
        super().stopTest(test)

    def _say(self, test: unittest.TestCase, outcome: str, text: str = "") -> None:
        if outcome != "begun":
            self._ended.add(test.id())
        line = {"test": test.id(), "outcome": outcome, "text": text[-4000:]}
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    def addSuccess(self, test: unittest.TestCase, details: Any = None) -> None:  # noqa: N802
        self._say(test, "ok")

    def addSkip(self, test: Any, reason: str = "", details: Any = None) -> None:  # noqa: N802
        self._say(test, "skip", reason or _text(None, details))

    def addError(self, test: Any, err: Any = None, details: Any = None) -> None:  # noqa: N802
        self._say(test, "fail", _text(err, details))

    def addFailure(self, test: Any, err: Any = None, details: Any = None) -> None:  # noqa: N802
        self._say(test, "fail", _text(err, details))

    def addExpectedFailure(self, test: Any, err: Any = None, details: Any = None) -> None:  # noqa: N802
        self._say(test, "ok")

    def addUnexpectedSuccess(self, test: Any, details: Any = None) -> None:  # noqa: N802
        self._say(test, "fail", "it was expected to fail")


def _text(err: Any, details: Any) -> str:
    if err is not None:
        return "".join(traceback.format_exception(*err))
    found = [v.as_text() for k, v in (details or {}).items() if k.startswith(("trace", "reason"))]
    return "\n".join(found)


def each(tests: Iterable[Any]) -> Iterator[unittest.TestCase]:
    """Each test, one with scenarios once for each: these have ids of their own."""
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        elif getattr(test, "scenarios", None):
            yield from importlib.import_module("testscenarios").generate_scenarios(test)
        else:
            yield test


def modules_of(names: Iterable[str]) -> Iterator[str]:
    """The modules, with those of packages in place of the packages."""
    for name in names:
        found = importlib.import_module(name)
        folder = getattr(found, "__path__", None)
        if folder is None:
            yield name
            continue
        root = Path(next(iter(folder)))
        for path in sorted(root.rglob("test_*.py")):
            yield ".".join([name, *path.relative_to(root).with_suffix("").parts])


def main(job: dict[str, Any]) -> int:
    if job["swap"]:
        importlib.import_module(job["swap"]).swap()
    done, only, select = set(job["skip"]), set(job["only"]), re.compile(job["select"])
    loader = unittest.defaultTestLoader
    with Path(job["out"]).open("a", encoding="utf-8") as out:
        result = Lines(out, job["seconds"])
        tests = loader.loadTestsFromNames(list(modules_of(job["modules"])))
        for error in loader.errors:
            print(error, file=sys.stderr)
        found = [t for t in each([tests]) if select.search(t.id()) and t.id() not in done]
        wanted = [t for t in found if not only or t.id() in only]
        while wanted:
            wanted.pop(0)(result)
    return 0


if __name__ == "__main__":
    import os

    code = main(json.loads(Path(sys.argv[1]).read_text()))
    sys.stdout.flush()
    os._exit(code)  # threads that tests left behind do not matter
