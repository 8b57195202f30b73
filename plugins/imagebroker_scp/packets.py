"""paramiko's packets and transport, held to limits on time, memory and algorithms.

paramiko waits without limit for several answers, believes every length that a peer sends, buffers
whatever arrives, keeps a timer thread after a failed handshake, and blocks its own thread when it
must answer during a key exchange. `Packets` and `Transport` replace just these parts.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.packet import NeedRekeyException, Packetizer

from imagebroker.plugin import printable, redact

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: Bytes that a server may send ahead on a channel.
CHANNEL_WINDOW = 6 * 1024 * 1024
#: Data in one packet of a channel. Larger ones are no faster, and slow peers look dead meanwhile.
CHANNEL_PACKET = 32 * 1024
#: Longest packet that is accepted (OpenSSH sends at most 256 KiB).
MAX_PACKET = 256 * 1024 + 4096
_RECEIVED = 128 * 1024
#: Bytes that may come before the server's version line, and with it.
MAX_BANNER = 16 * 1024

CIPHERS = (
    "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr",
)  # fmt: skip
MACS = (
    "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256", "hmac-sha2-512",
)  # fmt: skip
KEY_EXCHANGES = (
    "mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512", "diffie-hellman-group-exchange-sha256",
    "diffie-hellman-group14-sha256",
)  # fmt: skip
HOST_KEYS = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "rsa-sha2-512", "rsa-sha2-256",
)  # fmt: skip
#: With SHA-1, or DSA: paramiko before 4.0 still signs with them.
WEAK_SIGNATURES = (
    "ssh-rsa", "ssh-dss", "ssh-rsa-cert-v01@openssh.com", "ssh-dss-cert-v01@openssh.com",
)  # fmt: skip

# Numbers of messages (RFC 4250, section 4.1).
_DISCONNECT, _EXT_INFO, _INFO_REQUEST, _CHANNEL_DATA, _CHANNEL_EXTENDED = 1, 7, 60, 94, 95
_WATCHED = frozenset({_DISCONNECT, _EXT_INFO, _INFO_REQUEST, _CHANNEL_DATA, _CHANNEL_EXTENDED})
_WINDOW_ADJUST = 93

#: paramiko's log. It has a handler of its own, so that nothing comes to a terminal uninvited.
LOG = logging.getLogger("imagebroker_scp.ssh")
LOG.addHandler(logging.NullHandler())


class _Discretion(logging.Filter):
    """Makes paramiko's records fit to be read.

    It reports whatever a peer does wrong with a traceback at ERROR, in the peer's own words. That
    is in the exception already: here it is for those who debug, on one short line each.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not LOG.isEnabledFor(logging.DEBUG):
            return False
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        record.msg, record.args = redact(record.getMessage()), None
        return True


LOG.addFilter(_Discretion())


class Stalled(paramiko.SSHException):
    """A limit on time ran out."""


class Prompted(paramiko.SSHException):
    """The server wants to ask a person."""


class ProtocolViolation(paramiko.SSHException):
    """The server sends what no server should."""


