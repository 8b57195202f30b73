"""Everything that imagebroker raises, as one tree.

::

    ImageBrokerError
     ├─ InvalidImageRef          the identifier (or a checksum) is malformed
     ├─ ConfigError              an option is missing, unknown or wrong
     ├─ SchemeNotEnabled         the scheme is known or not, but this deployment does not enable it
     ├─ BackendLoadError         the plugin of an enabled scheme cannot be used
     ├─ PolicyViolation          refused: address, port, path, redirect, host key
     │   └─ TooLarge             more bytes than promised or allowed
     ├─ UnsupportedOperation     this backend has no such verb
     ├─ ImageNotFound
     │   └─ Gone                 it was there, and was deleted
     ├─ NotAuthorized
     ├─ Conflict                 another state than the caller assumed
     ├─ QuotaExceeded
     ├─ ImageChanged             the bytes are no longer those that were asked for
     ├─ TransferError            the bytes did not arrive, or could not be sent
     │   ├─ TransferTimeout      a limit on time ran out
     │   ├─ RangeIgnored         the peer cannot begin in the middle; start over
     │   ├─ UnconfirmedEnd       only a digest can say whether the end is the end
     │   ├─ MalformedAnswer      a server said what no such server should say
     │   ├─ UploadFailed         create or update with data failed; says what is left of it
     │   ├─ OutOfMemory          a MemoryError, too
     │   └─ Cancelled            the caller's own `cancel` or `close`
     ├─ BackendError             the service answered, and it is in trouble
     │   └─ NotReady             the image is queued, saving or importing
     ├─ VerificationError        what arrived is not what was asked for; never retried
     │   ├─ ChecksumMismatch
     │   ├─ ChecksumMissing      one is required, and nobody offers one
     │   ├─ SignatureError       the signature is bad, missing, or by nobody who is trusted
     │   ├─ CompressionError     what was to be unpacked is damaged, cut off, or no such data
     │   └─ FormatError          the content is not an acceptable disk image
     └─ DestinationError         the bytes cannot be put where they belong (`.errno`)
"""

from __future__ import annotations

import errno as _errno
from typing import Any, ClassVar

from imagebroker.redaction import redact


class ImageBrokerError(Exception):
    """Base of all errors. The text is redacted: it may be logged as it is.

    Keyword arguments other than `hint`, `retryable` and `retry_after` become attributes
    (`error.ref`, `error.scheme`, ...).
    """

    #: What documentation and scripts call this kind of error; it stays as it is.
    id: ClassVar[str] = "error"
    #: True if the same call may succeed later without anybody changing anything.
    retryable: bool = False
    #: What to do about it, one sentence; empty if nobody can say.
    hint: str = ""
    #: The option that decides, as `name` or `[section] name`; empty if none does.
    option: str = ""
    #: Where that option stands: file and line, or the file in which it is not set. Empty where no
    #: option decides, and where there is no config file.
    where: str = ""
    #: Seconds after which a peer asked to be tried again.
    retry_after: float | None = None
    #: Bytes that stay in a part file, with which the next call for the same image goes on.
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
        # BaseException would call the class with args alone and lose the hint.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(
    kind: type[ImageBrokerError], args: tuple[Any, ...], state: dict[str, Any]
) -> ImageBrokerError:
    # Not `kind.__new__`, which is MemoryError's where a class is one of those too.
    error: ImageBrokerError = Exception.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidImageRef(ImageBrokerError):
    """An identifier, a checksum or an argument of a call is malformed."""

    id = "invalid-image-ref"


class ConfigError(ImageBrokerError):
    """The configuration cannot be used as it is."""

    id = "config-error"


class SchemeNotEnabled(ImageBrokerError):
    """This deployment does not enable the scheme that the identifier asks for."""

    id = "scheme-not-enabled"


class BackendLoadError(ImageBrokerError):
    """A plugin is enabled but cannot be used; the text names its distribution."""

    id = "backend-load-error"


class PolicyViolation(ImageBrokerError):
    """The deployment's policy refuses this address, path, redirect, key or size."""

    id = "policy-violation"


class TooLarge(PolicyViolation):
    """More bytes than the record promised or the policy allows."""

    id = "too-large"


class UnsupportedOperation(ImageBrokerError):
    """The backend has no such verb; nothing was changed."""

    id = "unsupported-operation"


class ImageNotFound(ImageBrokerError):
    """No such image, or none that this caller may see."""

    id = "image-not-found"


class Gone(ImageNotFound):
    """The image existed and was deleted."""

    id = "image-deleted"


class NotAuthorized(ImageBrokerError):
    """The credentials are missing, wrong or not sufficient."""

    id = "not-authorized"


