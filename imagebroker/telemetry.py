"""Metrics (prometheus-client) and spans (OpenTelemetry) of a broker.

Each only if its library is installed and the option (`metrics`, `tracing`) is not turned off;
otherwise it is not imported. Labels are verbs, backends and error classes: metrics contain nothing
from refs, records or contexts.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic
from typing import Any, TypeVar

from imagebroker._version import VERSION
from imagebroker.redaction import shown_error

T = TypeVar("T")

LOG = logging.getLogger(__name__)

#: Upper bounds of the histogram's buckets (seconds), from a record to a large image.
_BUCKETS = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1800, 7200, 43200)


class Call:
    """One call of a verb, until its `end`."""

    def __init__(self, ends: list[Callable[[Call, BaseException | None], None]]) -> None:
        #: Functions to call at the end.
        self.ends = ends
        #: Bytes of image data that were transferred.
        self.bytes = 0
        #: Failed attempts.
        self.retries = 0

    def end(self, error: BaseException | None = None) -> None:
        """Record it, once. `error`: the exception that ended it."""
        ends, self.ends = self.ends, []
        for record in ends:
            record(self, error)


class Telemetry:
    """The recorders of one broker."""

    def __init__(self, *, metrics: bool, tracing: bool) -> None:
        self._metrics, self._tracing = metrics, tracing

    def begin(self, verb: str, backend: str) -> Call:
        """Begin a call of `verb` at a backend (`NAME:INSTANCE`); any thread can end it."""
        ends = []
        if self._metrics and (metrics := _metrics()) is not None:
            ends.append(metrics.begin(verb, backend))
        if self._tracing and (spans := _spans()) is not None:
            ends.append(spans.begin(verb, backend)[1])
        return Call(ends)

    @contextmanager
    def call(self, verb: str, backend: str) -> Iterator[Call]:
        """The same for a block; its exceptions are recorded, and its span is the current one."""
        call = Call([])
        current: AbstractContextManager[Any] = nullcontext()
        if self._metrics and (metrics := _metrics()) is not None:
            call.ends.append(metrics.begin(verb, backend))
        if self._tracing and (spans := _spans()) is not None:
            span, end = spans.begin(verb, backend)
            call.ends.append(end)
            current = spans.current(span)
        with current:
            try:
                yield call
            except BaseException as error:
                call.end(error)
                raise
            call.end()

    def iterated(self, verb: str, backend: str, start: Callable[[], Iterator[T]]) -> Iterator[T]:
        """What `start()` yields; the call ends with the iterator, or when the caller closes it."""
        call = self.begin(verb, backend)
        try:
            found = start()
        except BaseException as error:
            call.end(error)
            raise
        return _recorded(found, call)


def _recorded(found: Iterator[T], call: Call) -> Iterator[T]:
    try:
        yield from found
    except GeneratorExit:
        raise
    except BaseException as error:
        call.end(error)
        raise
    finally:
        call.end()


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
        self._bytes = Counter("imagebroker_bytes", "Bytes of images moved", labels)
        self._retries = Counter(
            "imagebroker_retries", "Attempts that failed and were repeated", labels
        )

    def begin(self, verb: str, backend: str) -> Callable[[Call, BaseException | None], None]:
        began = monotonic()

        def end(call: Call, error: BaseException | None) -> None:
            outcome = "ok" if error is None else type(error).__name__
            calls, seconds, moved, retries = self._of(verb, backend, outcome)
            calls.inc()
            seconds.observe(monotonic() - began)
            moved.inc(call.bytes)
            retries.inc(call.retries)

        return end

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
    ) -> tuple[Any, Callable[[Call, BaseException | None], None]]:
        span = self._tracer.start_span(
            f"imagebroker.{verb}",
            attributes={"imagebroker.verb": verb, "imagebroker.backend": backend},
        )

        def end(call: Call, error: BaseException | None) -> None:
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


_metrics = _once(_Metrics, "prometheus-client")
_spans = _once(_Spans, "OpenTelemetry")
