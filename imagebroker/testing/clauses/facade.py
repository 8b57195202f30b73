"""Clauses C27 to C29: what a plugin reaches, it reaches through the facade."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from imagebroker.exceptions import ImageBrokerError, PolicyViolation
from imagebroker.model.reference import parse
from imagebroker.testing.clauses.fault_injection import FaultInjection
from imagebroker.testing.harness.audit import NETWORK, record_events
from imagebroker.testing.harness.background import BackgroundCall
from imagebroker.testing.hooks import random_bytes

_SIZE = 300_000
#: Headers that must not follow a redirect to another server.
_CREDENTIALS = (b"authorization:", b"proxy-authorization:", b"x-auth-token:",
                b"x-service-token:", b"cookie:")  # fmt: skip


class FacadeClauses(FaultInjection):
    """C27 to C29."""

    def test_c27_every_connection_comes_from_the_facade(self) -> None:
        """The deployer's address policy would not hold: a ref could reach any internal server."""
        ref = self.publish(random_bytes(_SIZE))
        with record_events() as recorded:
            backend = self.new_backend()
            with self.opened(ref, backend) as source:
                self.bytes_of(source)
            self.in_time("get", lambda: backend.get(self.context, self.ref(ref)))
        around = [
            event
            for event in recorded.unguarded(NETWORK)
            if event.name != "socket.getaddrinfo" and not _is_local(event.arguments)
        ]
        if around:
            self.fail(f"connected without host.connect: {'; '.join(map(str, around))}")

    def test_c27_a_forbidden_address_is_refused(self) -> None:
        """A ref could reach what the deployer has closed."""
        data = random_bytes(1000)
        ref = self.publish(data)
        self.needs_network(ref, data)
        self.tap.closed = True
        backend = self.new_backend()
        with record_events() as recorded:
            _, taken = self.try_read(ref, backend)
        if not isinstance(taken.error, PolicyViolation):
            self.fail(f"where no address is allowed, a download ends with {taken.how}")
        if connected := [each for each in recorded.of(NETWORK) if each.name == "socket.connect"]:
            self.fail(f"a refused address was connected to: {'; '.join(map(str, connected))}")

    def test_c28_files_that_refs_name_come_from_the_facade(self) -> None:
        """A ref could reach any file of the host, through links and FIFOs."""
        ref = self.publish(random_bytes(1000))
        path = self._file_of(ref)
        with record_events() as recorded, self.opened(ref, self.new_backend()) as source:
            self.bytes_of(source)
        around = [
            event
            for event in recorded.events
            if event.name == "open" and not event.guarded and event.path == str(path)
        ]
        if around:
            self.fail(f"opened without host.open_beneath: {'; '.join(map(str, around))}")

    def test_c28_a_link_is_not_followed(self) -> None:
        """Otherwise a user who can place a link in a directory of images reads any file."""
        ref = self.publish(b"what a link leads to")
        path = self._file_of(ref)
        link = path.with_name(path.name + "-link")
        link.symlink_to(path)
        self.addCleanup(link.unlink)
        _, taken = self.try_read(ref + "-link", self.backend)
        if not isinstance(taken.error, PolicyViolation):
            self.fail(f"a symbolic link is followed: {taken.how}, {len(taken.data)} bytes")

    def _file_of(self, ref: str) -> Path:
        form, parsed = self.cls.ref_form, parse(ref)
        path = Path(os.fsdecode(parsed.path_bytes))
        if form.host or not form.path or parsed.path is None or not path.is_file():
            self.skipTest("refs of this backend name no files of this host")
        return path

    def test_c29_a_redirect_to_a_forbidden_place_is_refused(self) -> None:
        """A server on the Internet could make the service read from the inside."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        for place in ("file:///etc/passwd", "http://10.255.255.1/image", "gopher://127.0.0.1/"):
            backend, wires = self.backend_with_lie(ref, data, redirect=place)
            with record_events() as recorded:
                _, taken = self.try_read(ref, backend)
            if not wires.told:
                self.skipTest("the backend did not ask the server")
            if not isinstance(taken.error, ImageBrokerError):
                self.fail(f"a redirect to {place} ends with {taken.how}")
            bad = [e for e in recorded.unguarded(NETWORK) if not _is_local(e.arguments)]
            if [event for event in bad if event.name == "socket.connect"]:
                self.fail(f"a redirect to {place} was followed around the facade")
            if any(host == "10.255.255.1" for host, _ in self.tap.targets):
                self.fail(f"a redirect to {place} was followed")

    def test_c29_credentials_do_not_follow_a_redirect(self) -> None:
        """A server could have the service's token sent to itself."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        with _RecordingServer() as trap:
            place = f"http://127.0.0.1:{trap.port}/elsewhere"
            backend, _ = self.backend_with_lie(ref, data, redirect=place)
            _, taken = self.try_read(ref, backend)
            self.check_error(taken.error, "redirected to another server")
            sent = trap.received.lower()
        found = [name.decode() for name in _CREDENTIALS if name in sent]
        if found:
            self.fail(f"a redirect to another port takes along {', '.join(found)}")


def _is_local(arguments: tuple[object, ...]) -> bool:
    """Whether a socket's address is not one of the Internet: a path, a netlink number."""
    address = arguments[1] if len(arguments) > 1 else None
    return not (isinstance(address, tuple) and address and isinstance(address[0], str))


class _RecordingServer:
    """A server of this host that keeps what it is sent."""

    def __enter__(self) -> _RecordingServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = b""
        self._running = BackgroundCall(self._serve)
        return self

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(2.0)
                self.received += connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._running.join(3.0)
