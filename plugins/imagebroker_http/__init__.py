"""Images behind http and https URLs; read-only.

Speaks HTTP/1.1. Nothing but the backend's section configures it: no environment variable, no
netrc, no cookies.
"""

from __future__ import annotations

from imagebroker.plugin import (
    BackendHost,
    Image,
    ImageBackend,
    ImageRef,
    ImageSource,
    RefForm,
    TransferError,
    http,
)
from imagebroker_http.answers import (
    check_coding,
    check_status,
    content_range,
    described,
    has_whole,
    starts_at,
)
from imagebroker_http.session import Answer, Client, Session
from imagebroker_http.source import HttpSource

__all__ = ["HttpBackend", "HttpSource"]

OPTIONS = http.OPTIONS

#: What servers answer to a request for a range that cannot be: there is no such byte, or they do
#: not know ranges.
_NO_RANGE = (400, 416, 501)


class HttpBackend(ImageBackend):
    """Serves the refs of http and https."""

    api_version = 1
    name = "http"
    ref_form = RefForm(host=True, port=True, path=True, query=True, opaque_path=True)
    options = OPTIONS
    served_checksums = "the server's digest field"
    serves_pages = True

    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        self._client = Client(host)

    def open(self, context: object, ref: ImageRef) -> ImageSource:
        session = Session(self._client, ref.text)
        answer = session.request("GET")
        try:
            return HttpSource(session, ref, answer)
        except BaseException:
            answer.close()
            raise

    def open_at(self, context: object, ref: ImageRef, start: int) -> ImageSource:
        session = Session(self._client, ref.text)
        answer = session.request("GET", ("Range", f"bytes={start}-"))
        if not has_whole(answer.head) and starts_at(answer.head) != start:
            answer.close()
            if answer.head.status in (206, *_NO_RANGE):
                return self.open(context, ref)
        try:
            return HttpSource(session, ref, answer, start)
        except BaseException:
            answer.close()
            raise

    def probe(self, context: object, ref: ImageRef) -> Image:
        """From an answer to a GET, because HEAD may be refused or permitted to others; for one
        byte, because the rest of an answer that nobody reads is sent all the same."""
        answer = _first_byte(Session(self._client, ref.text))
        check_coding(ref, answer)
        return described(ref, answer.place.url, answer.head, whole=has_whole(answer.head))

    def get(
        self,
        context: object,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        """The record, from a HEAD. From a GET for one byte where the server answers HEAD with an
        error, with no size or size 0, or not at all: it may serve the image all the same."""
        session = Session(self._client, ref.text)
        answer = _head(session)
        if answer is None:
            answer = _first_byte(session)
            return described(ref, answer.place.url, answer.head, whole=has_whole(answer.head))
        return described(ref, answer.place.url, answer.head, whole=False)


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


def _first_byte(session: Session) -> Answer:
    """The answer to a GET for one byte, closed.

    :raises: what it means if there is no image.
    """
    answer = session.request("GET", ("Range", "bytes=0-0"))
    answer.close()
    if answer.head.status == 206 and content_range(answer.head) is not None:
        return answer
    if answer.head.status in (*_NO_RANGE, 206):
        answer = session.request("GET")
        answer.close()
    check_status(answer.head, answer.place.url)
    return answer
