"""The data of one opened image, from any of its servers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from imagebroker.plugin import (
    BackendError,
    Buffer,
    Gone,
    Image,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    ImageSource,
    InvalidImageRef,
    NotReady,
    PolicyViolation,
    RangeIgnored,
    TooLarge,
    TransferError,
    foreign_coding,
    http,
    printable,
)
from imagebroker_glance.client import Answer, GlanceApi
from imagebroker_glance.identity import Identity

#: What stores without ranges answer to one.
_NO_RANGE = (400, 416)
#: Fields of a record that must not change during a transfer.
_LASTING = ("status", "size", "disk_format", "os_hash_algo", "os_hash_value", "checksum")


def check_readable(image: Image) -> None:
    """Refuse an image that has no data according to its status.

    :raises NotReady, Gone, PolicyViolation, BackendError: by status.
    """
    what = f"image {image.id} is {image.status}"
    if image.status in ("queued", "saving", "importing", "uploading"):
        raise NotReady(f"{what}: its data is not stored yet", hint="wait until it is active")
    if image.status == "deactivated":
        raise PolicyViolation(what, hint="ask an admin of the image service to reactivate it")
    if image.status in ("deleted", "pending_delete", "killed"):
        raise Gone(what, hint="use another image with the same content")
    if image.status != "active":
        raise BackendError(what, hint="wait until it is active", retryable=False)


class GlanceSource(ImageSource):
    """Reads `GET /v2/images/ID/file`; with ranges only if the record has a digest of the data."""

    parallel_reads = 1

    def __init__(
        self, api: GlanceApi, identity: Identity, image: Image, raw: Mapping[str, Any], server: str
    ) -> None:
        self.image = image
        self.seekable = image.version is not None
        #: Many stores do not support ranges, and Glance does not say so beforehand.
        self.may_refuse_ranges = True
        self._api = api
        self._identity = identity
        self._first = {name: raw.get(name) for name in _LASTING}
        self._servers = deque(identity.servers())
        self._first_server(server)
        self._begun = self._closed = False

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        """Checks the record again before every later request, and after the last byte."""
        size = self.image.size
        end = size if stop is None else stop if size is None else min(stop, size)
        if self._begun:
            self._look_again()
        self._begun = True
        if start and end is not None and start >= end:
            return
        answer = self._request(start, end)
        if answer is not None:
            try:
                yield from self._pieces(answer, start, end)
            finally:
                answer.body.close()  # after a complete body, its connection is back in the pool
        if end == size:
            self._look_again()

    def check_permitted(self) -> None:
        """Request the first byte of the data.

        :raises NotAuthorized, NotReady, ...: the caller cannot read it.
        """
        answer = self._ask("bytes=0-0")
        if answer is None:  # most stores do not support ranges
            answer = self._ask("")
        if answer is not None:
            answer.body.close()
            if answer.status == 204:
                self._check_empty()

    def _ask(self, span: str) -> Answer | None:
        """What the servers answer; None to a range that the store does not support."""
        try:
            return self._api.data(self._identity, str(self.image.id), span, list(self._servers))
        except (InvalidImageRef, BackendError) as error:
            if span and getattr(error, "status", None) in _NO_RANGE:
                return None
            raise

    def close(self) -> None:
        """Ends a read that waits in another thread; the connections are this source's alone."""
        self._closed = True
        self._api.sessions.close()

    def _look_again(self) -> None:
        """:raises ImageChanged: the record has changed since the image was opened."""
        if self._closed:
            raise self._error(TransferError, "the source is closed")
        try:
            raw, _ = self._api.show(self._identity, str(self.image.id), list(self._servers))
        except ImageNotFound:
            return  # deleted meanwhile: the transfer can finish, and its data is verified
        for name, first in self._first.items():
            # A digest that was added later (computed in the background) is not a change.
            if raw.get(name) != first and not (first is None and name.startswith("os_hash")):
                raise self._error(
                    ImageChanged,
                    f"its {name} changed from {first!r} to {raw.get(name)!r}",
                    hint="download it again",
                )

    def _request(self, start: int, end: int | None) -> Answer | None:
        """The response with the data from `start` on; None for an empty image."""
        span = ""
        if start:
            span = f"bytes={start}-{'' if end is None or end == self.image.size else end - 1}"
        try:
            answer = self._ask(span)
            if answer is None:
                raise self._no_range(start, "an error")
            self._first_server(answer.server)
            return self._acceptable(answer, start, end)
        except RangeIgnored:
            self.seekable = False
            raise
        except ImageBrokerError:
            self._servers.rotate(-1)
            raise

    def _first_server(self, server: str) -> None:
        while server in self._servers and self._servers[0] != server:
            self._servers.rotate(-1)

    def _acceptable(self, answer: Answer, start: int, end: int | None) -> Answer | None:
        try:
            if answer.status == 204:
                self._check_empty()
                return None
            self._check_head(answer.body.head, start, end)
        except ImageBrokerError:
            answer.body.close()
            raise
        return answer

    def _check_empty(self) -> None:
        """:raises NotReady: the image should have data (204 means a record without data)."""
        if self.image.size != 0:
            raise self._error(
                NotReady,
                "it is active, but its store has no data",
                hint="ask an admin of the image service to look for it; if it is lost, delete the"
                " image and create it again",
            )

    def _check_head(self, head: http.Head, start: int, end: int | None) -> None:
        """Check that the response matches the request, before the first byte."""
        if coding := foreign_coding(head.all("content-encoding"), ()):
            raise self._error(
                TransferError,
                f"it is sent encoded as {printable(coding, 60)!r}, which was not asked for",
                hint="switch compression off in the server or proxy",
            )
        if start:
            self._check_range(head, start, end)
        elif head.status != 200:
            raise BackendError(
                f"image {self.image.id}: the server answered {head.status}",
                hint="check the image service's log",
                retryable=False,
            )
        wanted, length = self.image.size, head.content_length
        if start and wanted is not None and end is not None:
            wanted = end - start
        if wanted is None or length is None or length == wanted:
            return
        kind: type[ImageBrokerError] = TooLarge if length > wanted else TransferError
        raise self._error(kind, f"expected {wanted} bytes, but the response has {length}")

    def _check_range(self, head: http.Head, start: int, end: int | None) -> None:
        if head.status != 206:
            raise self._no_range(start, f"status {head.status}")
        found, size = http.content_range(head), self.image.size
        if found is not None:
            first, stop, total = found
            wanted = (start, total if end is None else end, total if size is None else size)
            if (first, stop, total) == wanted:
                self.may_refuse_ranges = False
                return
        raise self._error(
            RangeIgnored,
            f"requested byte {start}, but the server sent {head.all('content-range')}",
        )

    def _no_range(self, start: int, what: str) -> ImageBrokerError:
        return self._error(
            RangeIgnored, f"the server does not support ranges: byte {start} ({what})"
        )

    def _pieces(self, answer: Answer, start: int, end: int | None) -> Iterator[Buffer]:
        """Not fewer bytes than in the record, and not more."""
        at = start
        try:
            for piece in answer.body.blocks():
                at += len(piece)
                if end is None or at <= end:
                    yield piece
                    continue
                if end == self.image.size:
                    raise self._error(TooLarge, f"the server sent more than {end} bytes")
                if more := len(piece) - (at - end):
                    yield piece[:more]
                return
            if end is not None and at < end:
                raise self._error(TransferError, f"the data ended after {at} of {end} bytes")
        except ImageBrokerError:
            self._servers.rotate(-1)
            raise

    def _error(
        self, kind: type[ImageBrokerError], what: str, hint: str = "check the image service's log"
    ) -> ImageBrokerError:
        return kind(f"image {self.image.id}: {what}", hint=hint)
