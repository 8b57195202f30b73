"""Clauses C18, C27 and C30: whatever a server does, an error that the core knows, in time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from time import monotonic, sleep

from imagebroker.backends.backend import ImageBackend
from imagebroker.testing.clauses.fault_injection import FaultInjection
from imagebroker.testing.faults.tcp_proxy import Fault
from imagebroker.testing.harness.audit import record_events
from imagebroker.testing.harness.background import BackgroundCall
from imagebroker.testing.harness.resources import ResourceSnapshot
from imagebroker.testing.hooks import random_bytes

_SIZE = 300_000


class ErrorClauses(FaultInjection):
    """C18 and C30."""

    def test_c18_a_connection_that_breaks_is_an_error_of_ours(self) -> None:
        """The core would not try again, and would call it a bug of the plugin."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        for reset in (False, True):
            fault = Fault(cut_after=_SIZE // 2, reset=reset)
            _, taken = self.try_read(ref, self.backend_that_breaks(ref, data, fault))
            self.check_error(taken.error, f"cut by {'RST' if reset else 'FIN'}")

    def test_c18_a_server_that_is_gone_is_an_error_of_ours(self) -> None:
        """The core would not try again, and would call it a bug of the plugin."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        self.needs_network(ref, data)
        for fault in (Fault(refuse=True), *_early_faults()):
            source, taken = self.try_read(ref, self.backend_with_fault(fault))
            self.check_error(taken.error, f"with {fault}")
            if taken.error is None and bytes(taken.data) != data:
                self.fail(f"with {fault}: {len(taken.data)} of {_SIZE} bytes without an error")
            del source

    def test_c18_nonsense_from_a_server_is_an_error_of_ours(self) -> None:
        """A damaged answer would be called a bug of the plugin, or be believed."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        overhead = self.needs_network(ref, data).overhead
        for at in (0, 3, 9, overhead // 2):
            _, taken = self.try_read(ref, self.backend_with_fault(Fault(corrupt_at=at)))
            self.check_error(taken.error, f"with one wrong bit in byte {at} of an answer")

    def test_c18_out_of_descriptors_is_an_error_of_ours(self) -> None:
        """A busy service would crash, or leak what it has, where it should try again."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        first = self.new_backend()
        self._read_all(ref, data, first)  # what is imported later is imported now
        self._close_quietly(first)
        before = ResourceSnapshot.now()
        for spare in itertools.count():
            backend = self.new_backend()
            with record_events(fail_from=spare) as recorded:
                try:
                    self._read_all(ref, data, backend)
                except self.failureException:
                    raise
                except Exception as error:
                    self.check_error(error, f"with {spare} descriptors left")
            self._close_quietly(backend)
            if not recorded.failed or spare == 20:
                break
        if left := self.leaked_since(before):
            self.fail(f"when descriptors run out, there is still {left} afterwards")

    def _read_all(self, ref: str, data: bytes, backend: ImageBackend) -> None:
        with self.opened(ref, backend) as source:
            self.assert_same(self.bytes_of(source), data, "read with few descriptors")

    def test_c27_a_silent_server_is_given_up(self) -> None:
        """A thread would wait for a dead server until the service is restarted."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        overhead = self.needs_network(ref, data).overhead
        for size in (0, overhead + _SIZE // 2):
            _, taken = self.try_read(ref, self.backend_with_fault(Fault(stall_after=size)))
            when = f"from a server that is silent after {size} bytes"
            self.check_error(taken.error, when)
            if taken.error is None and bytes(taken.data) != data:
                self.fail(f"{when}: {len(taken.data)} of {_SIZE} bytes without an error")

    def test_c30_a_call_that_hangs_ends_with_its_sockets(self) -> None:
        """Each call to a dead server would cost a thread."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        self.needs_network(ref, data)
        self.stall_timeout = 30.0
        self.tap.once = False
        backend = self.backend_with_fault(Fault(stall_after=0))
        running = BackgroundCall(lambda: backend.open(self.context, self.ref(ref)))
        wires = self.tap.wires
        self._wait_until(lambda: bool(wires and wires.connections) or running.ended(0))
        if running.ended(0.5):
            self.skipTest("open waits for no answer")
        aborted = monotonic()
        while not running.ended(0.05):  # again: it may connect to more than one server
            for host in self.hosts:
                host.abort(running.ident or 0)
            if monotonic() > aborted + self.grace + 1:
                self.fail("open does not end after its sockets were shut down")
        try:
            self._close_quietly(running.answer())
        except Exception as error:
            self.check_error(error, "an open that was ended")

    def _wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait for something that a slow machine needs its time for; at most `patience`."""
        ends = monotonic() + self.patience
        while not happened() and monotonic() < ends:
            sleep(0.02)


def _early_faults() -> Iterator[Fault]:
    for size in (0, 1, 10, 40, 100):
        for reset in (False, True):
            yield Fault(cut_after=size, reset=reset)
