"""Runs a contract test, and what came of it clause by clause."""

from __future__ import annotations

import inspect
import re
import traceback
import unittest
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_NAME = re.compile(r"test_c(?P<number>\d+)_(?P<words>\w+)")


#: Number, count, clause, what must hold.
Tell = Callable[[int, int, str, str], object]


@dataclass(frozen=True)
class Result:
    """The result of one test."""

    #: `C13`; empty for a test that is not the kit's.
    clause: str
    #: What must hold, in words.
    what: str
    #: `PASSED`, `FAILED` or `SKIPPED`.
    result: str
    #: What went wrong, or why it was skipped.
    detail: str
    #: What a backend that fails does to a user.
    harm: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """The results of a contract test."""

    #: Name of the contract test's class.
    contract: str
    results: Sequence[Result]

    def of(self, result: str) -> list[Result]:
        return [each for each in self.results if each.result == result]

    @property
    def good(self) -> bool:
        """Whether something was tested, and nothing failed."""
        return bool(self.of(PASSED)) and not self.of(FAILED)

    @property
    def failed_clauses(self) -> frozenset[str]:
        return frozenset(each.clause for each in self.of(FAILED))


def run(
    contract: type[unittest.TestCase], only: str = "", tell: Tell = lambda *progress: None
) -> Report:
    """Run all tests of a contract test's class, or those whose name matches a pattern.

    :param tell: called before each test, with its number from 1, how many there are, its clause,
        and what must hold.
    """
    names = unittest.TestLoader().getTestCaseNames(contract)
    names = [name for name in names if re.search(only, name)]
    found = _Collector(len(names), tell)
    # A suite, because it is a suite that sets classes up.
    unittest.TestSuite(contract(name) for name in sorted(names, key=_order)).run(found)
    return Report(f"{contract.__module__}.{contract.__qualname__}", tuple(found.results))


def _order(name: str) -> tuple[int, str]:
    match = _NAME.match(name)
    return (int(match["number"]) if match else 1000), name


class _Collector(unittest.TestResult):
    def __init__(self, count: int, tell: Tell) -> None:
        super().__init__()
        self._count, self._tell = count, tell
        self.results: list[Result] = []
        self._began = 0.0

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        super().startTest(test)
        self._began = monotonic()
        clause, what, _ = _named(test)
        self._tell(self.testsRun, self._count, clause, what)

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self._add(test, PASSED, "")

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self._add(test, FAILED, _in_words((getattr(test, "raised", None) or [err])[0]))

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self.addError(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self._add(test, SKIPPED, reason)

    def _add(self, test: unittest.TestCase, result: str, detail: str) -> None:
        clause, what, harm = _named(test)
        self.results.append(
            Result(
                clause=clause,
                what=what,
                result=result,
                detail=detail,
                harm=harm,
                seconds=monotonic() - self._began,
            )
        )


def _named(test: unittest.TestCase) -> tuple[str, str, str]:
    """The clause of a test, what must hold, and what a backend that fails does to a user."""
    name = test.id().rpartition(".")[2]
    match = _NAME.match(name)
    method = getattr(type(test), name, None)
    return (
        f"C{match['number']}" if match else "",
        (match["words"] if match else name).replace("_", " "),
        (inspect.getdoc(method) or "").partition("\n")[0],
    )


def _in_words(err: tuple[type[BaseException], BaseException, TracebackType] | Any) -> str:
    """The error, and for one that the kit did not raise itself the line where it arose."""
    if not isinstance(err, tuple):
        return str(err)
    kind, error, trace = err
    if issubclass(kind, AssertionError):
        return str(error)
    text = f"{kind.__name__}: {error}"
    frames = traceback.extract_tb(trace)
    if frames and frames[-1].line:
        text += f" ({frames[-1].filename}, line {frames[-1].lineno})"
    return text
