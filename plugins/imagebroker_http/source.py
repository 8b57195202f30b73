"""One opened http(s) image that hands out its bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from imagebroker.plugin import (
    Buffer,
    ImageChanged,
    ImageRef,
    ImageSource,
    RangeIgnored,
    TransferError,
)
from imagebroker_http.answers import (
    check_status,
    coding,
    content_range,
    described,
    refuses_ranges,
    starts_at,
    strong_etag,
    takes_ranges,
)
from imagebroker_http.head import Field, Head
from imagebroker_http.session import Answer, Session

#: Connections at once to one server that takes ranges of a proven version.
PARALLEL_READS = 12
#: Answers to a range that say "not from the middle".
_REFUSED_RANGE = (400, 416)


class HttpSource(ImageSource):
    """Hands out the answer to the GET that `open` sent; other starts are requests of their own."""

    def __init__(self, session: Session, ref: ImageRef, answer: Answer, start: int = 0) -> None:
        """`start`: where the range begins that was asked for.

        :raises: what the answer means if it is not the image.
        """
        part = starts_at(answer.head) if start else None
        if part is None:
            check_status(answer.head, answer.place.url)
        self.image = described(ref, answer.place.url, answer.head, whole=part is None)
        self.coding = coding(ref, answer)
        refused = refuses_ranges(answer.head) or (start > 0 and part is None)
        self.seekable = self.image.size is not None and not refused
        shown = takes_ranges(answer.head) or part is not None
        self.may_refuse_ranges = not shown
        # More than one at once only where the server has said, or shown, that it can.
        if self.seekable and self.image.version is not None and shown:
            self.parallel_reads = PARALLEL_READS
        #: Where the content of the answer that is open begins.
        self._opened_at = part or 0
        self._session = session
        self._first = answer.head
        self._opened: Answer | None = answer
        self._lock = threading.Lock()
        self._conditional = True

    def ignore_version(self) -> None:
        """Balancers and mirrors may give the same bytes another ETag on each server."""
        self._conditional = False

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        end = self.image.size if stop is None else stop
        if end is not None and start >= end:
            return
        answer = self._answer(start, stop)
        try:
            blocks = answer.connection.body()
            yield from self._exactly(blocks, None if end is None else end - start)
        finally:
            self._session.give_back(answer)

    def close(self) -> None:
        opened = self._take_opened()
        self._session.close()
        if opened is not None:
            opened.close()

    def _take_opened(self) -> Answer | None:
        with self._lock:
            opened, self._opened = self._opened, None
        return opened

    def _answer(self, start: int, stop: int | None) -> Answer:
        opened = self._take_opened()
        if opened is not None and start == self._opened_at:
            return opened
        if opened is not None:
            opened.close()
        whole = start == 0 and (stop is None or not self.seekable)
        answer = self._session.request("GET", *([] if whole else self._range(start, stop)))
        try:
            if whole:
                check_status(answer.head, answer.place.url)
                self._check_same(answer.head)
            else:
                self._check_part(answer, start, stop)
            self._check_coding(answer.head)
        except BaseException:
            answer.close()
            raise
        return answer

    def _range(self, start: int, stop: int | None) -> list[Field]:
        fields = [("Range", f"bytes={start}-{'' if stop is None else stop - 1}")]
        if self.image.version is not None and self._conditional:
            fields.append(("If-Range", self.image.version))
        return fields

    def _check_part(self, answer: Answer, start: int, stop: int | None) -> None:
        """Whether an answer is the range that was asked for, and of the same image.

        :raises ImageChanged, RangeIgnored: it is not.
        """
        head, size = answer.head, self.image.size
        if head.status == 412:
            raise self._changed("")
        if head.status in _REFUSED_RANGE:
            raise self._ignored(f"answers {head.status}")
        if head.status != 206:
            check_status(head, answer.place.url)
            self._check_same(head)
            self._check_coding(head)
            raise self._ignored("sends the whole")
        if self._conditional and self.image.version is not None and strong_etag(head) is None:
            raise self._ignored("does not say of which version the range is")
        self._check_validators(head)
        end = size if stop is None else stop if size is None else min(stop, size)
        found = content_range(head)
        if found is None or found[0] != start or end not in (None, found[1]):
            raise self._ignored("sends another range")
        if size not in (None, found[2]):
            raise self._ignored(f"gives its size as {found[2]} instead of {size} bytes")
        if head.content_length not in (None, found[1] - start):
            raise self._ignored("sends a range of another length")
        self.may_refuse_ranges = False

    def _check_same(self, head: Head) -> None:
        """:raises ImageChanged: the answer to a GET is that of another image."""
        self._check_validators(head)
        size, now = self.image.size, head.content_length
        if size is not None and now is not None and now != size:
            raise self._changed(f": it has {now} instead of {size} bytes")

    def _check_validators(self, head: Head) -> None:
        """:raises ImageChanged: ETag, or failing that Last-Modified, differ from the first ones."""
        if not self._conditional:
            return
        if self.image.version is not None:
            if strong_etag(head) != self.image.version:
                raise self._changed(": it has another ETag")
            return
        for name in ("etag", "last-modified"):
            before, now = self._first.get(name), head.get(name)
            if before is not None and now is not None and before != now:
                raise self._changed(": its ETag or date is another")

    def _check_coding(self, head: Head) -> None:
        """:raises ImageChanged: these bytes and the first ones are not of one kind."""
        if head.tokens("content-encoding") != self._first.tokens("content-encoding"):
            raise self._changed(": it is sent in another encoding")

    def _changed(self, how: str) -> ImageChanged:
        return ImageChanged(
            f"{self._session.title} changed while it was read{how}",
            hint="download it again from the start",
        )

    def _ignored(self, what: str) -> RangeIgnored:
        self.seekable = False
        return RangeIgnored(
            f"{self._session.title}: asked for the middle, the server {what}",
            hint="the transfer begins again; a server with range support would resume",
        )

    def _exactly(self, blocks: Iterator[memoryview], left: int | None) -> Iterator[Buffer]:
        """So many bytes, whatever the framing of the answer promises."""
        for block in blocks:
            if left is not None:
                block = block[:left]
                left -= len(block)
            yield block
            if left == 0:
                return
        if left:
            raise TransferError(
                f"{self._session.title}: the answer ends {left} bytes too early",
                hint="the server or something in between broke off; try again",
            )
