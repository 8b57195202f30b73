"""`file:///absolute/path` refs: read-only, below allowed directories, through no link."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from imagebroker.plugin import (
    BackendHost,
    Image,
    ImageBrokerError,
    ImageNotFound,
    ImageRef,
    NotAuthorized,
    PolicyViolation,
)
from imagebroker_file.database import MARKER
from imagebroker_file.source import FileSource

_HINTS: dict[type[ImageBrokerError], str] = {
    ImageNotFound: "check the path; it is absolute and percent-encoded",
    NotAuthorized: "let the user that this process runs as read the file",
    PolicyViolation: "name a regular file by its real path: links, devices and directories "
    "are refused",
}


class Paths:
    """The files that refs may name."""

    def __init__(self, host: BackendHost, allowed: Sequence[str]) -> None:
        """`allowed`: absolute directories. A person (`host.personal`) may name any file."""
        self._host = host
        # The longest first: the most exact word of the operator counts.
        self._roots = sorted(map(_segments, map(os.fsencode, allowed)), key=len, reverse=True)
        self._resolved: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def open(self, ref: ImageRef) -> FileSource:
        """The file that `ref` names.

        :raises PolicyViolation: outside the allowed directories, behind a link, no regular file,
            or in an image store; says of a path outside nothing but that it is outside.
        :raises ImageNotFound, NotAuthorized: inside, and missing or not readable.
        """
        root, relative = self._locate(ref)
        try:
            fd = self._host.open_beneath(os.fsdecode(root), relative)
        except (PolicyViolation, ImageNotFound, NotAuthorized) as error:
            raise type(error)(f"{ref}: {error}", hint=_HINTS.get(type(error))) from error
        try:
            _refuse_stored(fd, ref)
            return FileSource(fd, _image(ref, os.fstat(fd)))
        except BaseException:
            os.close(fd)
            raise

    def _locate(self, ref: ImageRef) -> tuple[bytes, bytes]:
        """The directory to open beneath, and the path in it."""
        if self._host.personal:
            # Links are a person's own business. They are resolved first, because what is opened
            # must be checked, and nothing may be followed between check and opening.
            return b"/", os.path.realpath(ref.path_bytes)[1:]
        segments = _segments(ref.path_bytes)
        for root in self._roots:
            if segments[: len(root)] == root:
                return self._resolve(b"/" + b"/".join(root)), b"/".join(segments[len(root) :])
        raise PolicyViolation(
            f"{ref} is not below an allowed directory",
            hint="name its directory in allowed_paths of the file backend",
        )

    def _resolve(self, root: bytes) -> bytes:
        """An allowed directory, its own links followed once: they are the operator's."""
        with self._lock:
            if root not in self._resolved:
                real = os.path.realpath(root)
                if not os.path.isdir(real):
                    return real  # mounted or made later: look again then
                self._resolved[root] = real
            return self._resolved[root]


def _segments(path: bytes) -> list[bytes]:
    """Split at `/`, so that `/a` is no prefix of `/ab`. Empty segments stay, to be refused."""
    return path[1:].split(b"/") if path != b"/" else []


def _refuse_stored(fd: int, ref: ImageRef) -> None:
    """Refuse a file below any image store, which its database gives away.

    Not by comparing paths with a configured one: another instance or another service may have its
    store there, and a mount or an operator's link may lead into it.
    """
    directory = os.path.dirname(os.readlink(b"/proc/self/fd/%d" % fd))
    while directory:
        if os.path.lexists(os.path.join(directory, os.fsencode(MARKER))):
            raise PolicyViolation(
                f"{ref} is inside an image store",
                hint="use the image's id: a store's files are no images of their own",
            )
        directory = os.path.dirname(directory) if directory != b"/" else b""


def _image(ref: ImageRef, status: os.stat_result) -> Image:
    try:
        updated_at = datetime.fromtimestamp(status.st_mtime, UTC)
    except (OverflowError, ValueError, OSError):
        updated_at = None  # a date that no calendar has
    return Image(
        ref=ref.text,
        name=ref.file_name.decode("utf-8", "backslashreplace"),
        size=status.st_size,
        updated_at=updated_at,
    )
