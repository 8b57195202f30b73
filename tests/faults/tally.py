"""What a campaign has tried, and what it found, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

#: The ways in which a promise can be broken; the columns of the table.
WRONG, PARTIAL, LEAK, HANG, FOREIGN, OTHER = (
    "wrong successes", "partial files", "leaks", "hangs", "another's bytes", "other violations",
)  # fmt: skip
KINDS = (WRONG, PARTIAL, LEAK, HANG, FOREIGN, OTHER)


@dataclass(frozen=True)
class Violation:
    """A promise that did not hold."""

    kind: str
    what: str


@dataclass(frozen=True)
class Attempt:
    """One point that was tried."""

    point: str
    group: str
    #: How many faults the point stands for.
    faults: int
    #: Empty if every promise held, None if the fault did not strike.
    violations: list[Violation] | None
    #: Its share of the time that the campaign took.
    seconds: float


@dataclass
class Tally:
    """The outcome of one campaign, or of a part of it."""

    campaign: str
    #: Points at which the fault struck, and the promises were looked at.
    tried: int = 0
    #: Points that the campaign has.
    total: int = 0
    #: Points that were drawn, but where the fault did not strike.
    missed: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    #: What was tried, by the campaign's own words ("http/path/FIN").
    groups: Counter[str] = field(default_factory=Counter)
    #: Point and violation, the first hundred.
    found: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, attempt: Attempt) -> None:
        """Count it, but not its time: attempts may be made side by side."""
        if attempt.violations is None:
            self.missed += 1
            return
        self.tried += attempt.faults
        self.groups[attempt.group] += attempt.faults
        for violation in attempt.violations:
            self.kinds[violation.kind] += 1
            if len(self.found) < 100:
                self.found.append((attempt.point, violation.kind, violation.what))

    def join(self, other: Tally) -> None:
        """Count in what another worker did beside this one."""
        self.tried += other.tried
        self.total = max(self.total, other.total)
        self.missed += other.missed
        self.seconds = max(self.seconds, other.seconds)
        self.kinds.update(other.kinds)
        self.groups.update(other.groups)
        self.found.extend(other.found)


def table(tallies: Iterable[Tally]) -> str:
    """Markdown."""
    rows = [
        "| campaign | points tried | " + " | ".join(KINDS) + " | seconds |",
        "|---|" + "---:|" * (len(KINDS) + 2),
    ]
    whole = Tally("all")
    for tally in tallies:
        rows.append(_row(tally))
        whole.total += tally.total
        whole.tried += tally.tried
        whole.kinds.update(tally.kinds)
        whole.seconds += tally.seconds
    return "\n".join([*rows, _row(whole)])


def _row(tally: Tally) -> str:
    tried = f"{tally.tried:,}" if tally.tried >= tally.total else (
        f"{tally.tried:,} of {tally.total:,}"
    )  # fmt: skip
    counts = " | ".join(str(tally.kinds[kind]) for kind in KINDS)
    return f"| {tally.campaign} | {tried} | {counts} | {tally.seconds:.0f} |"
