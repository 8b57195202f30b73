"""Detects the disk format of the stored bytes, and whether it is safe to open them on a host.

`FormatPolicy` is the requirement, `FormatCheck` the check of one attempt. The formats themselves
are in `formats/`; this module feeds them with bytes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import FormatError
from imagebroker.verify.formats.content import Verdict, inspect
from imagebroker.verify.formats.policy import PLAIN, VERIFIABLE, FormatPolicy
from imagebroker.verify.formats.spans import HEAD, LONGEST, TAIL, Piece, Span

__all__ = ["PLAIN", "VERIFIABLE", "FormatCheck", "FormatPolicy", "inspect_file", "inspect_spans"]

#: Bytes after which the beginning of the tail buffer is dropped.
_TAIL_SLACK = 16 * TAIL


class _Inspection:
    """Runs the reader of a format; every exception in it becomes a `FormatError`."""

    def __init__(self, policy: FormatPolicy, declared: str | None, size: int | None) -> None:
        policy.check_declared(declared)
        self._reader = inspect(policy, declared, size)
        self._size = size
        self._position = 0
        self._failed: FormatError | None = None
        #: The result of the reader; None: it is still running, or failed.
        self.verdict: Verdict | None = None
        #: The bytes that the reader wants next; None: the end.
        self.wanted: Span | None = None
        self._advance(None)

    def answer(self, piece: Piece) -> None:
        """Send the reader the bytes it wants. :raises FormatError: not acceptable."""
        span = self.wanted
        if span is not None:
            self._position = max(self._position, span.stop)
            if span.whole and len(piece.data) < span.stop - span.start:
                raise self._fail(_cut_off(span))
        self._advance(piece)

    def evidence(self) -> dict[str, Any]:
        """Call it after the last answer."""
        self.check()
        if self.verdict is None:
            raise FormatError("the content was not inspected to its end")
        return self.verdict._asdict()

    def check(self) -> None:
        """:raises FormatError: the same as before, if one was raised."""
        if self._failed is not None:
            raise self._failed

    def _advance(self, piece: Piece | None) -> None:
        try:
            self.wanted = next(self._reader) if piece is None else self._reader.send(piece)
        except StopIteration as stop:
            self.verdict = stop.value
        except FormatError as error:
            self._fail(error)
            raise
        except Exception as error:
            # Headers come from outside: a bug in a reader must not let an image pass.
            raise self._fail(_unreadable(error)) from error
        else:
            self._check_wanted()

    def _check_wanted(self) -> None:
        span = self.wanted
        if span is None:
            return
        if span.whole and self._size is not None and span.stop > self._size:
            raise self._fail(_cut_off(span))
        backwards = max(span.start, HEAD) < max(self._position, HEAD) and span.stop > HEAD
        if backwards or span.stop - span.start > LONGEST:
            raise self._fail(
                FormatError(
                    f"a header refers to bytes {span.start} to {span.stop}, which is not valid "
                    "in this format",
                    hint="the image is damaged; if you trust it, convert it with qemu-img",
                )
            )

    def _fail(self, error: FormatError) -> FormatError:
        self._failed = error
        self.wanted = None
        return error


class FormatCheck:
    """The check of one attempt: feed it the stored bytes, in order, then call `evidence`.

    It needs at most some 200 KiB of memory, whatever the headers say, and hardly any time: after
    the bytes that decide, it only keeps the last few KiB.
    """

    def __init__(self, policy: FormatPolicy, declared: str | None, size: int | None) -> None:
        """`declared`: the record's `disk_format`; `size`: the total number of bytes, if known.

        :raises FormatError: the declared format is never acceptable.
        """
        self._inspection = _Inspection(policy, declared, size)
        self._fed = 0
        self._head = bytearray()
        self._tail = bytearray()
        self._got = bytearray()
        #: Bytes before this position are not needed.
        self._idle_until = 0

    def feed(self, chunk: Buffer) -> None:
        """:raises FormatError: as soon as the bytes show that it is not acceptable."""
        start, self._fed = self._fed, self._fed + len(chunk)
        if len(chunk) >= TAIL:
            self._tail[:] = memoryview(chunk)[-TAIL:]
        else:
            self._tail += chunk
            if len(self._tail) > _TAIL_SLACK:
                del self._tail[:-TAIL]
        if self._fed > self._idle_until:
            self._look(start, chunk)

    def _look(self, start: int, chunk: Buffer) -> None:
        """Send the reader the bytes it waits for, once they are complete."""
        self._idle_until = 0
        self._inspection.check()
        if start < HEAD:
            self._head += memoryview(chunk)[: HEAD - start]
        while (span := self._inspection.wanted) is not None and self._collect(span, start, chunk):
            self._answer(span)
        if self._fed >= HEAD:
            self._idle_until = sys.maxsize if span is None else span.start

    def _collect(self, span: Span, start: int, chunk: Buffer) -> bool:
        """Add the available bytes of the span; True if it is complete."""
        if not self._got:
            self._got += self._head[span.start : span.stop]
        next_at = span.start + len(self._got)
        if start <= next_at < self._fed:
            self._got += memoryview(chunk)[next_at - start : span.stop - start]
        return span.start + len(self._got) == span.stop

    def _answer(self, span: Span | None) -> None:
        if span is None:
            piece = Piece(bytes(self._tail[-TAIL:]), self._fed)
        else:
            piece = Piece(bytes(self._got))
        self._got.clear()
        self._inspection.answer(piece)

    def evidence(self) -> dict[str, Any]:
        """`disk_format` and `virtual_size`; call it after the last byte.

        A plain disk is `raw`, with any partition table. :raises FormatError: not acceptable.
        """
        self._inspection.check()
        while self._inspection.verdict is None:
            span = self._inspection.wanted
            if span is not None:
                self._collect(span, self._fed, b"")
            self._answer(span)
        return self._inspection.evidence()


def inspect_file(
    fd: int, size: int, policy: FormatPolicy, declared: str | None = None
) -> dict[str, Any]:
    """As `FormatCheck`, for a file of `size` bytes, of which only the necessary ones are read.

    :raises FormatError: not acceptable. :raises OSError: the file cannot be read.
    """
    return inspect_spans(lambda start, stop: _read(fd, start, stop), size, policy, declared)


def inspect_spans(
    read: Callable[[int, int], bytes], size: int, policy: FormatPolicy, declared: str | None = None
) -> dict[str, Any]:
    """As `FormatCheck`, for `size` bytes of which `read(start, stop)` returns any part.

    :raises FormatError: not acceptable.
    """
    inspection = _Inspection(policy, declared, size)
    head = read(0, min(HEAD, size))
    while (span := inspection.wanted) is not None:
        stop = min(span.stop, size)
        inside = stop <= len(head)
        inspection.answer(Piece(head[span.start : stop] if inside else read(span.start, stop)))
    start = max(size - TAIL, 0)
    inspection.answer(Piece(head[start:] if size <= len(head) else read(start, size), size))
    return inspection.evidence()


def _read(fd: int, start: int, stop: int) -> bytes:
    found = bytearray()
    while start + len(found) < stop:
        chunk = os.pread(fd, stop - start - len(found), start + len(found))
        if not chunk:
            raise _cut_off(Span(start, stop))  # it was truncated in the meantime
        found += chunk
    return bytes(found)


def _cut_off(span: Span) -> FormatError:
    return FormatError(
        f"the content ends before byte {span.stop}, which its headers refer to",
        hint="get the image again: it is truncated or damaged",
    )


def _unreadable(error: Exception) -> FormatError:
    return FormatError(
        f"the headers are invalid ({type(error).__name__})",
        hint="the image is damaged; if you trust it, convert it with qemu-img",
    )
