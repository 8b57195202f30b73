"""An opened file on a server, and the source that reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from imagebroker.plugin import (
    ACTIVE,
    Buffer,
    Image,
    ImageChanged,
    ImageRef,
    ImageSource,
    PolicyViolation,
    TransferError,
    peer,
)
from imagebroker_scp.client import Endpoint, Session
from imagebroker_scp.errors import translated
from imagebroker_scp.messages import Attributes
from imagebroker_scp.pipeline import FileEnded, Reader
from imagebroker_scp.sftp import Sftp


class RemoteFile:
    """A regular file, open for reading."""

    def __init__(self, session: Session, ref: ImageRef, endpoint: Endpoint | None) -> None:
        """Owns the session from now on.

        :raises ImageNotFound, NotAuthorized: the server reports it.
        :raises PolicyViolation: it is not a regular file, or not beneath `endpoint`.
        """
        self._session = session
        self.sftp = session.sftp
        try:
            with translated(ref):
                path = ref.path_bytes
                if endpoint is not None:
                    path = resolved_beneath(self.sftp, path, endpoint, ref)
                # First by name: opening a FIFO would wait for a writer.
                check_regular(self.sftp.stat(path), ref)
                self.handle = self.sftp.open(path)
                self.attributes = self.sftp.fstat(self.handle)
                check_regular(self.attributes, ref)
        except BaseException:
            session.close()
            raise

    def close(self) -> None:
        """Close the session, too; from any thread."""
        self._session.close()


class ScpSource(ImageSource):
    """The data of one file over SFTP.

    SFTP 3 has nothing that proves that a file has not changed, so there is no `version`. Size and
    modification time (in seconds) are compared at every reconnect and after every read.
    """

    seekable = True
    parallel_reads = 1

    def __init__(self, ref: ImageRef, open_file: Callable[[], RemoteFile]) -> None:
        self._ref = ref
        self._open_file = open_file
        self._closed = False
        self._file: RemoteFile | None = open_file()
        self._attributes = self._file.attributes
        try:
            self.image = described(ref.text, ref.file_name, self._attributes)
        except BaseException:
            self._file.close()
            raise

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        """See the contract; after an error, the next read opens a new connection."""
        size = self._attributes.size
        if size is not None:
            stop = size if stop is None else min(stop, size)
        if stop is not None and start > stop:
            return
        file = self._file or self._reopened()
        finished = False
        try:
            with translated(self._ref):
                yield from self._read(file, start, stop)
            finished = True
        except GeneratorExit:
            finished = True  # the rest is not needed: the connection can be used again
            raise
        finally:
            if not finished:
                self._file = None
                file.close()

    def _read(self, file: RemoteFile, start: int, stop: int | None) -> Iterator[Buffer]:
        size = self._attributes.size
        try:
            yield from Reader(file.sftp, file.handle, start, stop)
        except FileEnded as error:
            self._check_unchanged(file.sftp.fstat(file.handle))
            raise TransferError(
                f"{self._ref}: {error}, but the server reports a size of {size}",
                hint="check whether the file on the server is damaged, or still being written",
            ) from error
        self._check_unchanged(file.sftp.fstat(file.handle))
        if size is not None and stop == size and file.sftp.has_data_at(file.handle, size):
            raise ImageChanged(
                f"{self._ref} has more data than the {size} bytes that the server reported",
                hint="try again when the file is complete; files without a size, as in /proc, "
                "cannot be read",
            )

    def _reopened(self) -> RemoteFile:
        if self._closed:
            raise TransferError(f"{self._ref} was closed", retryable=False)
        file = self._open_file()
        try:
            self._check_unchanged(file.attributes)
        except BaseException:
            file.close()
            raise
        self._file = file
        if self._closed:  # meanwhile, by another thread, which saw no file to close
            file.close()
        return file

    def _check_unchanged(self, now: Attributes) -> None:
        then = self._attributes
        if (now.size, now.mtime) != (then.size, then.mtime):
            raise ImageChanged(
                f"{self._ref} was modified on the server while it was read: "
                f"{_shown(then)} before, {_shown(now)} now",
                hint="try again when the file is complete",
            )

    def close(self) -> None:
        self._closed = True
        if self._file is not None:
            self._file.close()


def described(ref: str, name: bytes, attributes: Attributes) -> Image:
    """The record of a file. :raises MalformedAnswer: its size is invalid."""
    return peer.image(
        ref,
        ref,
        name=name.decode("utf-8", "backslashreplace"),
        status=ACTIVE,
        size=attributes.size,
        updated_at=attributes.mtime,
    )


def check_regular(attributes: Attributes, subject: object, *, links: bool = False) -> None:
    """:raises PolicyViolation: it is not a regular file."""
    if not attributes.is_regular and not (links and attributes.is_link):
        raise PolicyViolation(
            f"{subject} is not a regular file",
            hint="name a regular file, not a directory or device",
        )


def resolved_beneath(sftp: Sftp, path: bytes, endpoint: Endpoint, subject: object) -> bytes:
    """`path` as the server resolves it.

    :raises PolicyViolation: a link leads out of the endpoint's directory.
    """
    root = sftp.realpath(endpoint.directory).rstrip(b"/") + b"/"
    resolved = sftp.realpath(path)
    if not resolved.startswith(root) or b".." in resolved.split(b"/"):
        raise PolicyViolation(
            f"{subject}: a link on the server leads out of the endpoint's directory",
            hint="name the file itself, beneath endpoint",
        )
    return resolved


def _shown(attributes: Attributes) -> str:
    return f"{attributes.size} bytes, mtime {attributes.mtime}"
