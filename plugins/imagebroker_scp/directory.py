"""The directory of `endpoint`: lists, stores and removes files in it, and nowhere else."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote_from_bytes

from imagebroker.plugin import (
    BackendHost,
    Conflict,
    Image,
    ImageBrokerError,
    ImageData,
    ImageQuery,
    ImageRef,
    InvalidImageRef,
    TooLarge,
    TransferError,
    UnsupportedOperation,
    UploadFailed,
    peer,
    printable,
)
from imagebroker_scp import pipeline
from imagebroker_scp.client import Endpoint, Session, Sessions
from imagebroker_scp.errors import FAILURE, NO_SUCH_FILE, StatusError, translated
from imagebroker_scp.messages import CREATE, EXCLUSIVE, FOR_WRITING, Attributes
from imagebroker_scp.sftp import Sftp
from imagebroker_scp.source import check_regular, described, resolved_beneath

LOG = logging.getLogger(__name__)

#: Suffix of files that are still being uploaded.
PART = b".imagebroker-part"
#: Maximum length of a name: no system allows longer paths.
_LONGEST_NAME = 4096


class Directory:
    """The directories of all endpoints, for lists; new files go to that of the first."""

    def __init__(self, sessions: Sessions, purpose: str) -> None:
        """:raises UnsupportedOperation: no endpoint is configured."""
        self._sessions = sessions
        if not sessions.endpoints:
            raise UnsupportedOperation(
                f"the scp backend cannot {purpose} without a directory",
                hint="set endpoint to scp://host/directory/",
            )

    def listed(self, query: ImageQuery, host: BackendHost) -> Iterator[Image]:
        """The images that match; arguments are checked now, everything else happens later.

        SFTP has no pages, so all files are collected here.

        :raises InvalidImageRef: an argument is invalid.
        """
        most = host.limits.lists.records
        files = (
            image for endpoint in self._sessions.endpoints for image in self._files(endpoint, most)
        )
        return query.apply(host.bounded(files))

    def _files(self, endpoint: Endpoint, most: int) -> Iterator[Image]:
        """The images in one directory. :raises TooLarge: it has more than `most` entries."""
        reader = peer.Reader(lambda each: described(*each), lambda each: str(each[0]))
        with self._sessions.for_endpoint(endpoint) as session, translated(endpoint.prefix):
            for count, (name, attributes) in enumerate(session.sftp.listdir(endpoint.directory)):
                if count >= most:
                    raise TooLarge(
                        f"{endpoint.prefix} has more than {most} entries",
                        hint="spread them over several directories, or raise list_max_records",
                    )
                if len(name) > _LONGEST_NAME:
                    begin = printable(name[:40].decode("utf-8", "replace"), 40)
                    LOG.warning(
                        "%s: skipping a name of %d bytes in the list: %s...",
                        endpoint.prefix, len(name), begin,
                    )  # fmt: skip
                elif attributes.is_regular and _is_a_name(name) and not name.endswith(PART):
                    yield from reader.read([(_ref(endpoint, name), name, attributes)])

    def store(self, image: Image, data: ImageData | None) -> Image:
        """Store a new file named `image.name`, completely or not at all.

        :raises InvalidImageRef: no usable name, an id, or no data.
        :raises Conflict: a file with this name exists.
        :raises UploadFailed: the data could not be stored.
        """
        if data is None:
            raise InvalidImageRef(
                "the scp backend cannot create an image without data", hint="pass its data"
            )
        if image.id is not None:
            raise InvalidImageRef(
                "images of the scp backend have no ids", hint="pass a name instead of an id"
            )
        endpoint = self._sessions.endpoints[0]
        return _Upload(self._sessions, endpoint, _checked_name(image.name), data).run()

    def remove(self, ref: ImageRef) -> None:
        """Remove the file of a ref; if it is a link, the link itself.

        :raises ImageNotFound, NotAuthorized, PolicyViolation: it does not exist; the server
            refuses; it is not a file beneath an endpoint.
        """
        session, endpoint = self._sessions.for_ref(ref)
        with session, translated(ref):
            if endpoint is None:  # excluded in `__init__`
                raise UnsupportedOperation(f"{ref} is not beneath an endpoint")
            parent, _, name = ref.path_bytes.rpartition(b"/")
            if parent + b"/" != endpoint.directory:
                parent = resolved_beneath(session.sftp, parent, endpoint, ref)
            path = parent + b"/" + name
            check_regular(session.sftp.lstat(path), ref, links=True)
            session.sftp.remove(path)


@dataclass
class _Upload:
    """The upload of one file: written under a temporary name, then renamed."""

    sessions: Sessions
    endpoint: Endpoint
    name: bytes
    data: ImageData
    #: Whether there may be a part file on the server.
    begun = False
    #: Whether the rename was requested.
    committing = False

    def __post_init__(self) -> None:
        self._path = self.endpoint.directory + self.name
        self._part = self.endpoint.directory + b"." + secrets.token_hex(8).encode() + PART
        self._ref = _ref(self.endpoint, self.name)

    def run(self) -> Image:
        with self.sessions.for_endpoint(self.endpoint) as session, translated(self._ref):
            self._check_free(session.sftp)
            try:
                attributes = self._written(session.sftp)
            except BaseException as error:
                stored = self._settled(session, error)
                if stored is None:
                    raise self._failure(error) from error
                attributes = stored
        return described(self._ref, self.name, attributes)

    def _check_free(self, sftp: Sftp) -> None:
        try:
            sftp.lstat(self._path)
        except StatusError as error:
            if error.code == NO_SUCH_FILE:
                return
            raise
        raise Conflict(f"{self._ref} already exists", hint="choose another name, or delete it")

    def _written(self, sftp: Sftp) -> Attributes:
        self.begun = True
        try:
            handle = sftp.open(self._part, FOR_WRITING | CREATE | EXCLUSIVE, 0o600)
        except StatusError:
            self.begun = False
            raise
        pipeline.write(sftp, handle, self.data)
        sftp.fsync(handle)
        attributes = sftp.fstat(handle)
        if attributes.size is not None and attributes.size != self.data.sent:
            raise UploadFailed(
                f"{self._ref}: the server stored {attributes.size} of {self.data.sent} bytes",
                hint="check whether its disk is full, and its log",
            )
        sftp.close(handle)
        self.committing = True
        try:
            # Not posix-rename, which would replace a file that was created in the meantime.
            sftp.rename(self._part, self._path)
        except StatusError as error:
            if error.code == FAILURE:
                self._check_free(sftp)
            raise
        return attributes

    def _failure(self, error: BaseException) -> BaseException:
        """The exception to raise for an error, if nothing was left on the server."""
        if self.data.failure is not None:
            return self.data.failure
        reported = isinstance(error, StatusError) and error.code == FAILURE
        lost = isinstance(error, TransferError) and not isinstance(error, UploadFailed)
        if not reported and not lost:
            return error
        hint = getattr(error, "hint", "") or "check whether the server's disk is full"
        return UploadFailed(f"{self._ref} could not be stored: {error}", hint=hint)

    def _settled(self, session: Session, error: BaseException) -> Attributes | None:
        """Remove the part file, over a new connection if necessary.

        If only the server's last response was lost, the file is complete: returns its attributes.

        :raises UploadFailed: the part file could not be removed.
        """
        if not self.begun:
            return None
        try:
            try:
                return self._remove_part(session.sftp)
            except (ImageBrokerError, StatusError):
                with self.sessions.for_endpoint(self.endpoint) as fresh:
                    return self._remove_part(fresh.sftp)
        except (ImageBrokerError, StatusError) as second:
            raise UploadFailed(
                f"{self._ref} could not be stored: {error}; and its part file could not be "
                f"removed: {second}",
                hint="remove the part file from the server",
                image_id=_ref(self.endpoint, self._part.rpartition(b"/")[2]),
            ) from error

    def _remove_part(self, sftp: Sftp) -> Attributes | None:
        try:
            sftp.remove(self._part)
            return None
        except StatusError as error:
            if error.code != NO_SUCH_FILE:
                raise
        if not self.committing:
            return None
        try:
            stored = sftp.stat(self._path)
        except StatusError:
            return None
        return stored if stored.size == self.data.sent else None


def _checked_name(name: str | None) -> bytes:
    try:
        encoded = (name or "").encode()
    except UnicodeEncodeError:
        encoded = b""
    if not _is_a_name(encoded) or encoded.endswith(PART) or len(encoded) > 255:
        raise InvalidImageRef(
            f"{name!r} is not a valid file name",
            hint="set name to a file name of 1 to 255 bytes, without slashes or control characters",
        )
    return encoded


def _is_a_name(name: bytes) -> bool:
    """Whether a ref can name such a file: a hostile server may send any name."""
    return name not in (b"", b".", b"..") and not any(byte in b"/\0\r\n" for byte in name)


def _ref(endpoint: Endpoint, name: bytes) -> str:
    return endpoint.prefix + quote_from_bytes(name, safe="")
