"""Calls of plugin code in a thread of their own, as in the core, with a limit on their time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from imagebroker.backends.backend import Buffer, ImageSource

T = TypeVar("T")


class BackgroundCall(threading.Thread, Generic[T]):
    """A call in its own thread."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(name="imagebroker-kit", daemon=True)
        self._function = call
        self._answer: T
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._answer = self._function()
        except BaseException as error:
            self._error = error

    def ended(self, seconds: float) -> bool:
        self.join(seconds)
        return not self.is_alive()

    def answer(self) -> T:
        """:raises: what the call raised."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # the traceback would keep this frame, and so the error, alive
        return self._answer


@dataclass
class ReadResult:
    """What a `read` yielded, and how it ended."""

    data: bytearray = field(default_factory=bytearray)
    #: The chunks themselves, and how many bytes each had when it came.
    chunks: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    ended: bool = False
    #: Set at the first byte.
    begun: threading.Event = field(default_factory=threading.Event)

    def take(
        self, source: ImageSource, start: int, stop: int | None, most: int | None
    ) -> ReadResult:
        """Read until the end, an error, or `most` bytes."""
        reading = source.read(start, stop)
        try:
            for chunk in reading:
                self.add(chunk)
                if most is not None and len(self.data) >= most:
                    break
            else:
                self.ended = True
        except Exception as error:
            self.error = error
        finally:
            close = getattr(reading, "close", None)
            if close is not None:
                close()
        return self

    def add(self, chunk: Buffer) -> None:
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise TypeError(f"read yielded {type(chunk).__name__}, not bytes")
        self.chunks.append(chunk)
        self.data += chunk
        if self.data:
            self.begun.set()

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        return "its end" if self.ended else "nothing"