class Conflict(ImageBrokerError):
    """The image is in another state than the call assumes."""

    id = "conflict"


class QuotaExceeded(ImageBrokerError):
    """The service refuses to store more."""

    id = "quota-exceeded"


class ImageChanged(ImageBrokerError):
    """Other bytes than those the transfer began with; a new call gets the new image."""

    id = "image-changed"
    retryable = True


class TransferError(ImageBrokerError):
    """The bytes did not arrive complete."""

    id = "transfer-error"
    retryable = True


class TransferTimeout(TransferError):
    """A limit on time (connect, stall, minimum rate, deadline) ran out."""

    id = "transfer-timeout"


class RangeIgnored(TransferError):
    """The peer answered a request for the middle with something else."""

    id = "range-ignored"


class UnconfirmedEnd(TransferError):
    """The bytes ended in a way that anybody on the way could bring about: a digest has to say
    whether they are complete."""

    id = "unconfirmed-end"
    hint = "pass --checksum: where it holds, such an end is good enough"


class MalformedAnswer(TransferError):
    """A server said something that makes no sense: a wrong type, a number beyond all bounds."""

    id = "malformed-answer"


class UploadFailed(TransferError):
    """The data was not stored. `.image_id` is set if a record could not be removed."""

    id = "upload-failed"
    retryable = False
    image_id: str | None = None


class OutOfMemory(TransferError, MemoryError):
    """The process has no memory left; also a `MemoryError`, for who expects that."""

    id = "out-of-memory"


class Cancelled(TransferError):
    """The caller ended the transfer."""

    id = "cancelled"
    retryable = False


class BackendError(ImageBrokerError):
    """The service behind the backend reported trouble of its own."""

    id = "backend-error"
    retryable = True


class NotReady(BackendError):
    """The record exists, its data does not yet."""

    id = "not-ready"


class VerificationError(ImageBrokerError):
    """The bytes are not what was asked for. Not a network error: never retried."""

    id = "verification-error"


class ChecksumMismatch(VerificationError):
    """A required checksum differs from the one computed over the stored bytes."""

    id = "checksum-mismatch"


class ChecksumMissing(VerificationError):
    """A checksum is required here, and neither caller nor record has a strong one."""

    id = "checksum-missing"


class SignatureError(VerificationError):
    """The signature is not of these bytes, or there is none that could be verified."""

    id = "signature-error"


class CompressionError(VerificationError):
    """The data is not what it is to be unpacked as, or does not come to its proper end."""

    id = "compression-error"


class FormatError(VerificationError):
    """The content is not a disk image of an acceptable format."""

    id = "format-error"


class DestinationError(ImageBrokerError):
    """The destination cannot take the bytes."""

    id = "destination-error"
    #: The operating system's error number, if it was the one that refused.
    errno: int | None = None
    #: What is at the destination, where no file can take its place: "directory", "FIFO", ...
    found: str = ""

    @classmethod
    def wrap(cls, error: OSError, what: str, *, hint: str | None = None) -> DestinationError:
        """An OSError that arose while `what` (a phrase: "cannot write /x") was done."""
        return cls(
            f"{what}: {error.strerror or error}",
            hint=_REMEDIES.get(error.errno or 0, "") if hint is None else hint,
            errno=error.errno,
            retryable=error.errno in _PASSING,
        )


#: Reasons that go away by themselves.
_PASSING = frozenset({_errno.EMFILE, _errno.ENFILE, _errno.ENOMEM, _errno.ENOBUFS})
#: What helps against the usual reasons for which an operating system refuses to store.
_REMEDIES = {
    _errno.ENOSPC: "free some space on that file system, or choose another destination",
    _errno.EDQUOT: "the disk quota is used up: free some space or choose another destination",
    _errno.EFBIG: "the file size limit (ulimit -f, or the file system's) is too small",
    _errno.EACCES: "choose a directory that this user may write to",
    _errno.EPERM: "the file system refuses it (immutable file or mount option)",
    _errno.EROFS: "the file system is mounted read-only",
    _errno.ENOENT: "create the parent directory first",
    _errno.ENOTDIR: "a component of the path is not a directory",
    _errno.ENAMETOOLONG: "choose a shorter name",
    _errno.EIO: "the device reports errors: check its health",
    _errno.EMFILE: "raise the limit on open files of this process, as with: ulimit -n 4096",
    _errno.ENFILE: "raise the host's limit on open files: sysctl fs.file-max",
    _errno.ENOMEM: "free some memory, or raise the limit: ulimit -v",
    _errno.EPIPE: "the reader at the other end of the pipe went away",
}

__all__ = sorted(
    name
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, ImageBrokerError)
)
