"""Faults in what a backend reads: injected by the contract test's hooks, or on the wire."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from imagebroker.backends.backend import ImageBackend, ImageSource
from imagebroker.exceptions import ImageBrokerError
from imagebroker.testing.faults.http_proxy import HttpWires, Lie
from imagebroker.testing.faults.tcp_proxy import Fault, Passage, Wires
from imagebroker.testing.harness.background import ReadResult
from imagebroker.testing.hooks import Hooks

#: What a plugin may raise; the core makes TransferError of all but the first.
ALLOWED = (ImageBrokerError, ConnectionError, TimeoutError, EOFError)
_HTTP = re.compile(rb"[A-Z]+ \S+ HTTP/1\.1\r?\n")


@dataclass(frozen=True)
class Traffic:
    """What one whole read of an image sends over the wire."""

    #: The connection on which the image's bytes came.
    main: Passage
    #: Bytes that the server sends there besides those of the image.
    overhead: int
    http: bool


class FaultInjection(Hooks):
    """What the clauses about faults are written with."""

    def traffic(self, ref: str, data: bytes) -> Traffic | None:
        """What a read of `ref` sends; None if it connects to nothing through the facade."""
        wires = self.tap.wires = Wires()
        backend = self.new_backend()
        with self.opened(ref, backend) as source:
            self.bytes_of(source)
        self._close_quietly(backend)
        self.tap.close()
        if not wires.passages:
            return None
        main = max(wires.passages, key=lambda passage: passage.received)
        http = all(_HTTP.match(passage.first) for passage in wires.passages)
        return Traffic(main, max(0, main.received - len(data)), http)

    def backend_that_breaks(self, ref: str, data: bytes, fault: Fault) -> ImageBackend:
        """Let the next read of `ref` meet a fault; the backend that is to meet it.

        `cut_after` and `stall_after` count bytes of the image, more or less.
        """
        for name in ("cut_after", "stall_after"):
            size = getattr(fault, name)
            if size is not None and self.has_hook(name):
                backend = self.new_backend()
                getattr(self, name)(ref, size)
                return backend
        traffic = self.traffic(ref, data)
        if traffic is None:
            self.skipTest(f"needs the hook {'cut' if fault.stall_after is None else 'stall'}_after")
            raise AssertionError("unreachable")
        if fault.cut_after is not None:
            fault = dataclasses.replace(fault, cut_after=traffic.overhead + fault.cut_after)
        if fault.stall_after is not None:
            fault = dataclasses.replace(fault, stall_after=traffic.overhead + fault.stall_after)
        return self.backend_with_fault(fault)

    def backend_with_fault(self, fault: Fault) -> ImageBackend:
        """A backend whose connections have this fault, until it strikes; counted on the wire."""
        self.tap.close()
        self.tap.wires = Wires(fault)
        return self.new_backend()

    def needs_network(self, ref: str, data: bytes) -> Traffic:
        """Skip the test unless the backend reads through connections of the facade."""
        traffic = self.traffic(ref, data)
        if traffic is None:
            self.skipTest("the backend connects to nothing through host.connect")
            raise AssertionError("unreachable")
        return traffic

    def backend_with_lie(self, ref: str, data: bytes, **lie: Any) -> tuple[ImageBackend, HttpWires]:
        """A backend whose HTTP server lies about the image `ref`.

        Skips the test unless the backend speaks HTTP/1.1 without TLS.
        """
        if not self.needs_network(ref, data).http:
            self.skipTest("the backend does not speak plain HTTP")
        self.tap.close()
        honest = self.tap.wires = HttpWires()
        backend = self.new_backend()
        with self.opened(ref, backend) as source:
            self.bytes_of(source)
        self._close_quietly(backend)
        self.tap.close()
        asked = [each for each in honest.exchanges if each.method == b"GET"]
        if not asked:
            self.skipTest("the backend asks for nothing with GET")
        #: How the server answers when it does not lie.
        self.honest = max(asked, key=lambda each: each.length or 0)
        wires = self.tap.wires = HttpWires(Lie(target=self.honest.target, **lie))
        return self.new_backend(), wires

    def try_read(
        self, ref: str, backend: ImageBackend, start: int = 0
    ) -> tuple[ImageSource | None, ReadResult]:
        """Open and read; the source (None if `open` failed already), and what came."""
        taken = ReadResult()
        try:
            source = self.open(ref, backend)
        except self.failureException:
            raise
        except Exception as error:
            taken.error = error
            return None, taken
        if start and not source.seekable:
            self.skipTest("the source is not seekable")
        return source, self.take(source, start)

    def check_error(self, error: BaseException | None, when: str) -> None:
        """Whether an error is one that a plugin may raise, and keeps secrets."""
        if error is None:
            return
        if not isinstance(error, ALLOWED):
            self.fail(f"{when}: a foreign {type(error).__name__} escapes: {error}")
        shown = f"{error} {error!r} {getattr(error, 'hint', '')}"
        for option in self.cls.options:
            value = str(self._options.get(option.dest) or "")
            if option.secret and len(value) > 3 and value in shown:
                self.fail(f"{when}: the text of {type(error).__name__} holds {option.name}")
