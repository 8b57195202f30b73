"""The calls of a broker, as the log, the metrics and the traces see them.

Labels are verbs, backends and error classes: metrics and spans contain nothing from refs, records
or contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic
from typing import Any, TypeVar

from imagebroker.system.request_ids import RequestIds, collected
from imagebroker.telemetry import log, recorders

T = TypeVar("T")


class RecordedCall:
    """One call of a verb, until its `end`."""

    def __init__(
        self, verb: str, backend: str, ref: object = "", ends: Iterable[Ended] = ()
    ) -> None:
        self.verb, self.backend, self.ref = verb, backend, ref
        self._began = monotonic()
        #: Functions to call at the end.
        self.ends = list(ends)
        #: Bytes of image data that were transferred.
        self.bytes = 0
        #: Failed attempts.
        self.retries = 0
        #: Those that the services gave its requests.
        self.request_ids = RequestIds()
        #: What else there is to say about it, for the log.
        self.facts: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        return monotonic() - self._began

    def end(self, error: BaseException | None = None) -> None:
        """Record it, once. `error`: the exception that ended it."""
        ends, self.ends = self.ends, []
        for record in ends:
            record(self, error)


#: Called with a call that has ended, and the exception that ended it.
Ended = Callable[[RecordedCall, BaseException | None], None]


class Telemetry:
    """The recorders of one broker."""

    def __init__(self, *, metrics: bool, tracing: bool, others: Sequence[Ended] = ()) -> None:
        """`others`: further functions to call when a call has ended."""
        self._metrics, self._tracing = metrics, tracing
        self._ends = (log.ended, *others)

    def begin(self, verb: str, backend: str, ref: object = "") -> RecordedCall:
        """Begin a call of `verb` at a backend (`NAME:INSTANCE`); any thread can end it."""
        call = RecordedCall(verb, backend, ref, self._ends)
        if self._metrics and (metrics := recorders.metrics()) is not None:
            call.ends.append(metrics.ended)
        if self._tracing and (spans := recorders.spans()) is not None:
            call.ends.append(spans.begin(verb, backend)[1])
        return call

    @contextmanager
    def call(self, verb: str, backend: str, ref: object = "") -> Iterator[RecordedCall]:
        """The same for a block; its exceptions are recorded, and its span is the current one."""
        call = RecordedCall(verb, backend, ref, self._ends)
        current: AbstractContextManager[Any] = nullcontext()
        if self._metrics and (metrics := recorders.metrics()) is not None:
            call.ends.append(metrics.ended)
        if self._tracing and (spans := recorders.spans()) is not None:
            span, end = spans.begin(verb, backend)
            call.ends.append(end)
            current = spans.current(span)
        with current, collected(call.request_ids):
            try:
                yield call
            except BaseException as error:
                call.end(error)
                raise
            call.end()

    def iterated(self, verb: str, backend: str, start: Callable[[], Iterator[T]]) -> Iterator[T]:
        """The items of `start()`; the call ends with the iterator, or when the caller closes it."""
        call = self.begin(verb, backend)
        try:
            with collected(call.request_ids):
                found = start()
        except BaseException as error:
            call.end(error)
            raise
        return _recorded(found, call)


def _recorded(found: Iterator[T], call: RecordedCall) -> Iterator[T]:
    try:
        yield from found
    except GeneratorExit:
        raise
    except BaseException as error:
        call.end(error)
        raise
    finally:
        call.end()
