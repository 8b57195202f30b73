"""paramiko's packets and transport, with limits on time, memory and algorithms.

paramiko waits without limit for several answers, believes every length that a peer sends, buffers
whatever arrives, keeps a timer thread after a failed handshake, blocks its own thread when it
must answer during a key exchange, and copies each byte six times. `Packets` and `Transport` replace
just these parts.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import paramiko
from cryptography.exceptions import InvalidTag
from paramiko.packet import NeedRekeyException, Packetizer

from imagebroker.plugin import printable, redact
from imagebroker_scp.arrivals import Arrivals, Inbox, Seals
from imagebroker_scp.key_lifetime import KeyLifetime

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: Bytes that a server may send ahead on a channel.
CHANNEL_WINDOW = 6 * 1024 * 1024
#: Data in one packet of a channel. Larger ones are no faster, and slow peers look dead meanwhile.
CHANNEL_PACKET = 32 * 1024
#: Longest packet that is accepted (OpenSSH sends at most 256 KiB).
MAX_PACKET = 256 * 1024 + 4096
#: Bytes that may come before the server's version line, and with it.
MAX_BANNER = 16 * 1024
#: Bytes on the standard error that are borne with.
MAX_COMPLAINT = 64 * 1024

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

#: paramiko's log. Its own handler keeps paramiko's messages off the terminal.
LOG = logging.getLogger("imagebroker_scp.ssh")
LOG.addHandler(logging.NullHandler())


class _RedactingFilter(logging.Filter):
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


LOG.addFilter(_RedactingFilter())


class Stalled(paramiko.SSHException):
    """A timeout was exceeded."""


class InteractivePrompt(paramiko.SSHException):
    """The server asks for a password or another input."""


class TooMuchErrorOutput(paramiko.SSHException):
    """The server wrote too much to standard error."""


class ProtocolViolation(paramiko.SSHException):
    """The server violates the protocol."""


class Packets(Packetizer):
    """Packets from and to an untrusted server."""

    def __init__(self, sock: socket.socket, keys: KeyLifetime, own_reader: bool) -> None:
        super().__init__(sock)
        #: Whether packets of AES-GCM are opened here; otherwise paramiko does that.
        self.own_reader = own_reader
        # Whether the server has encrypted with AES-GCM.
        self._sealed = False
        # paramiko's own checks go by these.
        self.REKEY_BYTES, self.REKEY_BYTES_OVERFLOW_MAX = keys.due, keys.grace
        self._sock = sock
        # What was received and not yet handed on; long enough for the longest packet and its MAC.
        self._arrivals = Arrivals(2 * MAX_PACKET)
        self._banner = 0
        #: When the operation under way has taken too long (`time.monotonic`).
        self.deadline: float | None = None
        #: What the server said when it disconnected.
        self.goodbye: tuple[int, str] | None = None
        #: Why no more packets will come.
        self.failure: Exception | None = None
        #: The beginning of what it wrote to the standard error.
        self.complaint = b""
        self._complained = 0
        #: Whether keys are being exchanged: then there is no data.
        self.in_exchange = False
        # Takes the data of one channel past paramiko, which would copy each byte five times more.
        self._inbox: Inbox | None = None
        self._inbox_head = b""
        self._seals: Seals | None = None
        self._rekeying = False
        # Bytes under one key after which a server that has not agreed on new ones is hung up on.
        self._overdue = 0
        # The number of the next packet.
        self._sequence = 0
        # Bytes of channel data: those that the server may send in all, and those that it has sent.
        self._granted = CHANNEL_WINDOW
        self._arrived = 0

    def deliver(self, channel: int, inbox: Inbox) -> None:
        """From now on the data of this channel go to `inbox`; for the own reader."""
        self._inbox_head = bytes([_CHANNEL_DATA]) + channel.to_bytes(4, "big")
        self._inbox = inbox

    def set_inbound_cipher(self, block_engine: Any, *how: Any, **more: Any) -> None:
        super().set_inbound_cipher(block_engine, *how, **more)
        if not more.get("aead"):
            if self._sealed:
                # Nor has paramiko counted the packets, which it needs for their MACs.
                raise self._fail(
                    ProtocolViolation("the server stopped using AES-GCM during the session")
                )
            return
        self._sealed = True
        if self.own_reader:
            self._seals = Seals(block_engine, more["iv_in"])

    def reset_seqno_in(self) -> None:
        super().reset_seqno_in()
        self._sequence = 0

    def read_message(self) -> tuple[int, paramiko.Message]:
        kind, message = (
            self._read_plain() if self._seals is None else self._read_sealed(self._seals)
        )
        if kind in _WATCHED:
            try:
                self._inspect(kind, message)
            finally:
                message.rewind()
        return kind, message

    def _read_plain(self) -> tuple[int, paramiko.Message]:
        kind, message = super().read_message()
        self._sequence = message.seqno + 1
        return kind, message

    def _read_sealed(self, seals: Seals) -> tuple[int, paramiko.Message]:
        """The next message that is not data of the channel that has an inbox.

        :raises NeedRekeyException: once, when new keys are due.
        """
        taken: list[memoryview] = []
        try:
            while True:
                self._check_age(seals)
                payload = self._next_payload(seals, taken)
                number, self._sequence = self._sequence, (self._sequence + 1) & 0xFFFFFFFF
                if self._inbox is None or payload[:5] != self._inbox_head or self.in_exchange:
                    message = paramiko.Message(bytes(payload[1:]))
                    message.seqno = number
                    return payload[0], message
                data = payload[9:]
                self._count(len(data), int.from_bytes(payload[5:9], "big"))
                taken.append(data)
        finally:
            self._hand_over(taken)

    def _next_payload(self, seals: Seals, taken: list[memoryview]) -> memoryview:
        """Open the next packet; what was `taken` is handed over before a wait."""
        arrivals = self._arrivals
        while (payload := self._opened(seals)) is None:
            if seals.announced > MAX_PACKET:
                what = f"the server announces a packet of {seals.announced} bytes"
                raise self._fail(ProtocolViolation(what))
            self._hand_over(taken)
            self._receive(self.need_rekey if not arrivals else None)
        return payload

    def _opened(self, seals: Seals) -> memoryview | None:
        try:
            return seals.open_next(self._arrivals)
        except (InvalidTag, ValueError) as error:
            raise self._fail(paramiko.SSHException("a packet was damaged in transit")) from error

    def _hand_over(self, taken: list[memoryview]) -> None:
        if taken and self._inbox is not None:
            self._inbox.put(taken)
            taken.clear()

    def _check_age(self, seals: Seals) -> None:
        """Have new keys made when they are due, and see that the server joins in."""
        due = seals.bytes >= self.REKEY_BYTES or seals.packets >= self.REKEY_PACKETS
        if due and not self.need_rekey():
            self._trigger_rekey()  # type: ignore[attr-defined]
        if not self.need_rekey():
            self._rekeying = False
        elif not self._rekeying:
            self._rekeying, self._overdue = True, seals.bytes + self.REKEY_BYTES_OVERFLOW_MAX
            raise NeedRekeyException
        elif seals.bytes > self._overdue:
            raise self._fail(ProtocolViolation("the server does not agree on new keys"))

    def send_message(self, data: paramiko.Message) -> None:
        content = data.asbytes()
        if content[0] == _WINDOW_ADJUST:
            self._granted += int.from_bytes(content[5:9], "big")
        super().send_message(data)

    def _inspect(self, kind: int, message: paramiko.Message) -> None:
        """Look at what paramiko takes as it comes."""
        if kind in (_CHANNEL_DATA, _CHANNEL_EXTENDED):
            head = 4 if kind == _CHANNEL_DATA else 8
            message.get_bytes(head)
            size = len(message.asbytes()) - head - 4
            self._count(size, message.get_int())
            if kind == _CHANNEL_EXTENDED:
                self._note_complaint(message.asbytes()[head + 4 :])
        elif kind == _DISCONNECT:
            code, text = message.get_int(), message.get_string().decode("utf-8", "replace")
            self.goodbye = code, printable(text, 256)
        elif kind == _INFO_REQUEST:
            raise self._fail(InteractivePrompt("the server asks for a password"))
        elif message.get_int() > 1024:
            # paramiko would count to 2^32.
            raise self._fail(ProtocolViolation("the server announces too many extensions"))

    def _note_complaint(self, text: bytes) -> None:
        self._complained += len(text)
        self.complaint = (self.complaint + text)[:1024]
        if self._complained > MAX_COMPLAINT:
            raise self._fail(TooMuchErrorOutput("too much on the standard error"))

    def _count(self, size: int, announced: int) -> None:
        """Hold `size` bytes of channel data to what was announced, and to the window."""
        self._arrived += size
        # paramiko fills up with zeros what a packet lacks, and watches neither size nor window.
        if size != announced or size > CHANNEL_PACKET or self._arrived > self._granted:
            raise self._fail(ProtocolViolation("the server ignores the channel's limits"))

    def readline(self, timeout: float) -> str:
        """A line before or with the server's version; `deadline` bounds it, not `timeout`."""
        while (line := self._arrivals.take_line()) is None:
            self._check_banner_length(len(self._arrivals))
            self._receive(most=256)
        self._banner += len(line) + 1
        self._check_banner_length(0)
        text = line.removesuffix(b"\r").decode("utf-8", "replace")
        if text.startswith("SSH-") and not (text.startswith("SSH-2.0-") and _plain(text)):
            error = f"the version {printable(text, 64)!r} is not one of SSH 2.0"
            raise self._fail(ProtocolViolation(error))
        return printable(text, 256)

    def _check_banner_length(self, further: int) -> None:
        if self._banner + further > MAX_BANNER:
            error = f"more than {MAX_BANNER} bytes before the SSH version"
            raise self._fail(ProtocolViolation(error))

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if not 0 <= n <= MAX_PACKET:
            raise self._fail(ProtocolViolation(f"the server announces a packet of {n} bytes"))
        while len(self._arrivals) < n:
            untouched = check_rekey and not self._arrivals
            self._receive(self.need_rekey if untouched else None)
        return bytes(self._arrivals.take(n))

    def _receive(
        self, interrupted: Callable[[], bool] | None = None, most: int = MAX_PACKET
    ) -> None:
        """At least one byte. A yes to `interrupted` ends the wait."""
        while True:
            try:
                count = self._arrivals.receive(self._sock, most)
            except (TimeoutError, BlockingIOError):  # paramiko's own, of 0.1 s
                self._look_around()
                if interrupted is not None and interrupted():
                    raise NeedRekeyException from None
                continue
            except OSError as error:
                raise self._fail(EOFError(error.strerror)) from error
            self._look_around()
            if not count:
                raise self._fail(EOFError())
            return

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

    def __init__(
        self,
        sock: socket.socket,
        known_types: Sequence[str],
        patience: float,
        keys: KeyLifetime,
        *,
        own_reader: bool,
    ) -> None:
        """`known_types`: of the host's keys, to be preferred; `patience` in seconds."""
        super().__init__(
            sock,
            packetizer_class=partial(Packets, keys=keys, own_reader=own_reader),  # type: ignore[arg-type]
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
        self._deferred: list[Any] = []

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Plain keys only: paramiko takes a certificate's key without looking at its authority."""
        return self._host_key_types

    def _negotiate_keys(self, m: Any) -> None:
        self.packetizer.in_exchange = True
        super()._negotiate_keys(m)  # type: ignore[misc]

    def _send_user_message(self, data: Any) -> None:
        # When paramiko's own thread must answer (a keep-alive, a channel that closes) during a key
        # exchange that it began, it waits here for what only it could bring about.
        if threading.current_thread() is self and not self.clear_to_send.is_set():
            self._deferred.append(data)
            return
        super()._send_user_message(data)  # type: ignore[misc]

    def _parse_newkeys(self, m: Any) -> None:
        super()._parse_newkeys(m)  # type: ignore[misc]
        self.packetizer.in_exchange = False
        deferred, self._deferred = self._deferred, []
        for message in deferred:
            self._send_user_message(message)


def _ours(wanted: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """Those of `wanted` that this paramiko knows, in our order."""
    return tuple(name for name in wanted if name in available)


def _signs(algorithm: str) -> str:
    """The type of the key that makes such signatures."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _plain(text: str) -> bool:
    return len(text) <= 255 and text.isascii() and text.isprintable()
