"""A file of what was tried, from which a campaign that was stopped goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.faults.tally import Attempt, Violation


@dataclass(frozen=True)
class Record:
    """One campaign's part of such a file; `None` is a file that remembers nothing."""

    path: Path | None
    campaign: str

    def add(self, attempt: Attempt) -> None:
        """Append it, in one call: several workers may, and each may be killed at any moment."""
        if self.path is None:
            return
        # The line break comes first: what a killed worker has begun does not spoil the next line.
        line = "\n" + json.dumps({"campaign": self.campaign} | asdict(attempt))
        with open(self.path, "ab", buffering=0) as file:
            file.write(line.encode())

    def attempts(self) -> Iterator[Attempt]:
        """Each point once, as it was tried first."""
        seen: set[str] = set()
        for line in self._lines():
            if line.pop("campaign") == self.campaign and line["point"] not in seen:
                seen.add(line["point"])
                found = line.pop("violations")
                yield Attempt(
                    violations=None if found is None else [Violation(**each) for each in found],
                    **line,
                )

    def _lines(self) -> Iterator[dict[str, Any]]:
        if self.path is None or not os.path.exists(self.path):
            return
        for line in self.path.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue  # empty, or cut off
