"""Clauses C18 and C27 to C31: errors, the facade, and a process that is the caller's."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imagebroker.backends.backend import ImageBackend
from imagebroker.exceptions import ImageBrokerError, PolicyViolation
from imagebroker.model.reference import parse
from imagebroker.testing.audit import NETWORK, listening
from imagebroker.testing.breaking import Breaking
from imagebroker.testing.hooks import random_bytes
from imagebroker.testing.leftovers import Holdings, changed_since, process_state
from imagebroker.testing.proxy import Fault
from imagebroker.testing.running import Running

_SIZE = 300_000
#: Headers that must not follow a redirect to another server.
_CREDENTIALS = (b"authorization:", b"proxy-authorization:", b"x-auth-token:",
                b"x-service-token:", b"cookie:")  # fmt: skip


class ErrorClauses(Breaking):
    """C18 and C30."""

    def test_c18_a_connection_that_breaks_is_an_error_of_ours(self) -> None:
        """The core would not try again, and would call it a bug of the plugin."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        for reset in (False, True):
            fault = Fault(cut_after=_SIZE // 2, reset=reset)
            _, taken = self.read_broken(ref, self.break_read(ref, data, fault))
            self.check_ours(taken.error, f"cut by {'RST' if reset else 'FIN'}")

    def test_c18_a_server_that_is_gone_is_an_error_of_ours(self) -> None:
        """The core would not try again, and would call it a bug of the plugin."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        self.needs_a_wire(ref, data)
        for fault in (Fault(refuse=True), *_early_faults()):
            source, taken = self.read_broken(ref, self.on_the_wire(fault))
            self.check_ours(taken.error, f"with {fault}")
            if taken.error is None and bytes(taken.data) != data:
                self.fail(f"with {fault}: {len(taken.data)} of {_SIZE} bytes without an error")
            del source

    def test_c18_nonsense_from_a_server_is_an_error_of_ours(self) -> None:
        """A damaged answer would be called a bug of the plugin, or be believed."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        overhead = self.needs_a_wire(ref, data).overhead
        for at in (0, 3, 9, overhead // 2):
            _, taken = self.read_broken(ref, self.on_the_wire(Fault(corrupt_at=at)))
            self.check_ours(taken.error, f"with one wrong bit in byte {at} of an answer")

    def test_c18_out_of_descriptors_is_an_error_of_ours(self) -> None:
        """A busy service would crash, or leak what it has, where it should try again."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        first = self.new_backend()
        self._read_all(ref, data, first)  # what is imported later is imported now
        self._let_go(first)
        before = Holdings.now()
        for spare in itertools.count():
            backend = self.new_backend()
            with listening(fail_from=spare) as heard:
                try:
                    self._read_all(ref, data, backend)
                except self.failureException:
                    raise
                except Exception as error:
                    self.check_ours(error, f"with {spare} descriptors left")
            self._let_go(backend)
            if not heard.failed or spare == 20:
                break
        if left := self.left_since(before):
            self.fail(f"when descriptors run out, there is still {left} afterwards")

    def _read_all(self, ref: str, data: bytes, backend: ImageBackend) -> None:
        with self.opened(ref, backend) as source:
            self.assert_same(self.bytes_of(source), data, "read with few descriptors")

    def test_c27_a_silent_server_is_given_up(self) -> None:
        """A thread would wait for a dead server until the service is restarted."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        overhead = self.needs_a_wire(ref, data).overhead
        for size in (0, overhead + _SIZE // 2):
            _, taken = self.read_broken(ref, self.on_the_wire(Fault(stall_after=size)))
            when = f"from a server that is silent after {size} bytes"
            self.check_ours(taken.error, when)
            if taken.error is None and bytes(taken.data) != data:
                self.fail(f"{when}: {len(taken.data)} of {_SIZE} bytes without an error")

    def test_c30_a_call_that_hangs_ends_with_its_sockets(self) -> None:
        """Each call to a dead server would cost a thread."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        self.needs_a_wire(ref, data)
        self.stall_timeout = 30.0
        self.lab.once = False
        backend = self.on_the_wire(Fault(stall_after=0))
        running = Running(lambda: backend.open(self.context, self.ref(ref)))
        if running.ended(0.5):
            self.skipTest("open waits for no answer")
        for host in self.hosts:
            host.abort(running.ident or 0)
        if not running.ended(self.grace + 1):
            self.fail("open does not end after its sockets were shut down")
        try:
            self._let_go(running.answer())
        except Exception as error:
            self.check_ours(error, "an open that was ended")


def _early_faults() -> Iterator[Fault]:
    for size in (0, 1, 10, 40, 100):
        for reset in (False, True):
            yield Fault(cut_after=size, reset=reset)


class FacadeClauses(Breaking):
    """C27 to C29."""

    def test_c27_every_connection_comes_from_the_facade(self) -> None:
        """The deployer's address policy would not hold: a ref could reach any internal server."""
        ref = self.publish(random_bytes(_SIZE))
        with listening() as heard:
            backend = self.new_backend()
            with self.opened(ref, backend) as source:
                self.bytes_of(source)
            self.soon("get", lambda: backend.get(self.context, self.ref(ref)))
        around = [
            event
            for event in heard.unguarded(NETWORK)
            if event.name != "socket.getaddrinfo" and not _is_local(event.arguments)
        ]
        if around:
            self.fail(f"connected without host.connect: {'; '.join(map(str, around))}")

    def test_c27_a_forbidden_address_is_refused(self) -> None:
        """A ref could reach what the deployer has closed."""
        data = random_bytes(1000)
        ref = self.publish(data)
        self.needs_a_wire(ref, data)
        self.lab.closed = True
        backend = self.new_backend()
        with listening() as heard:
            _, taken = self.read_broken(ref, backend)
        if not isinstance(taken.error, PolicyViolation):
            self.fail(f"where no address is allowed, a download ends with {taken.how}")
        if connected := [each for each in heard.of(NETWORK) if each.name == "socket.connect"]:
            self.fail(f"a refused address was connected to: {'; '.join(map(str, connected))}")

    def test_c28_files_that_refs_name_come_from_the_facade(self) -> None:
        """A ref could reach any file of the host, through links and FIFOs."""
        ref = self.publish(random_bytes(1000))
        path = self._file_of(ref)
        with listening() as heard, self.opened(ref, self.new_backend()) as source:
            self.bytes_of(source)
        around = [
            event
            for event in heard.events
            if event.name == "open" and not event.guarded and event.path == str(path)
        ]
        if around:
            self.fail(f"opened without host.open_beneath: {'; '.join(map(str, around))}")

    def test_c28_a_link_is_not_followed(self) -> None:
        """Whoever may place a link in an image directory could read any file of the host."""
        ref = self.publish(b"what a link leads to")
        path = self._file_of(ref)
        link = path.with_name(path.name + "-link")
        link.symlink_to(path)
        self.addCleanup(link.unlink)
        _, taken = self.read_broken(ref + "-link", self.backend)
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
            backend, wires = self.lying(ref, data, redirect=place)
            with listening() as heard:
                _, taken = self.read_broken(ref, backend)
            if not wires.told:
                self.skipTest("the backend did not ask the server")
            if not isinstance(taken.error, ImageBrokerError):
                self.fail(f"a redirect to {place} ends with {taken.how}")
            bad = [e for e in heard.unguarded(NETWORK) if not _is_local(e.arguments)]
            if [event for event in bad if event.name == "socket.connect"]:
                self.fail(f"a redirect to {place} was followed around the facade")
            if any(host == "10.255.255.1" for host, _ in self.lab.targets):
                self.fail(f"a redirect to {place} was followed")

    def test_c29_credentials_do_not_follow_a_redirect(self) -> None:
        """A server could have the service's token sent to itself."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        with _Trap() as trap:
            place = f"http://127.0.0.1:{trap.port}/elsewhere"
            backend, _ = self.lying(ref, data, redirect=place)
            _, taken = self.read_broken(ref, backend)
            self.check_ours(taken.error, "redirected to another server")
            sent = trap.received.lower()
        found = [name.decode() for name in _CREDENTIALS if name in sent]
        if found:
            self.fail(f"a redirect to another port takes along {', '.join(found)}")


class ProcessClauses(Breaking):
    """C31: the process is the caller's."""

    def test_c31_it_prints_nothing(self) -> None:
        """What a user pipes elsewhere would be mixed with messages, an image even."""
        ref = self.publish(random_bytes(1000))
        missing = self.ref(self.missing_ref())
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), _descriptor_1() as written:
            backend = self.new_backend()
            with self.opened(ref, backend) as source:
                self.bytes_of(source)
            self.error_of("open", lambda: backend.open(self.context, missing))
            self._let_go(backend)
        if text := printed.getvalue() + written.decode(errors="replace"):
            self.fail(f"it printed {text!r:.200}")

    def test_c31_it_changes_nothing_that_all_code_shares(self) -> None:
        """Other parts of the service would break in ways that nobody understands."""
        ref = self.publish(random_bytes(1000))
        with self.opened(ref) as source:  # what imports change, they change once
            self.bytes_of(source)
        before = process_state()
        backend = self.new_backend()
        with self.opened(ref, backend) as source:
            self.bytes_of(source)
        self._let_go(backend)
        if changed := changed_since(before):
            self.fail(f"it changes {', '.join(changed)}")


def _is_local(arguments: tuple[object, ...]) -> bool:
    """Whether a socket's address is not one of the Internet: a path, a netlink number."""
    address = arguments[1] if len(arguments) > 1 else None
    return not (isinstance(address, tuple) and address and isinstance(address[0], str))


@contextlib.contextmanager
def _descriptor_1() -> Iterator[bytearray]:
    """What is written to descriptor 1 inside the block, there after its end."""
    written = bytearray()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield written
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            written += file.read()


class _Trap:
    """A server of this host that keeps what it is sent."""

    def __enter__(self) -> _Trap:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = b""
        self._running = Running(self._serve)
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
