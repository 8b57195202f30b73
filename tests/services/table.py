"""Before and after, compared: a table of suites, and every test that fails, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.services.model import Reason, Service
from tests.services.runs import Outcome


@dataclass(frozen=True)
class Comparison:
    """One suite, before and after the swap."""

    service: Service
    suite: str
    before: Mapping[str, Outcome]
    after: Mapping[str, Outcome]
    #: Whether every test was run before the swap, too.
    whole: bool = True

    def changed(self) -> dict[str, Outcome]:
        """The tests that fail after the swap, or are not there any more, and did not fail before."""
        gone = Outcome("fail", "it was not run")
        found = {test: self.after.get(test, gone) for test in self.before}
        return {
            test: outcome
            for test, outcome in sorted(found.items())
            if outcome.failed and not self.before[test].failed
        }

    def unknown(self) -> dict[str, Outcome]:
        """Those of them for which no reason is known."""
        return {t: o for t, o in self.changed().items() if self._reason(t, o) is None}

    def mended(self) -> list[str]:
        """The tests that have a reason to fail, and do not."""
        return [
            test
            for test, outcome in sorted(self.after.items())
            if outcome.kind == "ok" and self.service.always_fails(test)
        ]

    def _reason(self, test: str, outcome: Outcome) -> Reason | None:
        return self.service.reason(test, outcome.last_line)

    def row(self) -> tuple[str, int, int, int]:
        """Its name, the number of tests, and how many passed before and after."""
        passed = [sum(not o.failed for o in each.values()) for each in (self.before, self.after)]
        return (self.suite, len(self.before), *passed)  # type: ignore[return-value]

    def lines(self) -> Iterator[str]:
        """What to print: each failing test with the reason."""
        name, tests, before, after = self.row()
        passed = f"{before} pass before, {after} after" if self.whole else f"{after} pass"
        yield f"{self.service.name}, {name}: {tests} tests, {passed}"
        shown: dict[Reason | None, list[str]] = {}
        for test, outcome in self.changed().items():
            shown.setdefault(self._reason(test, outcome), []).append(test)
        for reason, names in shown.items():
            yield f"  {'UNKNOWN' if reason is None else reason.why}"
            for test in names:
                yield f"    {test}"
                if reason is None:
                    yield f"      {self.changed()[test].last_line}"
        failing = [test for test, outcome in sorted(self.before.items()) if outcome.failed]
        if failing:
            yield f"  fails before, too ({len(failing)}):"
            yield from (f"    {test}: {self.before[test].last_line[:100]}" for test in failing)
        for test in self.mended():
            yield f"  passes, though a reason to fail is known: {test}"
