"""Clauses C17 and C25: nothing is left behind, and no call waits forever."""

from __future__ import annotations

from collections.abc import Callable

from imagebroker.backends.backend import ImageBackend
from imagebroker.testing.clauses.fault_injection import FaultInjection
from imagebroker.testing.faults.tcp_proxy import Fault
from imagebroker.testing.harness.background import BackgroundCall, ReadResult
from imagebroker.testing.harness.resources import ResourceSnapshot
from imagebroker.testing.hooks import random_bytes

#: Times that something is done to see whether it leaves something behind each time.
_TIMES = 5
#: Connections and threads that a backend may keep for later.
_POOL = 4


class ClosingClauses(FaultInjection):
    """C17 and C25."""

    def test_c17_close_can_be_called_again(self) -> None:
        """A download that went well would end in an error."""
        ref = self.publish(random_bytes(100_000))
        for most in (0, 1, None):
            source = self.open(ref)
            if most != 0:
                self.take(source, most=most)
            for _ in range(3):
                self.in_time("source.close", source.close, self.grace)

    def test_c17_close_may_come_from_another_thread(self) -> None:
        """A download that is cancelled would hang or break others."""
        ref = self.publish(random_bytes(100_000))
        source = self.open(ref)
        self.take(source, most=1)
        closings = [BackgroundCall(source.close) for _ in range(3)]
        for closing in closings:
            if not closing.ended(self.grace):
                self.fail(f"source.close has not come back after {self.grace:g} s")
            closing.answer()

    def test_c17_close_ends_a_read_that_waits(self) -> None:
        """Otherwise a cancelled download from a dead server hangs as long as the server."""
        data = random_bytes(600_000)
        ref = self.publish(data)
        self.stall_timeout = 30.0  # or it would be the limit that ends the read
        source = self.open(ref, self.backend_that_breaks(ref, data, Fault(stall_after=300_000)))
        taken = ReadResult()
        reading = BackgroundCall(lambda: taken.take(source, 0, None, None))
        taken.begun.wait(2.0)
        if reading.ended(0.3):
            self.fail(f"a read from a server that is silent ended with {taken.how}")
        self.in_time("source.close while a read waits", source.close, self.grace)
        if not reading.ended(self.grace):
            self.fail(f"a read that waits has not ended {self.grace:g} s after source.close")

    def test_c17_sources_that_are_read_leave_nothing(self) -> None:
        """A service would run out of descriptors after some thousand downloads."""
        ref = self.publish(random_bytes(300_000))
        self.check_growth("a whole read", lambda: self._read_and_close(ref, None))

    def test_c17_sources_that_are_closed_early_leave_nothing(self) -> None:
        """Each cancelled download would cost a connection."""
        ref = self.publish(random_bytes(300_000))
        self.check_growth("a read that is left early", lambda: self._read_and_close(ref, 1))
        self.check_growth("a source that is not read", lambda: self._read_and_close(ref, 0))

    def test_c17_failed_opens_leave_nothing(self) -> None:
        """Each wrong name would cost a connection."""
        ref = self.ref(self.missing_ref())
        self.check_growth(
            "an open that fails",
            lambda: self.error_of("open", lambda: self.backend.open(self.context, ref)),
        )

    def test_c17_broken_reads_leave_nothing(self) -> None:
        """Each broken connection would cost a descriptor."""
        data = random_bytes(600_000)
        ref = self.publish(data)
        with self.opened(ref) as source:
            self.bytes_of(source)
        self._close_quietly(self.backend)
        self._made = None
        before = ResourceSnapshot.now()
        backend = self.backend_that_breaks(ref, data, Fault(cut_after=300_000))
        broken, taken = self.try_read(ref, backend)
        if broken is not None:
            self._close_quietly(broken)
        self.in_time("backend.close", backend.close, self.grace)
        self.tap.close()
        if left := self.leaked_since(before):
            self.fail(f"after a cut connection there is still {left}")
        del broken, taken

    def _read_and_close(self, ref: str, most: int | None) -> object:
        source = self.backend.open(self.context, self.ref(ref))
        if most != 0:
            self.take(source, most=most)
        self._close_quietly(source)
        return source  # kept alive on purpose

    def check_growth(self, what: str, act: Callable[[], object]) -> None:
        """Whether doing something again and again holds more and more."""
        act()  # imports, pools, caches
        act()
        before = ResourceSnapshot.now()
        held = [act() for _ in range(_TIMES)]
        left = self.leaked_since(before, allowed=_POOL)
        if left:
            self.fail(f"{what}, {len(held)} times, leaves {left}")

    def test_c25_close_of_the_backend_lets_go_of_everything(self) -> None:
        """A service that reloads its configuration would collect connections and threads."""
        ref = self.publish(random_bytes(100_000))
        self._use(self.new_backend(), ref)  # imports and caches
        before = ResourceSnapshot.now()
        backend = self.new_backend()
        self._use(backend, ref)
        if left := self.leaked_since(before):
            self.fail(f"after backend.close there is still {left}")

    def _use(self, backend: ImageBackend, ref: str) -> None:
        with self.opened(ref, backend) as source:
            self.bytes_of(source)
        self.in_time("backend.get", lambda: backend.get(self.context, self.ref(ref)))
        self.in_time("backend.close", backend.close, self.grace)

    def test_c25_close_of_the_backend_never_fails(self) -> None:
        """A service would not end."""
        self.in_time("close of a backend that was not used", self.new_backend().close, self.grace)
        backend = self.new_backend()
        self._use(backend, self.publish(b"used"))
