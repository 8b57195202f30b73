"""What errors of Ceph's libraries mean."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from imagebroker.plugin import (
    BackendError,
    ConfigError,
    Conflict,
    ImageBrokerError,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    QuotaExceeded,
    TransferError,
    TransferTimeout,
    UnsupportedOperation,
)

_Meaning = tuple[type[ImageBrokerError], str]

_DOWN = "check the cluster: ceph status"
_MEANINGS: dict[int, _Meaning] = {
    errno.ENOENT: (ImageNotFound, "check the names of the pool, the image and the snapshot"),
    errno.EPERM: (NotAuthorized, "check what the Ceph user may do: ceph auth get client.USER"),
    errno.EACCES: (NotAuthorized, "check user and keyring"),
    errno.ETIMEDOUT: (TransferTimeout, _DOWN),
    errno.ENOTCONN: (TransferError, _DOWN),
    errno.ESHUTDOWN: (TransferError, _DOWN),
    errno.ECONNREFUSED: (TransferError, _DOWN),
    errno.EIO: (BackendError, _DOWN),
    errno.EEXIST: (Conflict, "choose another name, or delete that image"),
    errno.EBUSY: (Conflict, "somebody uses the image: see rbd status POOL/IMAGE"),
    errno.ENOTEMPTY: (Conflict, "remove its snapshots first: rbd snap ls POOL/IMAGE"),
    errno.EROFS: (Conflict, "the image is read-only, or belongs to a mirror"),
    errno.EDQUOT: (QuotaExceeded, "delete something, or raise the quota of the pool"),
    errno.ENOSPC: (QuotaExceeded, "delete something, or add disks to the cluster"),
    errno.ENAMETOOLONG: (InvalidImageRef, "choose a shorter name"),
    errno.EOPNOTSUPP: (UnsupportedOperation, "the image lacks a feature for this: rbd info"),
    errno.ENOSYS: (UnsupportedOperation, "the cluster is too old for this"),
}
#: Errors of a connection to the cluster.
_CONNECTING: dict[int, _Meaning] = {
    errno.ENOENT: (ConfigError, "check ceph_conf, keyring and user"),
    errno.EINVAL: (ConfigError, "check ceph_conf: is it a config file of Ceph?"),
    errno.EPERM: (NotAuthorized, "check user and keyring"),
    errno.EACCES: (NotAuthorized, "check user and keyring"),
}


@contextmanager
def translated(doing: str, *, connecting: bool = False) -> Iterator[None]:
    """Turn exceptions of rados and rbd into ours; `doing` is a phrase: `cannot read IMAGE`."""
    import rados
    import rbd

    try:
        yield
    except (rados.Error, rbd.Error) as error:
        raise error_of(doing, _number(error), connecting=connecting) from error


def _number(error: Exception) -> int:
    found = getattr(error, "errno", None)
    return abs(found) if isinstance(found, int) else errno.EINVAL


def error_of(doing: str, number: int, *, connecting: bool = False) -> ImageBrokerError:
    """The error for an error number of Ceph."""
    table = _CONNECTING if connecting and number in _CONNECTING else _MEANINGS
    kind, hint = table.get(number, (BackendError, ""))
    message = f"{doing}: {os.strerror(number).lower()}"
    if kind is BackendError:
        return BackendError(message, hint=hint, retryable=number == errno.EIO)
    return kind(message, hint=hint)


def protected(subject: object) -> PolicyViolation:
    return PolicyViolation(
        f"{subject} is protected",
        hint=f"remove its protection first: imagebroker update {subject} --no-protected",
    )


def has_clones(subject: object, clones: list[str]) -> Conflict:
    named = ", ".join(clones[:5]) + (", …" if len(clones) > 5 else "")
    return Conflict(
        f"{subject} has {len(clones)} clone{'s' * (len(clones) > 1)}: {named}",
        hint=f"delete the clone, or make it independent: rbd flatten {clones[0]}",
    )