class Packets(Packetizer):
    """Packets from and to a peer that is not trusted with anything."""

    # 2^30 blocks of AES. RFC 4344 and OpenSSH allow 2^32, paramiko asks after 2^25 (512 MiB); fewer
    # exchanges are fewer chances to meet a peer that cannot do one in the middle of a transfer.
    REKEY_BYTES = 1 << 34

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._sock = sock
        # What was received, and how much of it has been handed on.
        self._ahead, self._at = b"", 0
        self._banner = 0
        #: When the operation under way has taken too long (`time.monotonic`).
        self.deadline: float | None = None
        #: What the server said when it disconnected.
        self.goodbye: tuple[int, str] | None = None
        #: Why no more packets will come.
        self.failure: Exception | None = None
        # Bytes of channel data: those that the server may send in all, and those that it has sent.
        self._granted = CHANNEL_WINDOW
        self._arrived = 0

    def read_message(self) -> tuple[int, paramiko.Message]:
        kind, message = super().read_message()
        if kind in _WATCHED:
            try:
                self._inspect(kind, message)
            finally:
                message.rewind()
        return kind, message

    def send_message(self, data: paramiko.Message) -> None:
        content = data.asbytes()
        if content[0] == _WINDOW_ADJUST:
            self._granted += int.from_bytes(content[5:9], "big")
        super().send_message(data)

    def _inspect(self, kind: int, message: paramiko.Message) -> None:
        """Look at what paramiko takes as it comes."""
        if kind in (_CHANNEL_DATA, _CHANNEL_EXTENDED):
            head = 4 if kind == _CHANNEL_DATA else 8
            size = len(message.asbytes()) - head - 4
            message.get_bytes(head)
            self._arrived += size
            # paramiko fills up with zeros what a packet lacks, and does not watch the window.
            if size != message.get_int() or self._arrived > self._granted:
                raise self._fail(ProtocolViolation("the server ignores the channel's limits"))
        elif kind == _DISCONNECT:
            code, text = message.get_int(), message.get_string().decode("utf-8", "replace")
            self.goodbye = code, printable(text, 256)
        elif kind == _INFO_REQUEST:
            raise self._fail(Prompted("the server asks for a password"))
        elif message.get_int() > 1024:
            # paramiko would count to 2^32.
            raise self._fail(ProtocolViolation("the server announces too many extensions"))

    def readline(self, timeout: float) -> str:
        """A line before or with the server's version; `deadline` bounds it, not `timeout`."""
        while (end := self._ahead.find(b"\n", self._at)) < 0:
            if self._banner + len(self._ahead) - self._at > MAX_BANNER:
                error = f"more than {MAX_BANNER} bytes before the SSH version"
                raise self._fail(ProtocolViolation(error))
            self._ahead += self._receive(256)
        line, self._at = self._ahead[self._at : end], end + 1
        self._banner += len(line) + 1
        text = line.removesuffix(b"\r").decode("utf-8", "replace")
        if text.startswith("SSH-") and not (text.startswith("SSH-2.0-") and _plain(text)):
            error = f"the version {printable(text, 64)!r} is not one of SSH 2.0"
            raise self._fail(ProtocolViolation(error))
        return printable(text, 256)

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if not 0 <= n <= MAX_PACKET:
            raise self._fail(ProtocolViolation(f"the server announces a packet of {n} bytes"))
        pieces, missing = [], n
        while True:
            piece = self._ahead[self._at : self._at + missing]
            self._at += len(piece)
            pieces.append(piece)
            missing -= len(piece)
            if not missing:
                return b"".join(pieces)
            untouched = check_rekey and missing == n
            # Several packets at a time: the system calls were a good part of the work.
            self._ahead = self._receive(_RECEIVED, self.need_rekey if untouched else None)
            self._at = 0

    def _receive(self, count: int, interrupted: Callable[[], bool] | None = None) -> bytes:
        """At least one byte. A yes to `interrupted` ends the wait."""
        while True:
            try:
                data = self._sock.recv(count)
            except (TimeoutError, BlockingIOError):  # paramiko's own, of 0.1 s
                self._look_around()
                if interrupted is not None and interrupted():
                    raise NeedRekeyException from None
                continue
            except OSError as error:
                raise self._fail(EOFError(error.strerror)) from error
            self._look_around()
            if not data:
                raise self._fail(EOFError())
            return data

    def write_all(self, out: ReadableBuffer) -> None:
        view = memoryview(out)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except (TimeoutError, BlockingIOError):
                pass
            except OSError as error:
                raise self._fail(EOFError(error.strerror)) from error
            self._look_around()

    def _look_around(self) -> None:
        if self.closed:
            raise self._fail(EOFError())
        if self.deadline is not None and monotonic() > self.deadline:
            raise self._fail(Stalled("no progress"))

    def _fail(self, error: Exception) -> Exception:
        # The first is the cause; and paramiko turns some into others on their way up.
        self.failure = self.failure or error
        return error

    def start_handshake(self, timeout: float) -> None:
        """Nothing: `deadline` bounds the handshake, and paramiko's timer would outlive it."""


class Transport(paramiko.Transport):
    """paramiko's transport with strong algorithms only, and without a deadlock (paramiko #822)."""

    packetizer: Packets
    agreed_on_strict_kex: bool

    def __init__(self, sock: socket.socket, known_types: Sequence[str], patience: float) -> None:
        """`known_types`: of the host's keys, to be preferred; `patience` in seconds."""
        super().__init__(
            sock,
            packetizer_class=Packets,
            default_window_size=CHANNEL_WINDOW,
            default_max_packet_size=CHANNEL_PACKET,
            disabled_algorithms={"pubkeys": WEAK_SIGNATURES, "keys": WEAK_SIGNATURES},
        )
        self.set_log_channel(LOG.name)
        self.packetizer.set_log(LOG)
        options = self.get_security_options()
        options.ciphers = _ours(CIPHERS, options.ciphers)
        options.digests = _ours(MACS, options.digests)
        options.kex = _ours(KEY_EXCHANGES, options.kex)
        wanted = sorted(HOST_KEYS, key=lambda name: _signs(name) not in known_types)
        self._host_key_types = options.key_types = _ours(wanted, options.key_types)
        self.auth_timeout = self.clear_to_send_timeout = 2 * patience
        self._postponed: list[Any] = []

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Plain keys only: paramiko takes a certificate's key without looking at its authority."""
        return self._host_key_types

    def _send_user_message(self, data: Any) -> None:
        # When paramiko's own thread must answer (a keep-alive, a channel that closes) during a key
        # exchange that it began, it waits here for what only it could bring about.
        if threading.current_thread() is self and not self.clear_to_send.is_set():
            self._postponed.append(data)
            return
        super()._send_user_message(data)  # type: ignore[misc]

    def _parse_newkeys(self, m: Any) -> None:
        super()._parse_newkeys(m)  # type: ignore[misc]
        postponed, self._postponed = self._postponed, []
        for message in postponed:
            self._send_user_message(message)


def _ours(wanted: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """Those of `wanted` that this paramiko knows, in our order."""
    return tuple(name for name in wanted if name in available)


def _signs(algorithm: str) -> str:
    """The type of the key that makes such signatures."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _plain(text: str) -> bool:
    return len(text) <= 255 and text.isascii() and text.isprintable()
