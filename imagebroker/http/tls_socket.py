"""TLS over a socket, read from the kernel in large blocks.

`ssl.SSLSocket` asks the kernel twice for each record of 16 KiB, which for an image takes as long as
a third of the decrypting. Here OpenSSL decrypts from memory.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from socket import socket
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")

#: Bytes that the kernel is asked for at once: at first, and at most.
_FIRST_READ, _MAX_READ = 16 * 1024, 256 * 1024
#: Bytes that are encrypted at once.
_PIECE = 64 * 1024


class TlsSocket:
    """What `http.client`, urllib3 and `Wire` use of a socket.

    Its time-out is that of the socket below, and an end without notice is an `ssl.SSLEOFError`.
    """

    def __init__(self, sock: socket, context: ssl.SSLContext, host: str) -> None:
        """Shake hands with the server `host`. The caller closes the socket after an error.

        :raises ssl.SSLError, OSError: there is no such connection.
        """
        self._sock = sock
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=host)
        self._block = memoryview(bytearray(_FIRST_READ))
        self._failure: ssl.SSLError | None = None
        self._complete(self._tls.do_handshake)

    def recv_into(self, buffer: Any) -> int:
        """Wait for bytes, and take what one look at the socket brought; 0 at the end.

        :raises ssl.SSLWantReadError: there are none yet, and the socket does not wait.
        """
        if self._failure is not None:
            raise self._failure
        view = memoryview(buffer).cast("B")
        count = int(self._complete(self._tls.read, len(view), view))
        try:
            while 0 < count < len(view) and (
                more := self._tls.read(len(view) - count, view[count:])
            ):
                count += int(more)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._failure = error  # what came before it is good
        return count

    def sendall(self, data: Any, flags: int = 0) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[self._complete(self._tls.write, view[:_PIECE]) :]

    @property
    def unread(self) -> bool:
        """Whether something came that nobody has read."""
        return self._received.pending > 0 or self._tls.pending() > 0

    def pending(self) -> int:
        """Bytes that are decrypted already."""
        return self._tls.pending()

    def _complete(self, call: Callable[..., T], *arguments: Any) -> T:
        """What `call` returns, once OpenSSL has received and sent what it needs for that.

        All of that must be done within the socket's time-out, as with `ssl.SSLSocket`.
        """
        seconds, due = self._sock.gettimeout(), None
        try:
            while True:
                try:
                    found = call(*arguments)
                    break
                except ssl.SSLWantReadError:
                    self._flush()
                    if due is not None:
                        self._sock.settimeout(_left(due))
                    elif seconds:
                        due = monotonic() + seconds
                    self._receive()
                except ssl.SSLError:
                    self._say_why()
                    raise
        finally:
            if due is not None:
                self._sock.settimeout(seconds)
        self._flush()
        return found

    def _receive(self) -> None:
        try:
            count = self._sock.recv_into(self._block)
        except BlockingIOError as error:
            raise ssl.SSLWantReadError(str(error)) from error
        if not count:
            self._received.write_eof()
            return
        self._received.write(self._block[:count])
        if count == len(self._block) < _MAX_READ:
            self._block = memoryview(bytearray(_MAX_READ))

    def _flush(self) -> None:
        if self._to_send.pending:
            self._sock.sendall(self._to_send.read())

    def _say_why(self) -> None:
        """Send the server the alert about its mistake, if it still listens."""
        try:
            self._flush()
        except OSError:
            pass

    # -- of the socket below ---------------------------------------------------------------------

    def makefile(self, *mode: Any, **how: Any) -> Any:
        """Keeps the descriptor open; is not for reading."""
        return self._sock.makefile(*mode, **how)

    def settimeout(self, seconds: float | None) -> None:
        self._sock.settimeout(seconds)

    def gettimeout(self) -> float | None:
        return self._sock.gettimeout()

    def setsockopt(self, *option: Any) -> None:
        self._sock.setsockopt(*option)

    def fileno(self) -> int:
        return self._sock.fileno()

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()


def _left(due: float) -> float:
    """Seconds until then. :raises TimeoutError: there are none, however fast the server sends."""
    if (seconds := due - monotonic()) <= 0:
        raise TimeoutError("timed out")
    return seconds
