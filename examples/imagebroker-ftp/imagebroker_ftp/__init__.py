"""Images behind ftp: refs: read-only, resumable, with the standard library's FTP client.

FTP sends everything in the clear, and has no strong sign that a file is the same: a download is
verified only against a checksum of the caller's (or `require_checksum`).
"""

from __future__ import annotations

import ftplib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from oslo_config import cfg

from imagebroker.plugin import (
    BackendError,
    BackendHost,
    Buffer,
    ConfigError,
    Image,
    ImageBackend,
    ImageChanged,
    ImageNotFound,
    ImageRef,
    ImageSource,
    NotAuthorized,
    RangeIgnored,
    RefForm,
    TransferError,
    printable,
)

OPTIONS = [
    cfg.StrOpt(
        "username",
        help="User to log in as, at the servers that endpoint names and at no others. "
        "Elsewhere, and without it, the login is anonymous."),
    cfg.StrOpt(
        "password", secret=True,
        help="Password to log in with. FTP sends it in the clear."),
]  # fmt: skip

_PORT = 21
_CHUNK = 256 * 1024


class FtpBackend(ImageBackend):
    """Serves the refs of ftp."""

    api_version = 1
    name = "ftp"
    ref_form = RefForm(host=True, port=True, path=True, forbidden=b"\r\n")
    options = OPTIONS

    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        if host.options.username and not host.options.endpoint:
            raise ConfigError(
                "[backend:ftp] username is set, and no endpoint",
                hint="set endpoint to the URL prefix that user and password are for",
            )

    def open(self, context: object, ref: ImageRef) -> ImageSource:
        return FtpSource(self.host, ref)


class FtpSource(ImageSource):
    """One file. Each `read` after the first has a session of its own."""

    def __init__(self, host: BackendHost, ref: ImageRef) -> None:
        self._host, self._ref = host, ref
        self._closed = False
        self._session: Session | None = Session(host, ref)
        self._facts = self._session.facts
        self.seekable = self._session.restarts
        self.image = Image(ref=ref.text, size=self._facts[0])

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        session, self._session = self._session or self._again(), None
        self._live = session
        with session:
            if self._closed:  # in the meantime, by another thread, which saw no session to close
                raise TransferError(f"{self._ref} was closed", retryable=False)
            size = self._facts[0]
            end = size if stop is None else stop
            if end is None or start < end:
                yield from session.bytes(start, end)

    def _again(self) -> Session:
        """A new session, in which the file is what it was."""
        session = Session(self._host, self._ref)
        if session.facts != self._facts:
            session.close()
            raise ImageChanged(
                f"{self._ref} was changed on the server while it was read",
                hint="download it again once nobody writes to it",
            )
        return session

    def close(self) -> None:
        self._closed = True
        for session in (self._session, getattr(self, "_live", None)):
            if session is not None:
                session.close()


