"""`HttpSource`: an image behind a URL, and what can be learned of one without opening it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

from imagebroker.backends.backend import Buffer, ImageSource
from imagebroker.exceptions import ImageChanged, RangeIgnored, TransferError
from imagebroker.http.answers import (
    check_coding,
    check_status,
    coding,
    content_range,
    described,
    has_whole,
    refuses_ranges,
    starts_at,
    strong_etag,
    takes_ranges,
)
from imagebroker.http.client import Client, Credentials, Session
from imagebroker.http.head import Field, Head
from imagebroker.http.pools import Answer
from imagebroker.model.image import Image
from imagebroker.model.reference import ImageRef

#: Connections at once to one server that takes ranges of a proven version.
PARALLEL_READS = 12
#: Answers to a range that say "not from the middle".
_REFUSED_RANGE = (400, 416)
#: What servers answer to a request for a range that cannot be: there is no such byte, or they do
#: not know ranges.
_NO_RANGE = (400, 416, 501)


class HttpSource(ImageSource):
    """The bytes behind a URL: seekable, parallel where the server can, bounded.

    Hands out the answer to the GET that opened it; other starts are requests of their own, on
    connections that are kept and belong to this source.
    """

    def __init__(
        self,
        client: Client,
        ref: ImageRef,
        url: str | None = None,
        *,
        headers: Mapping[str, str] | Credentials | None = None,
        version: str | None = None,
        start: int = 0,
    ) -> None:
        """Ask for the image from byte `start` on.

        :param url: where it is; by default the ref says that itself.
        :param headers: sent to the origin of the URL, and to none that it redirects to: a token,
            as `Credentials` if it can be renewed.
        :param version: the strong ETag that the image must have.
        :raises ImageNotFound, NotAuthorized, Gone, BackendError: as the status says.
        :raises ImageChanged: it has another version.
        :raises PolicyViolation, TransferError: there is no acceptable answer.
        """
        self._session = Session(client, url or ref.text, headers)
        self._expected = version
        self._conditional = True
        self._lock = threading.Lock()
        self._opened: Answer | None = None
        try:
            self._opened, start = self._first_answer(start)
            self._describe(ref, self._opened, start)
        except BaseException:
            self.close()
            raise

    def _first_answer(self, start: int) -> tuple[Answer, int]:
        """An answer, and the byte that was asked for."""
        if start:
            asked = ("Range", f"bytes={start}-"), *self._condition()
            answer = self._session.request("GET", *asked)
            if has_whole(answer.head) or starts_at(answer.head) == start:
                return answer, start
            if answer.head.status not in (206, *_NO_RANGE):
                return answer, start  # it is an error
            answer.close()
        return self._session.request("GET", *self._condition()), 0

    def _describe(self, ref: ImageRef, answer: Answer, start: int) -> None:
        part = starts_at(answer.head) if start else None
        if part is None:
            if answer.head.status == 412 and self._expected is not None:
                raise self._changed(": it has another version than was expected")
            check_status(answer.head, answer.place.url)
        self.image = described(ref, answer.place.url, answer.head, whole=part is None)
        if self._expected is not None and self.image.version != self._expected:
            raise self._changed(": it has another version than was expected")
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
        #: Of the answer that opened it.
        self.head = answer.head
        #: What later answers must have; a subclass may call the version something else.
        self._etag = self.image.version

    def _condition(self) -> list[Field]:
        expected = self._expected if self._conditional else None
        return [] if expected is None else [("If-Match", expected)]

    def ignore_version(self) -> None:
        """Balancers and mirrors may give the same bytes another ETag on each server."""
        self._conditional = False

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        end = self.image.size if stop is None else stop
        if end is not None and start >= end:
            return
        answer = self._answer(start, stop)
        try:
            yield from self._exactly(answer.blocks(), None if end is None else end - start)
        finally:
            answer.close()

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
        fields = self._condition() if whole else self._range(start, stop)
        answer = self._session.request("GET", *fields)
        try:
            if whole:
                if answer.head.status == 412 and self._expected is not None:
                    raise self._changed("")
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
        if self._etag is not None and self._conditional:
            fields.append(("If-Range", self._etag))
        return [*fields, *self._condition()]

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
        if self._conditional and self._etag is not None and strong_etag(head) is None:
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
        if self._etag is not None:
            if strong_etag(head) != self._etag:
                raise self._changed(": it has another ETag")
            return
        for name in ("etag", "last-modified"):
            before, now = self.head.get(name), head.get(name)
            if before is not None and now is not None and before != now:
                raise self._changed(": its ETag or date is another")

    def _check_coding(self, head: Head) -> None:
        """:raises ImageChanged: these bytes and the first ones are not of one kind."""
        if head.tokens("content-encoding") != self.head.tokens("content-encoding"):
            raise self._changed(": it is sent in another encoding")

    def _changed(self, how: str) -> ImageChanged:
        return ImageChanged(
            f"{self._session.title} changed while it was read{how}",
            hint="download it again from the start",
        )

    def _ignored(self, what: str) -> RangeIgnored:
        self.seekable = False
        return RangeIgnored(
            f"{self._session.title}: a range was requested, but the server {what}",
            hint="the transfer starts over; with range support it would resume",
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
                f"{self._session.title}: the answer ended {left} bytes early",
                hint="try again; if it happens again, check the server and the network",
            )


def probe(
    client: Client,
    ref: ImageRef,
    url: str | None = None,
    headers: Mapping[str, str] | Credentials | None = None,
    *,
    version: str | None = None,
) -> Image:
    """The image as opening it would describe it, if the caller may read its bytes.

    From an answer to a GET, because HEAD may be refused or permitted to others; for one byte,
    because the rest of an unread answer is sent anyway.

    :param version: a strong ETag that the image had before. The request is then conditional, and
        where the image still has it, only that is known of the image.
    """
    session = Session(client, url or ref.text, headers)
    try:
        answer = _first_byte(session, version)
        if answer.head.status == 304:
            return Image(ref=ref.text, version=version)
        check_coding(ref, answer)
        return described(ref, answer.place.url, answer.head, whole=has_whole(answer.head))
    finally:
        session.close()


def record(
    client: Client,
    ref: ImageRef,
    url: str | None = None,
    headers: Mapping[str, str] | Credentials | None = None,
) -> Image:
    """What the server says of an image, from a HEAD.

    From a GET for one byte where the server answers HEAD with an error, with no size or size 0, or
    not at all: it may serve the image anyway.
    """
    session = Session(client, url or ref.text, headers)
    try:
        answer = _head(session)
        if answer is None:
            answer = _first_byte(session)
            return described(ref, answer.place.url, answer.head, whole=has_whole(answer.head))
        return described(ref, answer.place.url, answer.head, whole=False)
    finally:
        session.close()


def _head(session: Session) -> Answer | None:
    """The answer to a HEAD, closed; None if it says nothing of an image."""
    try:
        answer = session.request("HEAD")
        answer.close()
        usable = answer.head.status == 200 and answer.head.content_length
    except TransferError:
        if not session.asked:
            raise  # no connection: a GET would not get one either
        return None
    return answer if usable else None


def _first_byte(session: Session, version: str | None = None) -> Answer:
    """The answer to a GET for one byte, closed; with `version`, a 304 that proves it is one too.

    :raises: what it means if there is no image.
    """
    known = [] if version is None else [("If-None-Match", version)]
    answer = session.request("GET", ("Range", "bytes=0-0"), *known)
    answer.close()
    if known and answer.head.status == 304:
        if strong_etag(answer.head) == version:
            return answer
        return _first_byte(session)  # If-None-Match also takes a weak ETag for the same
    if answer.head.status == 206 and content_range(answer.head) is not None:
        return answer
    if answer.head.status in (*_NO_RANGE, 206):
        answer = session.request("GET")
        answer.close()
    check_status(answer.head, answer.place.url)
    return answer
