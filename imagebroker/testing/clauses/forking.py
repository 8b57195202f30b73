"""Clause C35: a process that is forked while an image is read."""

from __future__ import annotations

import os
import select
import signal
import warnings

from imagebroker.testing.hooks import Hooks, random_bytes

_SIZE = 300_000
_RIGHT, _WRONG, _FAILED = 0, 1, 2


class ForkClauses(Hooks):
    """C35."""

    def test_c35_the_child_of_a_fork_reads_the_image_and_its_parent_reads_on(self) -> None:
        """A service with workers that fork would hang, or get damaged images."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        broker = self.broker(ref)
        with broker.open(self.context, ref) as reader:
            found = reader.read(1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # with threads, from 3.12 on
                child = os.fork()
            if child == 0:
                self._read_in_child(ref, data)
            self._check(child)
            found += b"".join(reader)
        self.assert_same(found, data, "read on after a fork")

    def _read_in_child(self, ref: str, data: bytes) -> None:
        """Never returns."""
        status = _FAILED
        try:
            with self.broker(ref).open(self.context, ref) as reader:
                status = _RIGHT if b"".join(reader) == data else _WRONG
        finally:
            os._exit(status)

    def _check(self, child: int) -> None:
        process = os.pidfd_open(child)
        try:
            ended = bool(select.select([process], [], [], self.patience)[0])
            if not ended:
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not ended:
            self.fail(f"a child that was forked has not read the image after {self.patience:g} s")
        if status:
            how = "gets other bytes" if status == _WRONG else "cannot read the image"
            self.fail(f"a child that was forked {how}")
