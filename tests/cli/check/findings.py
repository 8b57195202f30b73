"""What one run of `check` found."""

from __future__ import annotations

from typing import Any

from tests.cli.conftest import Inside


class Findings:
    """What one run of `check` found."""

    def __init__(
        self, imagebroker: Inside, config: str, *options: str, mode: int | None = None
    ) -> None:
        path = imagebroker.config(config)
        if mode is not None:
            path.chmod(mode)
        done = imagebroker("check", "-f", "json", *options)
        self.stderr = done.stderr
        self.status = done.status
        self.found = [{name: row[name] or "" for name in row} for row in done.record]

    def at(self, where: str) -> Any:
        """The one finding there: its level, what, remedy."""
        (found,) = (row for row in self.found if row["where"] == where)
        return found["level"], found["what"], found["remedy"]
