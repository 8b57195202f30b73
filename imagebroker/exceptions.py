"""Everything that imagebroker raises, as one tree.

::

    ImageBrokerError
     ├─ InvalidImageRef          the identifier, a checksum or an argument is malformed
     │   └─ UsageError           a wrong option or argument of the command
     ├─ ConfigError              an option is missing, unknown or invalid
     ├─ SchemeNotEnabled         the scheme is not enabled, or unknown
     ├─ BackendLoadError         the plugin of an enabled scheme cannot be loaded
     ├─ PolicyViolation          refused: address, port, path, redirect, host key
     │   └─ TooLarge             more bytes than announced or allowed
     ├─ UnsupportedOperation     the backend does not support this verb
     ├─ ImageNotFound
     │   └─ Gone                 the image was deleted
     ├─ NotAuthorized
     ├─ Conflict                 the image is in another state than the caller assumed
     ├─ QuotaExceeded
     ├─ ImageChanged             the image changed during the transfer
     ├─ TransferError            the bytes did not arrive, or could not be sent
     │   ├─ TransferTimeout      a time limit was exceeded
     │   ├─ RangeIgnored         the server does not support ranges; start over
     │   ├─ UnconfirmedEnd       only a digest can prove that the data is complete
     │   ├─ MalformedAnswer      invalid response of a server
     │   ├─ UploadFailed         create or update with data failed; says what is left of it
     │   ├─ OutOfMemory          also a MemoryError
     │   └─ Cancelled            by the caller's `cancel` or `close`
     ├─ BackendError             the service reported an error of its own
     │   └─ NotReady             the image is queued, saving or importing
     ├─ VerificationError        the bytes are not what was asked for; never retried
     │   ├─ ChecksumMismatch
     │   ├─ ChecksumMissing      a checksum is required, but none is known
     │   ├─ SignatureError       the signature is invalid, missing, or not trusted
     │   ├─ CompressionError     the compressed data is damaged, truncated, or not compressed
     │   └─ FormatError          the content is not an acceptable disk image
     └─ DestinationError         the destination cannot be written (`.errno`)
"""

from __future__ import annotations

import errno as _errno
from typing import Any, ClassVar

from imagebroker.redaction import redact


class ImageBrokerError(Exception):
    """Base class of all errors. The text is redacted, and safe to log.

    Keyword arguments other than `hint`, `retryable` and `retry_after` become attributes
    (`error.ref`, `error.scheme`, ...).
    """

    #: The name of this kind of error in documentation and scripts. Stable.
    id: ClassVar[str] = "error"
    #: True if the same call may succeed later.
    retryable: bool = False
    #: What to do about it, in one sentence; empty if unknown.
    hint: str = ""
    #: The option that the error depends on, as `name` or `[section] name`; empty if there is none.
    option: str = ""
    #: File and line of that option, or the file to set it in. Empty without such an option, and
    #: without a config file.
    where: str = ""
    #: Seconds after which the server asked to be tried again.
    retry_after: float | None = None
    #: The id that the service gave the request which this is about, for its log; None if unknown.
    request_id: str | None = None
    #: Bytes kept in a part file, which the next call for the same image resumes.
    bytes_kept: int | None = None
    #: Bytes that a caller's file object had received before the error.
    bytes_written: int | None = None

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        **values: Any,
    ) -> None:
        super().__init__(redact(message))
        if hint is not None:
            self.hint = redact(hint)
        if retryable is not None:
            self.retryable = retryable
        if retry_after is not None:
            self.retry_after = retry_after
        for name, value in values.items():
            setattr(self, name, redact(value) if isinstance(value, str) else value)

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's version would call the class with `args` only, and lose the hint.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(
    kind: type[ImageBrokerError], args: tuple[Any, ...], state: dict[str, Any]
) -> ImageBrokerError:
    # Not `kind.__new__`: for OutOfMemory, that is MemoryError's.
    error: ImageBrokerError = Exception.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidImageRef(ImageBrokerError):
    """An identifier, a checksum or an argument is malformed."""

    id = "invalid-image-ref"


class UsageError(InvalidImageRef):
    """A wrong option or argument of the command; nothing was done."""

    id = "usage-error"


class ConfigError(ImageBrokerError):
    """The configuration is invalid."""

    id = "config-error"


class SchemeNotEnabled(ImageBrokerError):
    """The scheme of the identifier is not enabled in this deployment."""

    id = "scheme-not-enabled"


class BackendLoadError(ImageBrokerError):
    """An enabled plugin cannot be loaded; the text names its distribution."""

    id = "backend-load-error"


class PolicyViolation(ImageBrokerError):
    """The deployment's policy refuses this address, path, redirect, key or size."""

    id = "policy-violation"


class TooLarge(PolicyViolation):
    """More bytes than the record says or the policy allows."""

    id = "too-large"


class UnsupportedOperation(ImageBrokerError):
    """The backend does not support this verb; nothing was changed."""

    id = "unsupported-operation"


