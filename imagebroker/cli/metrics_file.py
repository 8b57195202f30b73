"""The metrics of one run as a text file, which the textfile collector of node-exporter reads.

A command that cron or systemd runs is gone before anybody could scrape it. The metrics are gauges
of the last run: a counter would begin at 0 again with each. The label `run` is the name of the file
without its ending, so that several units can have a file each.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING

from imagebroker.exceptions import ConfigError, DestinationError

if TYPE_CHECKING:
    from imagebroker.telemetry.calls import RecordedCall

_SUCCESS = "imagebroker_run_success_timestamp_seconds"


class MetricsFile:
    """Made before the run, written after it."""

    def __init__(self, path: str) -> None:
        """:raises ConfigError: prometheus-client is missing.
        :raises DestinationError: the directory does not take a file.
        """
        self.path = Path(path)
        try:
            import prometheus_client  # noqa: F401 - only to check whether it is installed
        except ImportError as error:
            raise ConfigError(
                "--metrics-file needs prometheus-client, which is not installed",
                hint="pip install 'imagebroker[metrics]'",
            ) from error
        folder = self.path.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise DestinationError(
                f"cannot write the metrics file: this user cannot write to the directory {folder}",
                hint="name a file in the directory that --collector.textfile.directory of "
                "node-exporter names",
            )
        self._began = monotonic()
        self._bytes: dict[str, int] = {}
        self._retries = 0

    def ended(self, call: RecordedCall, error: BaseException | None) -> None:
        """Count a call of a verb that has ended."""
        self._bytes[call.backend] = self._bytes.get(call.backend, 0) + call.bytes
        self._retries += call.retries

    def write(self, command: str, status: int) -> None:
        """Replace the file by what this run was.

        :raises DestinationError: it cannot be written.
        """
        from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

        registry = CollectorRegistry()
        labels = {"run": self.path.stem, "command": command}

        def gauge(name: str, explanation: str, value: float, **more: str) -> None:
            found = gauges.get(name)
            if found is None:
                found = gauges[name] = Gauge(name, explanation, [*labels, *more], registry=registry)
            found.labels(**labels, **more).set(value)

        gauges: dict[str, Gauge] = {}
        gauge("imagebroker_run_timestamp_seconds", "When the last run ended", time())
        gauge("imagebroker_run_exit_status", "Exit status of the last run", status)
        gauge("imagebroker_run_seconds", "How long the last run took", monotonic() - self._began)
        gauge("imagebroker_run_retries", "Attempts that failed and were repeated", self._retries)
        for backend, count in self._bytes.items():
            gauge(
                "imagebroker_run_bytes", "Bytes of image data transferred", count, backend=backend
            )
        succeeded = time() if status == 0 else self._last_success()
        if succeeded is not None:
            gauge(_SUCCESS, "When a run last ended with 0", succeeded)
        try:
            write_to_textfile(str(self.path), registry)
        except OSError as error:
            raise DestinationError.wrap(error, f"cannot write {self.path}") from error

    def _last_success(self) -> float | None:
        """The content of the file, which is about to be replaced."""
        with suppress(OSError, ValueError):
            if found := re.search(rf"(?m)^{_SUCCESS}\{{.*\}} (\S+)$", self.path.read_text()):
                return float(found[1])
        return None
