"""The exit status of each error. Scripts rely on these."""

from __future__ import annotations

import signal

from imagebroker.exceptions import (
    BackendError,
    BackendLoadError,
    ConfigError,
    DestinationError,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    QuotaExceeded,
    SchemeNotEnabled,
    TransferError,
    UnsupportedOperation,
    VerificationError,
)

DONE = 0
OTHER = 1
USAGE = 2

#: The nearest base class of an error counts; `OTHER` if none is listed.
_STATUS: dict[type[BaseException], int] = {
    InvalidImageRef: USAGE,
    ConfigError: USAGE,
    ImageNotFound: 3,
    NotAuthorized: 4,
    PolicyViolation: 4,
    QuotaExceeded: 4,
    ImageChanged: 5,
    TransferError: 5,
    BackendError: 5,
    VerificationError: 6,
    UnsupportedOperation: 7,
    SchemeNotEnabled: 7,
    BackendLoadError: 7,
    DestinationError: 9,
}
#: Means "try again later": used only if the error is retryable.
_LATER = 5


class Terminated(KeyboardInterrupt):
    """A signal asked the process to end; raised so that everything is cleaned up first."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def exit_status(error: BaseException) -> int:
    """The exit status after `error`."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (error.signum if isinstance(error, Terminated) else signal.SIGINT)
    status = next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), OTHER)
    if status == _LATER and not (isinstance(error, ImageBrokerError) and error.retryable):
        return OTHER
    return status
