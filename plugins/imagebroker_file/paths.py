"""`file:///absolute/path` refs: read-only, below allowed directories, without following links."""

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
    ImageNotFound: "check the path: it must be absolute and percent-encoded",
    NotAuthorized: "let the user of this process read the file",
    PolicyViolation: "name a regular file by its real path, without links",
}


class Paths:
    """The files that refs can name."""

    def __init__(
        self, host: BackendHost, allowed: Sequence[str], *, follow_links: bool = False
    ) -> None:
        """`allowed`: absolute directories. A person (`host.personal`) who lists none can read any
        file. `follow_links`: links below them may lead anywhere.
        """
        self._host = host
        self._follow_links = follow_links
        self._any = host.personal and not allowed
        # The longest first: the most specific directory counts.
        self._roots = sorted(map(_segments, map(os.fsencode, allowed)), key=len, reverse=True)
        self._resolved: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def open(self, ref: ImageRef) -> FileSource:
        """The file that `ref` names.

        :raises PolicyViolation: outside the allowed directories (nothing else is revealed about
            such a path), behind a link, not a regular file, or in an image store.
        :raises ImageNotFound, NotAuthorized: inside, but missing or not readable.
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
        if self._any:
            # A person may use links. They are resolved first: no link must be followed between
            # the check and the opening.
            return b"/", os.path.realpath(ref.path_bytes)[1:]
        segments = _segments(ref.path_bytes)
        for root in self._roots:
            if segments[: len(root)] == root:
                if self._follow_links and b".." not in segments:
                    return b"/", os.path.realpath(ref.path_bytes)[1:]
                return self._resolve(b"/" + b"/".join(root)), b"/".join(segments[len(root) :])
        raise PolicyViolation(
            f"{ref} is not below an allowed directory",
            hint="add its directory to allowed_paths of the file backend",
        )

    def _resolve(self, root: bytes) -> bytes:
        """An allowed directory with its own links resolved once: the operator chose them."""
        with self._lock:
            if root not in self._resolved:
                real = os.path.realpath(root)
                if not os.path.isdir(real):
                    return real  # it may be mounted or created later: check again then
                self._resolved[root] = real
            return self._resolved[root]


def _segments(path: bytes) -> list[bytes]:
    """Split at `/`, so that `/a` is not a prefix of `/ab`. Empty segments stay, to be refused."""
    return path[1:].split(b"/") if path != b"/" else []


def _refuse_stored(fd: int, ref: ImageRef) -> None:
    """Refuse a file in any image store, which is recognised by its database.

    Comparing with the configured path is not enough: another instance or service may have its
    store there, and a mount or a link may lead into it.
    """
    directory = os.path.dirname(os.readlink(b"/proc/self/fd/%d" % fd))
    while directory:
        if os.path.lexists(os.path.join(directory, os.fsencode(MARKER))):
            raise PolicyViolation(
                f"{ref} is inside an image store",
                hint="use the id of the image instead of the path",
            )
        directory = os.path.dirname(directory) if directory != b"/" else b""


def _image(ref: ImageRef, status: os.stat_result) -> Image:
    try:
        updated_at = datetime.fromtimestamp(status.st_mtime, UTC)
    except (OverflowError, ValueError, OSError):
        updated_at = None  # not a valid date
    return Image(
        ref=ref.text,
        name=ref.file_name.decode("utf-8", "backslashreplace"),
        size=status.st_size,
        updated_at=updated_at,
    )
