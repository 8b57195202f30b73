"""Clause C31: a backend does not change the caller's process."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator

from imagebroker.testing.clauses.fault_injection import FaultInjection
from imagebroker.testing.harness.resources import changed_since, process_state
from imagebroker.testing.hooks import random_bytes


class ProcessClauses(FaultInjection):
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
            self._close_quietly(backend)
        if text := printed.getvalue() + written.decode(errors="replace"):
            self.fail(f"it printed {text!r:.200}")

    def test_c31_it_changes_nothing_that_all_code_shares(self) -> None:
        """Otherwise other parts of the service break, far from the cause."""
        ref = self.publish(random_bytes(1000))
        with self.opened(ref) as source:  # what imports change, they change once
            self.bytes_of(source)
        before = process_state()
        backend = self.new_backend()
        with self.opened(ref, backend) as source:
            self.bytes_of(source)
        self._close_quietly(backend)
        if changed := changed_since(before):
            self.fail(f"it changes {', '.join(changed)}")


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
