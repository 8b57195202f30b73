"""The request ids of services, for the log and the errors of a call.

A call collects those of all its threads; an error gets the one of the last answer that its own
thread had.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from imagebroker.exceptions import ImageBrokerError
from imagebroker.redaction import redact

#: Headers with the id, the most telling first: OpenStack's, S3's, Swift's, and what others use.
HEADERS = ("x-openstack-request-id", "x-amz-request-id", "x-trans-id", "x-request-id")
#: Ids of one call that are kept: the latest.
MAX_IDS = 8
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=@-]{0,127}")


class RequestIds:
    """The request ids of one call."""

    def __init__(self) -> None:
        self._around = _CALL.get()
        self._ids: dict[str, None] = {}

    def add(self, request_id: str) -> None:
        ids = {**self._ids, request_id: None}
        # Another list, not a change of this one: a thread may be reading it.
        self._ids = dict.fromkeys(list(ids)[-MAX_IDS:])
        if self._around is not None:
            self._around.add(request_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __bool__(self) -> bool:
        return bool(self._ids)


class _Thread:
    """The last answer that one thread had."""

    request_id: str | None = None


_CALL: ContextVar[RequestIds | None] = ContextVar("imagebroker_request_ids", default=None)
_THREAD: ContextVar[_Thread | None] = ContextVar("imagebroker_last_answer", default=None)


def of_call() -> RequestIds | None:
    """The list of the current call."""
    return _CALL.get()


@contextmanager
def collected(ids: RequestIds | None) -> Iterator[None]:
    """Within it, and in threads that begin within it, ids are added to `ids`."""
    token = _CALL.set(ids)
    try:
        yield
    finally:
        _CALL.reset(token)


@contextmanager
def in_thread() -> Iterator[None]:
    """The work of one thread: its errors get the id of the answer before them."""
    token = _THREAD.set(_Thread())
    try:
        yield
    except ImageBrokerError as error:
        name(error)
        raise
    finally:
        _THREAD.reset(token)


def asking() -> None:
    """A request is sent: an error from now on is not about the answer before it."""
    thread = _THREAD.get()
    if thread is not None:
        thread.request_id = None


def answered(header: Callable[[str], str | None]) -> None:
    """An answer has come. :param header: the value of a header by its name in lower case."""
    call, thread = _CALL.get(), _THREAD.get()
    if call is None and thread is None:
        return
    found = next(filter(None, map(header, HEADERS)), None)
    if found is None or not _ID.fullmatch(found):
        return
    found = redact(found)  # a server may send back what it was sent
    if thread is not None:
        thread.request_id = found
    if call is not None:
        call.add(found)


def name(error: BaseException) -> None:
    """Say in an error of this thread which request of the service it is about."""
    thread = _THREAD.get()
    if thread is None or thread.request_id is None or not isinstance(error, ImageBrokerError):
        return
    if error.request_id is None:
        error.request_id = thread.request_id
        if error.args and error.request_id not in str(error.args[0]):
            error.args = (f"{error.args[0]} (request {error.request_id})", *error.args[1:])
