"""An SSH server made of paramiko, to misbehave where sshd cannot be made to."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko
from paramiko.common import cMSG_CHANNEL_DATA, cMSG_DISCONNECT, cMSG_EXT_INFO, cMSG_IGNORE

from tests.plugins.hostile_sftp import HostileSftp
from tests.servers.raw import Connection, RawServer


class Peer(paramiko.Transport):
    """The server's side of one connection; subclasses misbehave."""

    #: What its SFTP server does.
    scenario: dict[str, Any] = {}
    has_sftp = True
    runs_commands = False
    #: What it was asked to run, on all connections.
    commands: list[bytes] = []

    def __init__(self, sock: socket.socket, **how: Any) -> None:
        super().__init__(sock, **how)
        self.raw = sock
        self.set_log_channel("tests.ssh_peer")
        self.add_server_key(HOST_KEY)

    def authenticated_with(self, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def sftp_started(self, channel: paramiko.Channel) -> None:
        """In a thread of its own."""
        server = HostileSftp(self.scenario)
        received = bytearray()
        while piece := channel.recv(1 << 20):
            received += piece
            while len(received) >= 4:
                length = int.from_bytes(received[:4], "big")
                if len(received) < 4 + length:
                    break
                packet = bytes(received[4 : 4 + length])
                del received[: 4 + length]
                for answer in server.answers(packet):
                    channel.sendall(answer)

    def command_started(self, channel: paramiko.Channel) -> None:
        """In a thread of its own."""

    def say(self, kind: bytes, *fields: Any) -> None:
        """Send a message as it is."""
        message = paramiko.Message()
        message.add_byte(kind)
        for field in fields:
            message.add(field)
        self._send_message(message)


class _Interface(paramiko.ServerInterface):
    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return self._peer.authenticated_with(key)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        if name != "sftp" or not self._peer.has_sftp:
            return False
        self._begin(lambda: self._peer.sftp_started(channel), channel)
        return True

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._peer.commands.append(command)
        if not self._peer.runs_commands:
            return False
        self._begin(lambda: self._peer.command_started(channel), channel)
        return True

    def _begin(self, serve: Callable[[], None], channel: paramiko.Channel) -> None:
        threading.Thread(target=self._serve, args=(serve, channel), daemon=True).start()

    def _serve(self, serve: Callable[[], None], channel: paramiko.Channel) -> None:
        try:
            serve()
            channel.close()
        except (OSError, EOFError, paramiko.SSHException):
            pass  # the client went away


HOST_KEY = paramiko.ECDSAKey.generate()


@contextmanager
def ssh_server(
    kind: Callable[[Connection], Peer], folder: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The beginning of URLs on a server of this kind, and the options that make it known."""

    def script(connection: Connection, index: int) -> None:
        peer = kind(connection)
        try:
            peer.start_server(server=_Interface(peer), event=threading.Event())
            peer.join()
        finally:
            peer.close()

    with RawServer(script) as server:
        known = folder / "known_peer"
        key = f"{HOST_KEY.get_name()} {HOST_KEY.get_base64()}"
        known.write_text(f"[127.0.0.1]:{server.port} {key}\n")
        yield f"scp://user@127.0.0.1:{server.port}", {"known_hosts": str(known)}


class WithoutStrictKex(Peer):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, strict_kex=False)


class IgnoredDuringKex(Peer):
    """Injects what Terrapin injects."""

    def _send_kex_init(self) -> None:
        self.say(cMSG_IGNORE, b"injected")
        super()._send_kex_init()  # type: ignore[misc]


class AsksForPasswords(Peer):
    def authenticated_with(self, key: paramiko.PKey) -> int:
        for _ in range(1000):
            self.say(b"\x3c", "Password", "Please", "", 1, "Password: ", False)
        return paramiko.AUTH_FAILED


class FloodsDuringAuthentication(Peer):
    def authenticated_with(self, key: paramiko.PKey) -> int:
        while True:
            self.say(cMSG_IGNORE, b"x" * 1000)


class Disconnects(Peer):
    text: bytes = b""
    code = 11

    def authenticated_with(self, key: paramiko.PKey) -> int:
        self.say(cMSG_DISCONNECT, self.code, self.text, "")
        return paramiko.AUTH_FAILED


class AnnouncesExtensions(Peer):
    def authenticated_with(self, key: paramiko.PKey) -> int:
        message = paramiko.Message()
        message.add_byte(cMSG_EXT_INFO)
        message.add_bytes(struct.pack(">I", 0xFFFFFFFF))
        self._send_message(message)
        return paramiko.AUTH_SUCCESSFUL


class AnnouncesAHugePacket(Peer):
    def sftp_started(self, channel: paramiko.Channel) -> None:
        self.raw.sendall(struct.pack(">I", 0xFFFFFF00) + bytes(100))


class Overflows(Peer):
    """Sends on and on, whatever the window."""

    def sftp_started(self, channel: paramiko.Channel) -> None:
        channel.recv(9)
        while True:
            self.say(cMSG_CHANNEL_DATA, channel.remote_chanid, b"\0" * 30_000)


class OverflowsWithZeros(Peer):
    """Announces data that are not in the packet, and that paramiko would make up."""

    def sftp_started(self, channel: paramiko.Channel) -> None:
        while True:
            message = paramiko.Message()
            message.add_byte(cMSG_CHANNEL_DATA)
            message.add_bytes(struct.pack(">II", channel.remote_chanid, 1_000_000))
            self._send_message(message)


class NeverOpensTheWindow(Peer):
    """Takes 40 bytes, and no more."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, default_window_size=40)

    def sftp_started(self, channel: paramiko.Channel) -> None:
        channel._check_add_window = lambda count: 0
        super().sftp_started(channel)


class IgnoresRekeying(Peer):
    scenario = {"real_size": 8 << 20}

    def sftp_started(self, channel: paramiko.Channel) -> None:
        self._handler_table[20] = lambda message: None
        super().sftp_started(channel)


class AsksDuringRekeying(Peer):
    """Wants an answer while the client waits for the end of its key exchange (paramiko #822)."""

    scenario = {"real_size": 8 << 20}
    channel: paramiko.Channel | None = None
    #: An answer of "no" (as any client gives) would make paramiko close the channel.
    _channel_handler_table = {
        **paramiko.Transport._channel_handler_table,
        100: lambda channel, message: None,
    }

    def sftp_started(self, channel: paramiko.Channel) -> None:
        self.channel = channel
        super().sftp_started(channel)

    def _negotiate_keys(self, m: paramiko.Message) -> None:
        if self.channel is not None:
            self.say(b"\x62", self.channel.remote_chanid, "keepalive@openssh.com", True)
        super()._negotiate_keys(m)  # type: ignore[misc]


class GivesUpGcm(Peer):
    """Wants AES-CTR when keys are exchanged again."""

    scenario = {"real_size": 8 << 20}
    again = False

    @property
    def preferred_ciphers(self) -> tuple[str, ...]:
        return ("aes128-ctr",) if self.again else super().preferred_ciphers

    def sftp_started(self, channel: paramiko.Channel) -> None:
        self.again = True
        super().sftp_started(channel)


class SendsDuringRekeying(Peer):
    """Sends data between its own KEXINIT and the end of the exchange."""

    scenario = {"real_size": 8 << 20}
    channel: paramiko.Channel | None = None

    def sftp_started(self, channel: paramiko.Channel) -> None:
        self.channel = channel
        super().sftp_started(channel)

    def _send_kex_init(self) -> None:
        super()._send_kex_init()  # type: ignore[misc]
        if self.channel is not None:
            self.say(cMSG_CHANNEL_DATA, self.channel.remote_chanid, b"\0" * 100)


class OldScp(Peer):
    """Has no SFTP, and an scp that says what a test wants it to say."""

    has_sftp = False
    runs_commands = True
    #: In answer to the first byte, to the second, and to the third.
    turns: tuple[bytes, ...] = ()
    complaint = b""
    #: Of the command; None for none, and a text for a signal.
    status: int | str | None = 0
    stall_at: int | None = None

    def command_started(self, channel: paramiko.Channel) -> None:
        channel.sendall_stderr(self.complaint)
        if not self.turns:
            channel.recv(1)  # by then the request has its answer
        for number, turn in enumerate(self.turns):
            channel.recv(1)
            if number == self.stall_at:
                self.join()
            channel.sendall(turn)
        if len(self.turns) == 2:
            channel.recv(1)
        if isinstance(self.status, int):
            channel.send_exit_status(self.status)
        elif self.status is not None:
            self.say(
                b"\x62", channel.remote_chanid, "exit-signal", False, self.status, False, "", ""
            )


class StopsAt(Peer):
    """Says nothing from a certain message on, or hangs up instead."""

    #: The number of a kind of message, or how many come before; whichever is not None.
    kind: int | None = None
    number: int | None = None
    hangs_up = False
    resets = False
    said = 0
    stopped = False

    def _send_message(self, data: paramiko.Message) -> None:
        if self.stopped or data.asbytes()[0] == self.kind or self.said == self.number:
            if self.hangs_up and not self.stopped:
                self._hang_up()
            self.stopped = True
            return
        self.said += 1
        super()._send_message(data)  # type: ignore[misc]

    def _hang_up(self) -> None:
        if self.resets:
            linger = struct.pack("ii", 1, 0)
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.raw.close()
        else:
            self.raw.shutdown(socket.SHUT_RDWR)


class OpensTheWindowByNothing(NeverOpensTheWindow):
    def sftp_started(self, channel: paramiko.Channel) -> None:
        for _ in range(1000):
            self.say(b"\x5d", channel.remote_chanid, 0)
        super().sftp_started(channel)


class OpensTheWindowFarTooWide(Peer):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, default_window_size=0xFFFFFFFF)

    def sftp_started(self, channel: paramiko.Channel) -> None:
        for _ in range(3):
            message = paramiko.Message()
            message.add_byte(b"\x5d")
            message.add_bytes(struct.pack(">II", channel.remote_chanid, 0xFFFFFFFF))
            self._send_message(message)
        super().sftp_started(channel)


class SendsLargePackets(Peer):
    def sftp_started(self, channel: paramiko.Channel) -> None:
        self.say(cMSG_CHANNEL_DATA, channel.remote_chanid, b"\0" * 100_000)
