"""Clause C38: what `check` finds out."""

from __future__ import annotations

from imagebroker.backends.backend import ImageBackend
from imagebroker.model.finding import FAILURE, LEVELS, Finding
from imagebroker.testing.clauses.fault_injection import ALLOWED, FaultInjection
from imagebroker.testing.faults.tcp_proxy import Fault
from imagebroker.testing.hooks import random_bytes


class CheckingClauses(FaultInjection):
    """C38."""

    def findings(self, backend: ImageBackend) -> list[Finding]:
        """What a check yields; skips the test unless the backend has one."""
        if type(backend).check is ImageBackend.check:
            self.skipTest("the backend has no check")
        return self.in_time("check", lambda: list(backend.check(self.context)))

    def test_c38_a_backend_that_works_has_no_failures(self) -> None:
        """An operator would search for a mistake that is not there."""
        self.publish(random_bytes(1000))
        for finding in self.findings(self.backend):
            if not isinstance(finding, Finding):
                self.fail(f"check yields {type(finding).__name__}, not a Finding")
            if finding.level not in LEVELS:
                self.fail(f"a finding has the level {finding.level!r}")
            if not isinstance(finding.what, str) or not finding.what:
                self.fail(f"a finding says {finding.what!r}")
            if finding.level == FAILURE:
                self.fail(f"check of a backend that works: {finding.what}")

    def test_c38_a_server_that_is_gone_is_found(self) -> None:
        """An operator would be told that all is well, and users would find out."""
        data = random_bytes(1000)
        self.needs_network(self.publish(data), data)
        backend = self.backend_with_fault(Fault(refuse=True))
        wires = self.tap.wires
        try:
            found = self.findings(backend)
        except ALLOWED:
            return
        if wires is None or not wires.connections:
            self.skipTest("check connects to nothing")
        if not any(finding.level == FAILURE for finding in found):
            self.fail("check reports no failure although the server does not answer")
