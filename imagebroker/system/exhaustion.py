"""Errors for exhausted resources of the process or host: descriptors, threads, memory.

They have nothing to do with the image, the server or the configuration, and are temporary: so they
are always retryable, wherever they occur.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imagebroker.exceptions import (
    BackendError,
    DestinationError,
    ImageBrokerError,
    OutOfMemory,
    TransferError,
)
from imagebroker.redaction import shown_error
from imagebroker.system.forks import Thread

#: What was exhausted, and what to do, by error number.
_LIMITS = {
    errno.EMFILE: (
        "too many open files and connections in this process",
        "raise the limit on open files: ulimit -n 4096",
    ),
    errno.ENFILE: (
        "too many open files on this host",
        "raise the host's limit on open files: sysctl fs.file-max",
    ),
    errno.ENOMEM: ("out of memory", "free some memory, or raise the limit: ulimit -v"),
    errno.ENOBUFS: ("out of memory for connections", "free some memory"),
}
_NO_THREAD = (
    "cannot start another thread",
    "raise the limit on processes and threads: ulimit -u 4096",
)
#: Errors of the right class already, which only need to become retryable.
_FITTING = (TransferError, BackendError, DestinationError)
#: How deep causes of causes are searched.
_DEPTH = 16


def limit_of(error: BaseException) -> tuple[str, str] | None:
    """The exhausted resource, and the remedy, if `error` was raised because of it; else None."""
    each: BaseException | None = error
    for _ in range(_DEPTH):
        if each is None:
            return None
        if isinstance(each, MemoryError):
            return _LIMITS[errno.ENOMEM]
        number = getattr(each, "errno", None)  # our own errors may have one, too
        if number in _LIMITS and isinstance(each, (OSError, ImageBrokerError)):
            return _LIMITS[number]
        if isinstance(each, RuntimeError) and "can't start new thread" in str(each):
            return _NO_THREAD
        each = each.__cause__ or each.__context__
    return None


def as_ours(error: BaseException) -> ImageBrokerError | None:
    """The error to raise instead of `error` if a resource is exhausted; may be `error` itself.

    None: `error` has another reason.
    """
    if isinstance(error, MemoryError):
        if isinstance(error, ImageBrokerError):
            return error
        return OutOfMemory(
            "out of memory in this process",
            hint="free some memory, or raise the limit: ulimit -v",
        )
    limit = limit_of(error)
    if limit is None:
        return None
    what, hint = limit
    if isinstance(error, _FITTING):
        error.retryable, error.hint = True, hint
        return error
    return TransferError(f"{what} ({shown_error(error)})", hint=hint)


@contextmanager
def said() -> Iterator[None]:
    """Turn exceptions of the block that mean an exhausted resource into errors of ours."""
    try:
        yield
    except (ImageBrokerError, OSError, RuntimeError, MemoryError) as error:
        ours = as_ours(error)
        if ours is None or ours is error:
            raise
        raise ours from error


def start(thread: Thread) -> None:
    """Start a thread. :raises TransferError: no more threads can be started."""
    with said():
        thread.start()
    if thread.never_began:
        raise no_thread()


def no_thread() -> TransferError:
    """The error for a thread that was started but never ran."""
    return TransferError("out of memory for a thread", hint=_LIMITS[errno.ENOMEM][1])


def started(target: Callable[[], object], name: str) -> Thread | None:
    """Start a thread that only makes things faster; None if that fails: do without it."""
    thread = Thread(target=target, name=name)
    try:
        start(thread)
    except TransferError:
        return None
    return thread
