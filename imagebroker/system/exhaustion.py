"""A limit of the process or the host that was reached: said as what it is, with the remedy.

No descriptor, no thread, no memory: that has nothing to do with the image, the peer or the
configuration, and goes away by itself. So it is always retryable, wherever it arises.
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

#: What was reached, and what to do, by error number.
_LIMITS = {
    errno.EMFILE: (
        "this process has as many files and connections open as it may",
        "raise its limit on open files, as with: ulimit -n 4096",
    ),
    errno.ENFILE: (
        "this host has as many files open as it may",
        "raise the host's limit: sysctl fs.file-max",
    ),
    errno.ENOMEM: ("no memory is left", "free some memory, or raise the limit: ulimit -v"),
    errno.ENOBUFS: ("no memory is left for connections", "free some memory"),
}
_NO_THREAD = (
    "no further thread can be started",
    "raise the limit on processes and threads, as with: ulimit -u 4096",
)
#: Errors whose kind is right already: they only have to say that trying again helps.
_FITTING = (TransferError, BackendError, DestinationError)
#: So many causes of causes are looked at.
_DEPTH = 16


def limit_of(error: BaseException) -> tuple[str, str] | None:
    """What was exhausted, and the remedy, if that is why `error` was raised; else None."""
    each: BaseException | None = error
    for _ in range(_DEPTH):
        if each is None:
            return None
        if isinstance(each, MemoryError):
            return _LIMITS[errno.ENOMEM]
        number = getattr(each, "errno", None)  # ours may have one, too
        if number in _LIMITS and isinstance(each, (OSError, ImageBrokerError)):
            return _LIMITS[number]
        if isinstance(each, RuntimeError) and "can't start new thread" in str(each):
            return _NO_THREAD
        each = each.__cause__ or each.__context__
    return None


def as_ours(error: BaseException) -> ImageBrokerError | None:
    """The error to raise in place of `error` if a limit was reached, which may be `error` itself.

    None: something else happened.
    """
    if isinstance(error, MemoryError):
        if isinstance(error, ImageBrokerError):
            return error
        return OutOfMemory(
            "no memory is left in this process",
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
def said(*, memory: bool = True) -> Iterator[None]:
    """What ends the block because a limit was reached becomes an error of ours.

    `memory`: also a `MemoryError`; no attempt is repeated after one, so it passes further in.
    """
    try:
        yield
    except (ImageBrokerError, OSError, RuntimeError, MemoryError) as error:
        ours = as_ours(error) if memory or not isinstance(error, MemoryError) else None
        if ours is None or ours is error:
            raise
        raise ours from error


def start(thread: Thread) -> None:
    """:raises TransferError: there can be no further thread."""
    with said():
        thread.start()
    if thread.never_began:
        raise no_thread()


def no_thread() -> TransferError:
    """What is raised where a thread was started and did not begin."""
    return TransferError("no memory is left for a thread", hint=_LIMITS[errno.ENOMEM][1])


def started(target: Callable[[], object], name: str) -> Thread | None:
    """A thread that only makes things faster; None if there can be none: do it without."""
    thread = Thread(target=target, name=name)
    try:
        start(thread)
    except TransferError:
        return None
    return thread
