"""The disk format: what the stored bytes are, and whether a host may open them.

`FormatPolicy` is the value, a `FormatCheck` belongs to one attempt. The judgement itself is in
`formats/`; here is how bytes get there.
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

#: Bytes after which what is too old for the tail is dropped.
_TAIL_SLACK = 16 * TAIL


class _Inspection:
    """One conversation with the readers; whatever goes wrong in them is a `FormatError`."""

    def __init__(self, policy: FormatPolicy, declared: str | None, size: int | None) -> None:
        policy.check_declared(declared)
        self._reader = inspect(policy, declared, size)
        self._size = size
        self._position = 0
        self._failed: FormatError | None = None
        #: What the reader came to; None: it has not, or it failed.
        self.verdict: Verdict | None = None
        #: What the reader wants next; None: the end.
        self.wanted: Span | None = None
        self._advance(None)

    def answer(self, piece: Piece) -> None:
        """Give the reader what it wants. :raises FormatError: the content is not acceptable."""
        span = self.wanted
        if span is not None:
            self._position = max(self._position, span.stop)
            if span.whole and len(piece.data) < span.stop - span.start:
                raise self._fail(_cut_off(span))
        self._advance(piece)

    def evidence(self) -> dict[str, Any]:
        """After the last answer."""
        self.check()
        if self.verdict is None:
            raise FormatError("the content was not inspected to its end")
        return vars(self.verdict).copy()

    def check(self) -> None:
        """:raises FormatError: it was raised before."""
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
            # Headers are made by strangers: an oversight of ours must not become a way in.
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
                    f"a header refers to bytes {span.start} to {span.stop}, where nothing of the "
                    "kind belongs",
                    hint="the image is damaged; convert it with qemu-img where you trust it",
                )
            )

    def _fail(self, error: FormatError) -> FormatError:
        self._failed = error
        self.wanted = None
        return error


class FormatCheck:
    """The check of one attempt: feed it what is stored, in order; `evidence` passes judgement.

    Memory is bounded (some 200 KiB) whatever the headers claim, and so is the time: after the
    bytes that decide, feeding only keeps the last few KiB.
    """

    def __init__(self, policy: FormatPolicy, declared: str | None, size: int | None) -> None:
        """`declared`: the record's `disk_format`; `size`: the bytes to come, None if unknown.

        :raises FormatError: nothing that is declared like this would be acceptable.
        """
        self._inspection = _Inspection(policy, declared, size)
        self._fed = 0
        self._head = bytearray()
        self._tail = bytearray()
        self._got = bytearray()
        #: No byte before this one can decide anything.
        self._idle_until = 0

    def feed(self, chunk: Buffer) -> None:
        """:raises FormatError: as soon as the byte has come that decides it."""
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
        """Give the reader what it waits for, if it has come."""
        self._idle_until = 0
        self._inspection.check()
        if start < HEAD:
            self._head += memoryview(chunk)[: HEAD - start]
        while (span := self._inspection.wanted) is not None and self._collect(span, start, chunk):
            self._answer(span)
        if self._fed >= HEAD:
            self._idle_until = sys.maxsize if span is None else span.start

    def _collect(self, span: Span, start: int, chunk: Buffer) -> bool:
        """Add what there is of the span; True if that is all of it."""
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
        """After the last byte: `disk_format` and `virtual_size`.

        A plain disk is `raw`, whatever partition table it has. :raises FormatError: refused.
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
    """What `FormatCheck` would say of the `size` bytes of a file; reads only the decisive ones.

    :raises FormatError: refused. :raises OSError: the file cannot be read.
    """
    return inspect_spans(lambda start, stop: _read(fd, start, stop), size, policy, declared)


def inspect_spans(
    read: Callable[[int, int], bytes], size: int, policy: FormatPolicy, declared: str | None = None
) -> dict[str, Any]:
    """What `FormatCheck` would say of `size` bytes of which `read(start, stop)` returns any part.

    The beginning is read once, however often it is looked at.

    :raises FormatError: refused.
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
            raise _cut_off(Span(start, stop))  # it shrank since its size was looked at
        found += chunk
    return bytes(found)


def _cut_off(span: Span) -> FormatError:
    return FormatError(
        f"the content ends before byte {span.stop}, where its headers refer to",
        hint="the image is cut off or damaged",
    )


def _unreadable(error: Exception) -> FormatError:
    return FormatError(
        f"the headers make no sense ({type(error).__name__})",
        hint="the image is damaged; convert it with qemu-img where you trust it",
    )
