"""An SSH connection with one channel: its server is verified, and every wait has a timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import paramiko

from imagebroker.plugin import (
    BackendHost,
    ImageBrokerError,
    NotAuthorized,
    PolicyViolation,
    TransferError,
    TransferTimeout,
    printable,
)
from imagebroker_scp.arrivals import Inbox
from imagebroker_scp.credentials import Offer
from imagebroker_scp.key_lifetime import KeyLifetime
from imagebroker_scp.known_hosts import HostKeys
from imagebroker_scp.packets import (
    CHANNEL_PACKET,
    CHANNEL_WINDOW,
    InteractivePrompt,
    ProtocolViolation,
    Stalled,
    TooMuchErrorOutput,
    Transport,
)

#: Seconds added to paramiko's timeouts, so that ours always come first.
_GRACE = 0.25
#: More than a channel can hold: receives everything that has arrived, in one copy.
_EVERYTHING = 1 << 30
#: Bytes sent within one timeout, so that a slow server does not look dead.
_PIECE = 32 * 1024
#: RFC 4253, section 11.1: no more authentication methods available.
_NO_MORE_METHODS = 14
#: The text of OpenSSH and of Go's servers, which use another code.
_TOO_MANY = "too many authentication failures"


@dataclass(frozen=True)
class Peer:
    """The server to connect to, and the user to log in as."""

    host: str
    port: int
    user: str

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


class NoSftp(TransferError):
    """The server has no sftp subsystem."""

    retryable = False


class Connection:
    """A channel to a server with a known key. A `Stream`, with `send` and `receive`."""

    def __init__(
        self,
        host: BackendHost,
        peer: Peer,
        known: HostKeys,
        offer: Offer,
        *,
        strict_kex: bool,
        keys: KeyLifetime,
        own_reader: bool,
        command: bytes | None = None,
    ) -> None:
        """Connect, verify the server's key, log in, and start the sftp subsystem or run `command`.

        :raises PolicyViolation: the server's key is not in `known`; no user name or key was sent.
        :raises NotAuthorized: the server refuses our keys.
        :raises NoSftp: it has no sftp subsystem.
        :raises TransferError: it cannot be reached, or its SSH is not acceptable.
        """
        self._peer, self._offer = peer, offer
        self._tried = 0
        self._patience = host.limits.stall_timeout
        self._closing = threading.Lock()
        self._sock = host.connect(peer.host, peer.port)
        try:
            self._transport = Transport(
                self._sock, known.types, self._patience, keys, own_reader=own_reader
            )
            self._packets = self._transport.packetizer
        except BaseException:
            self._sock.close()
            raise
        try:
            self._handshake(known, strict_kex)
            self._log_in()
            self._channel = self._open_channel()
            self._start(command)
        except BaseException:
            self.close()
            raise

    def _handshake(self, known: HostKeys, strict_kex: bool) -> None:
        with self._stage("exchanging keys"):
            self._transport.start_client()
            key = self._transport.get_remote_server_key()
        self._check_host_key(key, known)
        if strict_kex and not self._transport.agreed_on_strict_kex:
            raise TransferError(
                f"{self._peer} does not support strict key exchange, which protects against "
                "Terrapin",
                hint="update the server (OpenSSH 9.6 or later), or set require_strict_kex = false",
                retryable=False,
            )

    def _check_host_key(self, key: paramiko.PKey, known: HostKeys) -> None:
        shown = key.asbytes()
        if shown in known.revoked:
            raise PolicyViolation(
                f"the host key {_fingerprint(key)} of {self._peer} is revoked in known_hosts",
                hint="do not connect: ask the server's admin for its new key",
            )
        if not known.includes(shown):
            raise PolicyViolation(
                f"the host key of {self._peer} is not the one in known_hosts: {key.get_name()} "
                f"{_fingerprint(key)}",
                hint="someone may be intercepting the connection: ask the server's admin whether "
                "its key was changed, and only then replace its lines in known_hosts",
            )

    def _log_in(self) -> None:
        for identity in self._offer.identities:
            self._tried += 1
            with self._stage("logging in"):
                try:
                    further = self._transport.auth_publickey(self._peer.user, identity.key)
                except paramiko.AuthenticationException:
                    if self._transport.is_active():
                        continue  # refused: try the next key
                    raise
            if further:
                raise self._refusal(
                    f"requires {printable(', '.join(further), 64)} in addition to the key"
                )
            return
        several = self._tried > 1
        raise self._refusal(f"refuses all {self._tried} keys" if several else "refuses the key")

    def _refusal(self, what: str) -> NotAuthorized:
        names = ", ".join(each.name for each in self._offer.identities[: self._tried])
        passed_over = "".join(f"; {each}" for each in self._offer.passed_over)
        return NotAuthorized(
            f"{self._peer} {what} of user {self._peer.user} ({names}){passed_over}",
            hint=self._remedy(),
        )

    def _remedy(self) -> str:
        offer, user = self._offer, self._peer.user
        tried = offer.identities[: self._tried]
        if self._tried < len(offer.identities) and offer.in_agent:
            return (
                "remove other keys from the ssh agent, and add the right one: "
                "ssh-add -D && ssh-add KEY"
            )
        if any(each.fails_to_sign for each in tried):
            return "unlock the ssh agent with ssh-add -X, or confirm its prompt: it does not sign"
        if offer.passed_over:
            return offer.passed_over[0].remedy
        return (
            f"add the public key of {tried[0].name if tried else 'identity_file'} to "
            f"~/.ssh/authorized_keys of {user} on the server, or check the user name"
        )

    def _too_many(self, text: str) -> NotAuthorized:
        offer = self._offer
        if len(offer.identities) == 1:
            return self._refusal(f"disconnected ({text}) after the key")
        held = f", and the ssh agent holds {offer.in_agent}" if offer.in_agent else ""
        count = f"{self._tried} of {len(offer.identities)} keys"
        return self._refusal(f"disconnected ({text}) after {count}{held}: those")

    def _open_channel(self) -> paramiko.Channel:
        with self._stage("opening a channel"):
            channel = self._transport.open_session(
                CHANNEL_WINDOW, CHANNEL_PACKET, timeout=self._patience + _GRACE
            )
            channel.settimeout(self._patience + _GRACE)
        # paramiko adjusts the window after a tenth of it: that would be three packets per MiB.
        channel.in_window_threshold = CHANNEL_WINDOW // 4
        if self._packets.own_reader:
            inbox = channel.in_buffer = Inbox()
            self._packets.deliver(channel.chanid, inbox)
        return channel

    def _start(self, command: bytes | None) -> None:
        if command is None:
            with self._stage("starting the sftp subsystem"):
                self._ask(lambda: self._channel.invoke_subsystem("sftp"), NoSftp(
                    f"{self._peer} has no sftp subsystem",
                    hint="enable it in the server's sshd_config: Subsystem sftp internal-sftp",
                ))  # fmt: skip
        else:
            with self._stage("starting scp"):
                self._ask(lambda: self._channel.exec_command(command), TransferError(
                    f"{self._peer} has no SFTP, and does not run commands",
                    hint="enable SFTP in the server's sshd_config: Subsystem sftp internal-sftp",
                    retryable=False,
                ))  # fmt: skip

    def _ask(self, request: Callable[[], None], refusal: TransferError) -> None:
        try:
            request()
        except paramiko.SSHException as error:
            if self._packets.failure is not None or not self._transport.is_active():
                raise
            raise refusal from error

    def send(self, data: bytes) -> None:
        """Send all of `data`.

        :raises TransferTimeout: the server accepts nothing.
        """
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            while piece:
                with self._stage("sending"):
                    sent = self._channel.send(piece)
                    if not sent:
                        raise self._packets.failure or EOFError()
                piece = piece[sent:]

    def receive(self) -> bytes:
        """Everything that has arrived, or arrives next; empty if the server ended the session.

        :raises TransferTimeout: nothing arrived.
        """
        with self._stage("waiting for data"):
            data = self._channel.recv(_EVERYTHING)
            if not data:
                failure = self._packets.failure or self._transport.get_exception()
                if failure is not None:
                    raise failure
        return data

    def exit_status(self) -> int | None:
        """The exit status of the command; None if a signal ended it, or it is unknown."""
        with self._stage("waiting for the end"):
            status = self._channel.recv_exit_status()
            if self._packets.failure is not None:
                raise self._packets.failure
        return None if status < 0 else status

    @property
    def complaint(self) -> str:
        """The beginning of what the server wrote to standard error; usually empty."""
        return printable(self._packets.complaint.decode("utf-8", "replace").strip(), 256)

    def close(self) -> None:
        """End the connection and paramiko's thread; from any thread, any number of times."""
        with self._closing:
            # A shutdown: if the descriptor was closed, paramiko's thread could read from another
            # socket that gets its number.
            try:
                self._sock.shutdown(2)
            except OSError:
                pass  # already disconnected
            if self._transport.is_alive() and self._transport is not threading.current_thread():
                self._transport.join(2)
            self._transport.close()
            self._sock.close()

    @contextmanager
    def _stage(self, what: str) -> Iterator[None]:
        """Limit the time of a part of the session, and translate its errors."""
        self._packets.deadline = monotonic() + self._patience
        try:
            yield
        except (ImageBrokerError, MemoryError):
            raise
        # paramiko passes on whatever invalid data causes: ValueError, IndexError, struct.error,
        # UnicodeDecodeError, errors of cryptography.
        except Exception as error:
            raise self._translated(what, error) from error
        finally:
            self._packets.deadline = None

    def _translated(self, what: str, error: Exception) -> ImageBrokerError:
        # If sending fails, the reason is in what paramiko's thread has read.
        cause = self._packets.failure or self._transport.get_exception() or error
        if isinstance(cause, (Stalled, TimeoutError)):
            return TransferTimeout(
                f"{self._peer}: no progress for {self._patience:g} s while {what}",
                hint="check the server and the network, or raise stall_timeout",
            )
        if isinstance(cause, TooMuchErrorOutput):
            return TransferError(
                f"{self._peer} wrote too much to standard error while {what}: {self.complaint}",
                hint="check what its shell prints at login",
            )
        if isinstance(cause, InteractivePrompt):
            return self._refusal("asks for a password instead of the key")
        if self._packets.goodbye is not None:
            code, text = self._packets.goodbye
            if code == _NO_MORE_METHODS or text.lower().startswith(_TOO_MANY):
                return self._too_many(text)
            return TransferError(
                f"{self._peer} disconnected while {what}: {text}", hint="check the server's log"
            )
        if isinstance(cause, (paramiko.ssh_exception.IncompatiblePeer, ProtocolViolation)):
            return TransferError(
                f"{self._peer}: its SSH is not acceptable: {printable(str(cause), 256)}",
                hint="update the server, or enable current algorithms on it (ciphers, MACs, key "
                "exchanges, host keys): weak ones are refused", retryable=False,
            )  # fmt: skip
        if isinstance(cause, EOFError):
            return TransferError(
                f"{self._peer} closed the connection while {what}", hint="check the server's log"
            )
        text = printable(f"{type(cause).__name__}: {cause}", 256)
        return TransferError(
            f"{self._peer}: an error while {what}: {text}", hint="check the server's log"
        )


def _fingerprint(key: paramiko.PKey) -> str:
    return str(key.fingerprint)
