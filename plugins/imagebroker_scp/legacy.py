"""The old scp protocol, for servers without SFTP: reads one file, and validates every response.

The server runs `scp -f PATH` in the login shell of the user. That shell is unknown, and no quoting
works in all of them: a path that any shell could interpret is refused (`command_for`). Only one
record of a file is accepted in the response; its name and mode are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from imagebroker.plugin import (
    ACTIVE,
    Buffer,
    Image,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    ImageRef,
    ImageSource,
    NotAuthorized,
    PolicyViolation,
    RangeIgnored,
    TransferError,
    TransferTimeout,
    printable,
)
from imagebroker_scp.connection import Connection

#: Paths without a special meaning in sh, csh, fish, cmd, PowerShell and appliances' own shells.
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9_.+-]+)+")
#: Mode, size and name of a file.
_FILE = re.compile(rb"C[0-7]{4} ([0-9]{1,19}) [^\n]*", re.DOTALL)
#: Maximum length of a record.
_MAX_LINE = 2 * 1024 * 1024
_GO_ON = _FINE = b"\0"
_COMPLAINTS = (b"\1", b"\2")
_LARGEST = 2**63 - 1


def command_for(ref: ImageRef) -> bytes:
    """The command for the server.

    :raises PolicyViolation: a shell could interpret the path.
    """
    path = ref.path_bytes
    if not _PLAIN.fullmatch(path):
        raise PolicyViolation(
            f"{ref} cannot be read with the scp protocol: a shell could interpret its path",
            hint="rename the file, with only letters, digits and . _ + -, or enable SFTP on the "
            "server",
        )
    return b"scp -f " + path


class LegacySource(ImageSource):
    """The data of one file over the scp protocol. Only its size is known."""

    seekable = False
    parallel_reads = 1

    def __init__(self, ref: ImageRef, connect: Callable[[], Connection]) -> None:
        self._ref = ref
        self._connect = connect
        self._closed = False
        self._conversation: _Conversation | None = _Conversation(ref, connect())
        self._reading: _Conversation | None = None
        size = self._conversation.size
        name = ref.file_name.decode("utf-8", "backslashreplace")
        self.image = Image(ref=ref.text, name=name, status=ACTIVE, size=size)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        """See the contract; each read except the first uses a new connection."""
        if start:
            raise RangeIgnored(f"{self._ref}: the scp protocol does not support ranges")
        conversation, self._conversation = self._conversation or self._again(), None
        self._reading = conversation
        try:
            if stop is None:
                yield from conversation.data()
            else:
                yield from _first(stop, conversation.data())
        finally:
            conversation.close()

    def _again(self) -> _Conversation:
        if self._closed:
            raise TransferError(f"{self._ref} was closed", retryable=False)
        conversation = _Conversation(self._ref, self._connect())
        if conversation.size != self.image.size:
            conversation.close()
            raise ImageChanged(
                f"{self._ref} has {conversation.size} bytes now, not {self.image.size}"
            )
        if self._closed:  # meanwhile, by another thread
            conversation.close()
        return conversation

    def close(self) -> None:
        self._closed = True
        for conversation in (self._conversation, self._reading):
            if conversation is not None:
                conversation.close()


class _Conversation:
    """One run of scp on the server. Owns the connection."""

    def __init__(self, ref: ImageRef, connection: Connection) -> None:
        """Read the record of the file.

        :raises ImageNotFound, NotAuthorized, PolicyViolation: the server reports an error.
        :raises TransferError: its response is invalid.
        """
        self._ref = ref
        self._connection = connection
        self._arrived = memoryview(b"")
        try:
            self._go_on()
            self.size = self._announced()
        except BaseException:
            connection.close()
            raise

    def _announced(self) -> int:
        begin = bytes(self._some()[:64])
        if begin and begin[:1] not in (b"C", *_COMPLAINTS):
            raise self._nonsense(f"sent {_shown(begin)} instead of the record of a file")
        record = self._line()
        match = _FILE.fullmatch(record)
        if match is None:
            if record[:1] in _COMPLAINTS:
                raise self._complaint(record[1:])
            raise self._nonsense(f"sent {_shown(record)} instead of the record of a file")
        size = int(match[1])
        if size > _LARGEST:
            raise self._nonsense(f"announced a file of {size} bytes")
        return size

    def data(self) -> Iterator[Buffer]:
        """The data of the file.

        :raises TransferError: more or fewer bytes arrived, or the server did not report success.
        """
        self._go_on()
        missing = self.size
        while missing:
            piece = self._some()[:missing]
            if not piece:
                raise self._early(f"{missing} bytes before the end")
            self._arrived = self._arrived[len(piece) :]
            missing -= len(piece)
            yield piece
        self._finish()

    def _finish(self) -> None:
        status = bytes(self._some()[:1])
        if not status:
            raise self._early("before it reported whether it could read the file")
        if status in _COMPLAINTS:
            self._arrived = self._arrived[1:]
            raise self._complaint(self._line())
        if status != _FINE:
            raise self._nonsense(f"sent {_shown(status)} after the data")
        self._arrived = self._arrived[1:]
        self._go_on()
        more = bytes(self._some()[:64])
        if more:
            raise self._nonsense(f"sent {_shown(more)} after the file")
        ended = self._connection.exit_status()
        if ended != 0:
            what = "without a status" if ended is None else f"with status {ended}"
            raise self._early(f"{what} after the data")

    def _go_on(self) -> None:
        try:
            self._connection.send(_GO_ON)
        except TransferTimeout:
            raise
        except TransferError:
            pass  # the server has ended: what it sent before says why

    def _some(self) -> memoryview:
        """What has arrived and was not taken yet; empty at the end."""
        if not self._arrived:
            self._arrived = memoryview(self._connection.receive())
        return self._arrived

    def _line(self) -> bytes:
        line = bytearray()
        while len(line) < _MAX_LINE:
            piece, end, _ = bytes(self._some()).partition(b"\n")
            if not piece and not end:
                raise self._early("before the record of a file" if not line else "within a line")
            self._arrived = self._arrived[len(piece) + len(end) :]
            line += piece
            if end:
                return bytes(line)
        raise self._nonsense(f"sent a line of more than {_MAX_LINE} bytes: {_shown(line)}")

    def _complaint(self, text: bytes) -> ImageBrokerError:
        said = printable(text.decode("utf-8", "replace"), 256)
        for phrase, kind, hint in (
            ("No such file or directory", ImageNotFound, "check the path"),
            ("ermission denied", NotAuthorized, "let the user read the file, or use another user"),
            ("not a regular file", PolicyViolation, "name a regular file"),
        ):
            if phrase in said:
                return kind(f"{self._ref}: the server says: {said}", hint=hint)
        return TransferError(f"{self._ref}: the server says: {said}", hint="check the server's log")

    def _early(self, when: str) -> TransferError:
        complaint = self._connection.complaint
        said = f": {complaint}" if complaint else ""
        return TransferError(
            f"{self._ref}: the server's scp ended {when}{said}",
            hint="check that the user is allowed to run scp on the server",
        )

    def _nonsense(self, what: str) -> TransferError:
        complaint = self._connection.complaint
        said = f"; it says: {complaint}" if complaint else ""
        return TransferError(
            f"{self._ref}: the server {what}{said}",
            hint="check that the server's shell prints nothing at login, and that its scp works",
        )

    def close(self) -> None:
        """End the connection; from any thread."""
        self._connection.close()


def _first(count: int, chunks: Iterator[Buffer]) -> Iterator[Buffer]:
    for chunk in chunks:
        piece = memoryview(chunk)[:count]
        count -= len(piece)
        if piece:
            yield piece
        if not count:
            return


def _shown(data: bytes | bytearray) -> str:
    return repr(printable(bytes(data[:64]).decode("utf-8", "replace"), 64))
