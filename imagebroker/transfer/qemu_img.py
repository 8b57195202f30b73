"""qemu-img, confined: it reads one verified file, and hands out the disk in it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from time import monotonic
from typing import Any

from imagebroker.exceptions import FormatError, TransferError, TransferTimeout
from imagebroker.system.confined import Program, Running
from imagebroker.system.forks import withhold_socket
from imagebroker.transfer.block_export import Export, Misbehaved

#: Its names for our formats that have a disk inside.
DRIVERS = {"qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx", "vdi": "vdi"}
#: Bytes that may be under way, as far as the host allows: each time it is full both wait.
_BUFFER = 4 << 20
#: Bytes of its description of an image that are read.
_LONGEST = 1 << 20
#: Seconds within which it must end when all is written.
_TIMEOUT = 30.0
#: Seconds within which it must end when it has hung up.
_HANGUP_TIMEOUT = 2.0


class Disk:
    """The content of one file."""

    def __init__(
        self, program: Program, ref: str, fd: int, kind: str, seconds: float,
        check: Callable[[], object],
    ) -> None:  # fmt: skip
        """`fd`: the file; `kind`: its verified format; `seconds`: how long it may take; `check` is
        called while it waits, and may raise.

        :raises FormatError: qemu-img cannot read it.
        """
        self._program, self._ref, self._kind, self._check = program, ref, kind, check
        self._seconds, self._ends = seconds, monotonic() + seconds
        # For reading alone.
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            #: Bytes that a guest sees.
            self.size = self._measured()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._fd)

    @property
    def _source(self) -> str:
        """For `--image-opts`."""
        file = f"file.driver=file,file.filename={self._program.input},file.locking=off"
        return f"driver={DRIVERS[self._kind]},read-only=on,{file}"

    def _measured(self) -> int:
        arguments = ["info", "--output=json", "--image-opts", self._source]
        with self._program.start(arguments, reads=self._fd, output=True) as running:
            status, said = running.answer(_LONGEST, lambda: self._waiting(running))
            if status:
                raise self._failed(running)
        found: Any = None
        with suppress(ValueError, RecursionError):
            found = json.loads(said)
        size = found.get("virtual-size") if isinstance(found, dict) else None
        if not isinstance(size, int) or not 0 <= size < 1 << 63:
            raise FormatError(f"{self._ref}: qemu-img does not say how large the disk in it is")
        return size

    def pieces(self) -> Iterator[tuple[int, bytearray]]:
        """The parts of the disk that are not zeros, in order, each with its position.

        :raises FormatError, TransferTimeout: qemu-img does not say.
        """
        ours, theirs = socket.socketpair()
        withhold_socket(ours)
        for end, option in ((ours, socket.SO_RCVBUF), (theirs, socket.SO_SNDBUF)):
            end.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        target = f"driver=raw,file.driver=nbd,file.server.type=fd,file.server.str={theirs.fileno()}"
        arguments = [
            "convert", "-n", "--target-is-zero", "--image-opts", "--target-image-opts",
            self._source, target,
        ]  # fmt: skip
        with closing(ours):
            with closing(theirs):
                running = self._program.start(arguments, reads=self._fd, fds=[theirs.fileno()])
            with running:
                export = Export(ours, self.size, lambda: self._waiting(running))
                try:
                    for piece in export.writes():
                        yield piece
                        self._waiting(running)
                except Misbehaved as error:
                    raise self._failed(running, error) from error
                if running.ended(_TIMEOUT, lambda: self._waiting(running)) != 0:
                    raise self._failed(running)

    def _waiting(self, running: Running) -> None:
        running.listen()
        self._check()
        if monotonic() > self._ends:
            raise TransferTimeout(
                f"{self._ref} was not converted within {self._seconds:.0f} s",
                hint="raise convert_timeout in [imagebroker]",
                retryable=False,
            )

    def _failed(self, running: Running, error: Misbehaved | None = None) -> Exception:
        status = running.ended(_HANGUP_TIMEOUT, lambda: None)
        said = running.said or (str(error) if error else f"status {status}")
        if status is None:
            return TransferError(
                f"{self._ref}: qemu-img misbehaved: {error or 'it did not end'}", retryable=False
            )
        memory = "memory" in said or "allocate" in said
        return FormatError(
            f"{self._ref}: qemu-img cannot convert it: {said}",
            hint="raise convert_memory in [imagebroker]"
            if memory
            else "get the image again: it is damaged",
            found=self._kind,
        )
