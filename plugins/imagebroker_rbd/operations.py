"""Reads and writes that run in Ceph's library, and how they are waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from imagebroker.plugin import TransferError, forks
from imagebroker_rbd.errors import error_of, translated


class Operation:
    """One read or write under way."""

    def __init__(self, offset: int, size: int) -> None:
        self.offset, self.size = offset, size
        self.done = False
        #: What the library returned: a number of bytes, or a negative error number.
        self.result = 0
        self.data: bytes | None = None


class _Answer:
    value: Any = None
    error: BaseException | None = None


class OpenImage:
    """An image that is open in Ceph's library.

    It may be closed from any thread: what waits for an operation ends at once, and the library's
    image is closed when no call is in it any more.
    """

    def __init__(self, pool: Any, image: Any, subject: str) -> None:
        """`pool`: the Ioctx of the image, closed with it."""
        self._pool, self._image, self._subject = pool, image, subject
        self._changed = threading.Condition()
        self._users = 0
        self._closed = self._gone = False
        forks.tell_in_child(self)

    def in_child(self) -> None:
        # Their finalizers would wait for threads that only the parent has.
        forks.never_finalize(self._image)
        forks.never_finalize(self._pool)

    def __enter__(self) -> OpenImage:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pool_id(self) -> int:
        return int(self._pool.get_pool_id())

    def call(self, doing: str, method: str, *arguments: Any, **named: Any) -> Any:
        """The answer of one method of the library's image, which waits for the cluster."""
        return self._inside(doing, lambda: getattr(self._image, method)(*arguments, **named))

    def listed(self, doing: str, method: str) -> list[Any]:
        """All that an iterator of the library's image yields."""
        found: list[Any] = self._inside(doing, lambda: list(getattr(self._image, method)()))
        return found

    def diff(
        self, doing: str, offset: int, size: int, note: Callable[[int, int, bool], None]
    ) -> None:
        """Tell `note` where there is data. `close` ends it."""
        self._waited(doing, lambda: self._image.diff_iterate(offset, size, None, note))

    def ask(self, doing: str, name: str, method: str, data: bytes) -> bytes:
        """The answer of a method of the cluster's `rbd` class, on an object. `close` ends it."""
        return bytes(self._waited(doing, lambda: self._pool.execute(name, "rbd", method, data))[1])

    def content(self, doing: str, name: str) -> bytes:
        """The content of a small object in the pool. `close` ends it."""
        return bytes(self._waited(doing, lambda: self._pool.read(name)))

    def _inside(self, doing: str, call: Callable[[], Any]) -> Any:
        self._enter()
        try:
            with translated(doing):
                return call()
        finally:
            self._leave()

    def _waited(self, doing: str, call: Callable[[], Any]) -> Any:
        """The same in a thread of its own, which is left to itself if the image is closed."""
        operation, answer = Operation(0, 0), _Answer()

        def run() -> None:
            try:
                answer.value = self._inside(doing, call)
            except BaseException as error:
                answer.error = error
            with self._changed:
                operation.done = True
                self._changed.notify_all()

        thread = forks.Thread(target=run, name="imagebroker-rbd")
        thread.start()
        if thread.never_began:
            raise MemoryError
        self.wait(operation, doing)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def start_read(self, offset: int, size: int) -> Operation:
        operation = Operation(offset, size)

        def finished(completion: Any, data: bytes | None) -> None:
            self._finish(operation, completion.get_return_value(), data)

        self._enter()
        try:
            with translated(f"cannot read {self._subject}"):
                self._image.aio_read(offset, size, finished)
        except BaseException:
            self._leave()
            raise
        return operation

    def start_write(self, data: bytes, offset: int) -> Operation:
        operation = Operation(offset, len(data))

        def finished(completion: Any) -> None:
            self._finish(operation, completion.get_return_value(), None)

        self._enter()
        try:
            with translated(f"cannot write {self._subject}"):
                self._image.aio_write(data, offset, finished)
        except BaseException:
            self._leave()
            raise
        return operation

    def _finish(self, operation: Operation, result: int, data: bytes | None) -> None:
        """In a thread of the library."""
        with self._changed:
            operation.result, operation.data, operation.done = result, data, True
            self._changed.notify_all()
        self._leave(in_library=True)

    def wait(self, operation: Operation, doing: str) -> None:
        """Wait for an operation.

        :raises TransferError: it failed, or the image was closed.
        """
        with self._changed:
            while not operation.done:
                self._check_open()
                self._changed.wait()
        if operation.result < 0:
            raise error_of(f"{doing} at byte {operation.offset}", -operation.result)

    def close(self) -> None:
        """Idempotent, and from any thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._close_if_unused()

    @property
    def is_gone(self) -> bool:
        return self._gone

    def _check_open(self) -> None:
        if self._closed:
            raise TransferError(f"{self._subject} was closed")

    def _enter(self) -> None:
        with self._changed:
            self._check_open()
            self._users += 1

    def _leave(self, *, in_library: bool = False) -> None:
        with self._changed:
            self._users -= 1
            if not self._closed or self._users:
                return
        if in_library:  # whose threads must not wait for the library
            threading.Thread(
                target=self._close_if_unused, name="imagebroker-rbd-close", daemon=True
            ).start()
        else:
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._changed:
            if self._users or self._gone:
                return
            self._gone = True
        try:
            self._image.close()
        finally:
            self._pool.close()