class ImageNotFound(ImageBrokerError):
    """There is no such image, or the caller is not allowed to see it."""

    id = "image-not-found"


class Gone(ImageNotFound):
    """The image existed and was deleted."""

    id = "image-deleted"


class NotAuthorized(ImageBrokerError):
    """The credentials are missing, wrong or insufficient."""

    id = "not-authorized"


class Conflict(ImageBrokerError):
    """The image is in another state than the call requires."""

    id = "conflict"


class QuotaExceeded(ImageBrokerError):
    """A quota of the service is exceeded."""

    id = "quota-exceeded"


class ImageChanged(ImageBrokerError):
    """The image changed during the transfer; a new call gets the new image."""

    id = "image-changed"
    retryable = True


class TransferError(ImageBrokerError):
    """The bytes did not arrive completely."""

    id = "transfer-error"
    retryable = True


class TransferTimeout(TransferError):
    """A time limit was exceeded: connect, stall, minimum rate or deadline."""

    id = "transfer-timeout"


class RangeIgnored(TransferError):
    """The server answered a range request with other data."""

    id = "range-ignored"


class UnconfirmedEnd(TransferError):
    """The connection ended in a way that an attacker, or a crash, could also cause: only a digest
    can prove that the data is complete."""

    id = "unconfirmed-end"
    hint = "pass the image's checksum: it proves whether the data is complete"


class MalformedAnswer(TransferError):
    """A server sent an invalid response: a wrong type, an absurdly large number."""

    id = "malformed-answer"


class UploadFailed(TransferError):
    """The data was not stored. `.image_id` is set if its record could not be removed."""

    id = "upload-failed"
    retryable = False
    image_id: str | None = None


class OutOfMemory(TransferError, MemoryError):
    """The process is out of memory. Also a `MemoryError`, for callers that expect one."""

    id = "out-of-memory"


class Cancelled(TransferError):
    """The caller cancelled the transfer."""

    id = "cancelled"
    retryable = False


class BackendError(ImageBrokerError):
    """The service behind the backend reported an error of its own."""

    id = "backend-error"
    retryable = True


class NotReady(BackendError):
    """The image has a record, but no data yet."""

    id = "not-ready"


class VerificationError(ImageBrokerError):
    """The bytes are not what was asked for. Not a network error: never retried."""

    id = "verification-error"


class ChecksumMismatch(VerificationError):
    """A required checksum differs from the one computed over the stored bytes."""

    id = "checksum-mismatch"


class ChecksumMissing(VerificationError):
    """A checksum is required, but neither the caller nor the record has a strong one."""

    id = "checksum-missing"


class SignatureError(VerificationError):
    """The signature does not match these bytes, or there is none that can be verified."""

    id = "signature-error"


class CompressionError(VerificationError):
    """The data is not compressed as expected, damaged, or truncated."""

    id = "compression-error"


class FormatError(VerificationError):
    """The content is not a disk image of an acceptable format."""

    id = "format-error"


class DestinationError(ImageBrokerError):
    """The destination cannot be written."""

    id = "destination-error"
    #: The error number, if the operating system reported the error.
    errno: int | None = None
    #: What is at the destination, if a file cannot replace it: "directory", "FIFO", ...
    found: str = ""

    @classmethod
    def wrap(cls, error: OSError, what: str, *, hint: str | None = None) -> DestinationError:
        """The error for an OSError; `what` is a phrase that says what failed: "cannot write /x"."""
        return cls(
            f"{what}: {error.strerror or error}",
            hint=_REMEDIES.get(error.errno or 0, "") if hint is None else hint,
            errno=error.errno,
            retryable=error.errno in _PASSING,
        )


#: Errors that are temporary.
_PASSING = frozenset({_errno.EMFILE, _errno.ENFILE, _errno.ENOMEM, _errno.ENOBUFS})
#: What to do about the usual errors of a write.
_REMEDIES = {
    _errno.ENOSPC: "free some space on that file system, or choose another destination",
    _errno.EDQUOT: "free some of the disk quota, or choose another destination",
    _errno.EFBIG: "raise the file size limit (ulimit -f), or choose another file system",
    _errno.EACCES: "choose a directory that this user can write to",
    _errno.EPERM: "check the file and its directory for the flags i and a: lsattr -d",
    _errno.EROFS: "choose another destination, or remount the file system read-write",
    _errno.ENOENT: "create the parent directory first",
    _errno.ENOTDIR: "check the path: a component of it is not a directory",
    _errno.ENAMETOOLONG: "choose a shorter name",
    _errno.EIO: "check the health of the disk: dmesg",
    _errno.EMFILE: "raise the limit on open files: ulimit -n 4096",
    _errno.ENFILE: "raise the host's limit on open files: sysctl fs.file-max",
    _errno.ENOMEM: "free some memory, or raise the limit: ulimit -v",
    _errno.EPIPE: "check the program that reads from the pipe: it has closed its end",
}

__all__ = sorted(
    name
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, ImageBrokerError)
)
