"""Metrics (prometheus-client) and spans (OpenTelemetry) of this process.

Each only if its library is installed and asked for; otherwise it is not imported.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from imagebroker._version import VERSION
from imagebroker.redaction import shown_error

if TYPE_CHECKING:
    from imagebroker.telemetry.calls import RecordedCall

T = TypeVar("T")

LOG = logging.getLogger(__name__)

#: Upper bounds of the histogram's buckets (seconds), from a record to a large image.
_BUCKETS = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1800, 7200, 43200)


class _Metrics:
    """The metrics of this process, for all brokers in it."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Histogram

        self._kept: dict[tuple[str, str, str], tuple[Any, ...]] = {}
        labels = ("verb", "backend")
        self._calls = Counter(
            "imagebroker_calls", "Calls that have ended, by outcome: ok or the class of the error",
            (*labels, "outcome"),
        )  # fmt: skip
        self._seconds = Histogram(
            "imagebroker_call_seconds", "Seconds that calls took", labels, buckets=_BUCKETS
        )
        self._bytes = Counter("imagebroker_bytes", "Bytes of image data transferred", labels)
        self._retries = Counter(
            "imagebroker_retries", "Attempts that failed and were repeated", labels
        )

    def ended(self, call: RecordedCall, error: BaseException | None) -> None:
        """Count a call that has ended."""
        outcome = "ok" if error is None else type(error).__name__
        calls, seconds, moved, retries = self._of(call.verb, call.backend, outcome)
        calls.inc()
        seconds.observe(call.seconds)
        moved.inc(call.bytes)
        retries.inc(call.retries)

    def _of(self, verb: str, backend: str, outcome: str) -> tuple[Any, ...]:
        """The metrics with these labels, cached: looking them up takes longer than counting."""
        key = verb, backend, outcome
        if key not in self._kept:
            self._kept[key] = (
                self._calls.labels(*key),
                *(
                    each.labels(verb, backend)
                    for each in (self._seconds, self._bytes, self._retries)
                ),
            )
        return self._kept[key]


class _Spans:
    """Spans of this process, through the tracer provider that the service has set."""

    def __init__(self) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._tracer = trace.get_tracer("imagebroker", VERSION)

    def begin(
        self, verb: str, backend: str
    ) -> tuple[Any, Callable[[RecordedCall, BaseException | None], None]]:
        span = self._tracer.start_span(
            f"imagebroker.{verb}",
            attributes={"imagebroker.verb": verb, "imagebroker.backend": backend},
        )

        def end(call: RecordedCall, error: BaseException | None) -> None:
            span.set_attribute("imagebroker.bytes", call.bytes)
            span.set_attribute("imagebroker.retries", call.retries)
            if error is not None:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, str(error)))
            span.end()

        return span, end

    def current(self, span: Any) -> Any:
        """Make `span` the parent of what backends and their libraries record."""
        return self._trace.use_span(span, record_exception=False, set_status_on_exception=False)


_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork_in_child)


def _once(make: Callable[[], T], what: str) -> Callable[[], T | None]:
    """`make()`, once per process; None if its library is not installed, or fails."""

    @functools.cache
    def made() -> T | None:
        try:
            return make()
        except ImportError:
            return None
        except Exception as error:  # for example, a damaged distribution breaks its plugin lookup
            LOG.warning("%s cannot be used: %s", what, shown_error(error))
            return None

    def get() -> T | None:
        with _lock:  # functools.cache alone would let two threads call it twice
            return made()

    return get


metrics = _once(_Metrics, "prometheus-client")
spans = _once(_Spans, "OpenTelemetry")
