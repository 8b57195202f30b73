"""What the status codes of an SFTP server mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from imagebroker.plugin import (
    ImageNotFound,
    MalformedAnswer,
    NotAuthorized,
    TransferError,
    UnsupportedOperation,
)

# Status codes (draft-ietf-secsh-filexfer-02, section 7).
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8


class StatusError(Exception):
    """The server answered with a status other than OK."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message or 'no reason given'} (status {code})")
        self.code = code


def nonsense(what: str) -> MalformedAnswer:
    """The error for an invalid response."""
    return MalformedAnswer(
        f"the server {what}", hint="check that the server's SFTP works: its log and version"
    )


@contextmanager
def translated(subject: object) -> Iterator[None]:
    """Translate statuses of the server to our errors about `subject`."""
    try:
        yield
    except StatusError as error:
        if error.code == NO_SUCH_FILE:
            raise ImageNotFound(
                f"{subject}: no such file on the server",
                hint="check the path: it begins at /, and ~ stands for itself",
            ) from error
        if error.code == PERMISSION_DENIED:
            raise NotAuthorized(
                f"{subject}: permission denied by the server",
                hint="give the user the permission on the server, or use another user",
            ) from error
        if error.code == UNSUPPORTED:
            raise UnsupportedOperation(
                f"{subject}: the server does not support this: {error}",
                hint="use another SFTP server",
            ) from error
        raise TransferError(
            f"{subject}: the server reports {error}", hint="check the server's log"
        ) from error
