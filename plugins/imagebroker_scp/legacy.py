"""The old scp protocol, for servers without SFTP: one file, read once, nothing believed.

The server runs `scp -f PATH` in the shell of the user who logs in. Which shell that is nobody
knows, and no quoting means the same to all of them: a path that any shell could take for more than
itself is refused (`command_for`). Of what comes back, exactly one record of a file is accepted; its
name and mode change nothing here.
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

#: Means itself to sh, csh, fish, cmd, PowerShell and whatever a device has instead.
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9_.+-]+)+")
#: Mode, size and name of a file, which may well be absurd.
_FILE = re.compile(rb"C[0-7]{4} ([0-9]{1,19}) [^\n]*", re.DOTALL)
#: Longest record that is read.
_MOST = 2 * 1024 * 1024
_GO_ON = _FINE = b"\0"
_COMPLAINTS = (b"\1", b"\2")
_LARGEST = 2**63 - 1


def command_for(ref: ImageRef) -> bytes:
    """What the server is to run.

    :raises PolicyViolation: a shell there might take the path for more than a path.
    """
    path = ref.path_bytes
    if not _PLAIN.fullmatch(path):
        raise PolicyViolation(
            f"{ref} cannot be read with the scp protocol: a shell could interpret its path",
            hint="rename the file to letters, digits and . _ + -, or give the server SFTP",
        )
    return b"scp -f " + path


class LegacySource(ImageSource):
    """The bytes of one file in the scp protocol. Nothing is known of it but its size."""

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
        """See the contract; each read but the first has a connection of its own."""
        if start:
            raise RangeIgnored(f"{self._ref}: the scp protocol cannot begin in the middle")
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
            raise ImageChanged(f"{self._ref} has {conversation.size} bytes, not {self.image.size}")
        if self._closed:  # in the meantime, by another thread
            conversation.close()
        return conversation

    def close(self) -> None:
        self._closed = True
        for conversation in (self._conversation, self._reading):
            if conversation is not None:
                conversation.close()


class _Conversation:
    """One run of scp on the server. Takes over the connection."""

    def __init__(self, ref: ImageRef, connection: Connection) -> None:
        """Have the file announced.

        :raises ImageNotFound, NotAuthorized, PolicyViolation: as the server says.
        :raises TransferError: it says anything but what it must.
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
            raise self._nonsense(f"sent {_shown(begin)} where a file must be announced")
        record = self._line()
        match = _FILE.fullmatch(record)
        if match is None:
            if record[:1] in _COMPLAINTS:
                raise self._complaint(record[1:])
            raise self._nonsense(f"sent {_shown(record)} where a file must be announced")
        size = int(match[1])
        if size > _LARGEST:
            raise self._nonsense(f"announced a file of {size} bytes")
        return size

    def data(self) -> Iterator[Buffer]:
        """All bytes.

        :raises TransferError: more or less than that came, or the server ends in another way than
            it must after a success.
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
            raise self._early("before it said whether it could read the file")
        if status in _COMPLAINTS:
            self._arrived = self._arrived[1:]
            raise self._complaint(self._line())
        if status != _FINE:
            raise self._nonsense(f"sent {_shown(status)} behind the data")
        self._arrived = self._arrived[1:]
        self._go_on()
        more = bytes(self._some()[:64])
        if more:
            raise self._nonsense(f"sent {_shown(more)} behind the file")
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
            pass  # nobody listens any more: what was said until then tells why

    def _some(self) -> memoryview:
        """What has arrived and was not taken; empty at the end."""
        if not self._arrived:
            self._arrived = memoryview(self._connection.receive())
        return self._arrived

    def _line(self) -> bytes:
        line = bytearray()
        while len(line) < _MOST:
            piece, end, _ = bytes(self._some()).partition(b"\n")
            if not piece and not end:
                raise self._early("before it announced a file" if not line else "within a line")
            self._arrived = self._arrived[len(piece) + len(end) :]
            line += piece
            if end:
                return bytes(line)
        raise self._nonsense(f"sent a line of more than {_MOST} bytes: {_shown(line)}")

    def _complaint(self, text: bytes) -> ImageBrokerError:
        said = printable(text.decode("utf-8", "replace"), 256)
        for phrase, kind, hint in (
            ("No such file or directory", ImageNotFound, "check the path"),
            ("ermission denied", NotAuthorized, "give the user that logs in there the permission"),
            ("not a regular file", PolicyViolation, "name a file"),
        ):
            if phrase in said:
                return kind(f"{self._ref}: the server says: {said}", hint=hint)
        return TransferError(f"{self._ref}: the server says: {said}", hint="see the server's log")

    def _early(self, when: str) -> TransferError:
        complaint = self._connection.complaint
        said = f": {complaint}" if complaint else ""
        return TransferError(
            f"{self._ref}: the server's scp ended {when}{said}",
            hint="see whether the user that logs in there may run scp",
        )

    def _nonsense(self, what: str) -> TransferError:
        complaint = self._connection.complaint
        said = f"; it says: {complaint}" if complaint else ""
        return TransferError(
            f"{self._ref}: the server {what}{said}",
            hint="its scp is faulty, or its shell prints something at login",
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