class Session:
    """A login, and one file of that server."""

    def __init__(self, host: BackendHost, ref: ImageRef) -> None:
        """:raises ImageNotFound, NotAuthorized, TransferError: as the server says."""
        self._ref = ref
        self._client = _Client(host, ref.host or "")
        self._data: socket.socket | None = None
        self._closed = False
        # As bytes of the ref: no server's idea of an encoding gets in between.
        self._path = ref.path_bytes.decode("latin-1")
        try:
            with self._errors():
                self._client.log_in(ref.port or _PORT, *_credentials(host, ref))
                self._client.voidcmd("TYPE I")
                #: Size and time of change, as far as the server says.
                self.facts = self._client.size(self._path), self._modified()
                #: Whether the server can begin in the middle.
                self.restarts = self._can_restart()
        except BaseException:
            self.close()
            raise

    def _modified(self) -> str | None:
        try:
            return self._client.sendcmd(f"MDTM {self._path}")
        except ftplib.error_perm:
            return None

    def _can_restart(self) -> bool:
        try:
            return self._client.sendcmd("REST 0").startswith("350")
        except ftplib.error_perm:
            return False

    def bytes(self, start: int, end: int | None) -> Iterator[Buffer]:
        """The bytes from `start` to `end`, or to the end of the file where nobody knows it."""
        position = start
        with self._errors():
            try:
                self._data = self._client.transfercmd(f"RETR {self._path}", rest=start or None)
            except ftplib.error_perm as error:
                if start:
                    raise RangeIgnored(f"{self._ref}: {_said(error)}") from error
                raise
            if self._closed:  # by another thread, which saw no connection for data yet
                raise TransferError(f"{self._ref} was closed", retryable=False)
            while end is None or position < end:
                room = _CHUNK if end is None else min(_CHUNK, end - position)
                chunk = self._data.recv(room)
                if not chunk:
                    break
                position += len(chunk)
                yield chunk
            if end is None:
                self._client.voidresp()  # the server's word that this was all
        if end is not None and position < end:
            raise TransferError(
                f"{self._ref}: the bytes end at {position} of {end}",
                hint="the connection was cut, or the file is still being written; try again",
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Make what the client raises ours, also while bytes arrive."""
        try:
            yield
        except ftplib.error_perm as error:
            raise _refused(self._ref, error) from error
        except ftplib.error_temp as error:
            raise BackendError(
                f"{self._ref}: {_said(error)}", hint="the server is in trouble; try again later"
            ) from error
        except (ftplib.Error, EOFError, OSError, ValueError) as error:
            raise TransferError(
                f"{self._ref}: the connection broke: {_said(error)}",
                hint="check the server and the network; try again",
            ) from error

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """From any thread; whoever waits here then ends."""
        self._closed = True
        _end(self._data)
        _end(self._client.sock)
        self._client.let_go()


class _Client(ftplib.FTP):
    """The standard library's client, whose connections all come from the facade."""

    encoding = "latin-1"

    def __init__(self, host: BackendHost, server: str) -> None:
        super().__init__(encoding="latin-1")
        self._facade, self._server = host, server

    def log_in(self, port: int, user: str, password: str) -> None:
        self.sock = self._facade.connect(self._server, port)
        self.af = self.sock.family
        self.file = self.sock.makefile("r", encoding="latin-1")
        self.welcome = self.getresp()
        self.login(user, password)

    def ntransfercmd(
        self, cmd: str, rest: int | str | None = None
    ) -> tuple[socket.socket, int | None]:
        # The port that the server names, and never the address: that would be a redirect.
        _, port = self.makepasv()
        data = self._facade.connect(self._server, port)
        try:
            if rest is not None:
                self.sendcmd(f"REST {rest}")
            answer = self.sendcmd(cmd)
            if not answer.startswith("1"):
                raise ftplib.error_reply(answer)  # noqa: S321 - what FTP is, the README says
        except BaseException:
            data.close()
            raise
        return data, None

    def let_go(self) -> None:
        if self.file is not None:
            self.file.close()
        if self.sock is not None:
            self.sock.close()


def _end(sock: socket.socket | None) -> None:
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already
        sock.close()


def _credentials(host: BackendHost, ref: ImageRef) -> tuple[str, str]:
    """User and password for the configured servers, and nobody's for all others."""
    where = ref.host, ref.port or _PORT
    for prefix in host.options.endpoint:
        url = urlsplit(prefix)
        ours = url.scheme == "ftp" and (url.hostname, url.port or _PORT) == where
        if ours and host.options.username:
            return host.options.username, host.options.password or ""
    return "anonymous", "anonymous@"


def _refused(ref: ImageRef, error: ftplib.error_perm) -> ImageNotFound | NotAuthorized:
    if str(error).startswith("550"):
        return ImageNotFound(f"{ref}: {_said(error)}", hint="check the path")
    return NotAuthorized(
        f"{ref}: {_said(error)}", hint="set username, password and endpoint in [backend:ftp]"
    )


def _said(error: BaseException) -> str:
    return printable(str(error), 200)
