"""The data of one opened image, from any of its servers."""

from __future__ import annotations

import contextlib
import re
import socket
from collections import deque
from collections.abc import Collection, Iterator, Mapping
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
    NotReady,
    PolicyViolation,
    RangeIgnored,
    TooLarge,
    TransferError,
)
from imagebroker_glance.api import Answer, GlanceApi
from imagebroker_glance.identity import Identity
from imagebroker_glance.wire import Reply, refuse_encoding, translated

#: Bytes read from the socket at a time; what has arrived is yielded without waiting for more.
_PIECE = 256 * 1024
_LENGTH = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
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
        #: The socket on which a response is awaited, for `close`.
        self._sock: socket.socket | None = None

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
                self._sock = None
                answer.reply.close()  # after a complete body, its connection is back in the pool
        if end == size:
            self._look_again()

    def check_permitted(self) -> None:
        """Request the first byte of the data.

        :raises NotAuthorized, NotReady, ...: the caller cannot read it.
        """
        answer = self._ask({"Range": "bytes=0-0"}, (200, 204, 206, 400, 416))
        answer.reply.close()
        if answer.reply.status in (400, 416):  # most stores do not support ranges
            answer = self._ask({}, (200, 204))
            answer.reply.close()
        if answer.reply.status == 204:
            self._check_empty()

    def _ask(self, headers: Mapping[str, str], allowed: Collection[int]) -> Answer:
        with self._api.wire.watched(self._watch):
            return self._api.ask(
                self._identity, "GET", f"images/{self.image.id}/file",
                what=f"image {self.image.id}", allowed=allowed,
                headers={"Accept": "application/octet-stream, */*", **headers},
                servers=list(self._servers),
            )  # fmt: skip

    def close(self) -> None:
        self._closed = True
        sock = self._sock
        if sock is not None:
            # Ends a read that waits in another thread; it may have ended by itself already.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _watch(self, sock: socket.socket) -> None:
        self._sock = sock
        if self._closed:
            self.close()

    def _look_again(self) -> None:
        """:raises ImageChanged: the record has changed since the image was opened."""
        if self._closed:
            raise self._error(TransferError, "the source is closed")
        try:
            with self._api.wire.watched(self._watch):
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
        headers = {}
        if start:
            last = "" if end is None or end == self.image.size else end - 1
            headers["Range"] = f"bytes={start}-{last}"
        try:
            answer = self._ask(headers, (200, 204, 206, 400, 416) if start else (200, 204))
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
            if answer.reply.status == 204:
                self._check_empty()
                return None
            refuse_encoding(answer.reply, answer.url)
            self._check_head(answer.reply, start, end)
        except ImageBrokerError:
            answer.reply.close()
            raise
        return answer

    def _check_empty(self) -> None:
        """:raises NotReady: the image should have data (204 means a record without data)."""
        if self.image.size != 0:
            raise self._error(
                NotReady, "the service has its record, but no data", hint="upload its data again"
            )

    def _check_head(self, reply: Reply, start: int, end: int | None) -> None:
        """Check that the response matches the request, before the first byte."""
        if start:
            self._check_range(reply, start, end)
        lengths = set(reply.headers.getlist("Content-Length"))
        if any(not _LENGTH.fullmatch(value) for value in lengths) or len(lengths) > 1:
            raise self._error(TransferError, f"the response has the length {sorted(lengths)}")
        wanted = self.image.size
        if start and wanted is not None and end is not None:
            wanted = end - start
        length = int(lengths.pop()) if lengths else None
        if wanted is None or length is None or length == wanted:
            return
        kind: type[ImageBrokerError] = TooLarge if length > wanted else TransferError
        raise self._error(kind, f"expected {wanted} bytes, but the response has {length}")

    def _check_range(self, reply: Reply, start: int, end: int | None) -> None:
        if reply.status != 206:
            raise self._error(
                RangeIgnored,
                f"the server does not support ranges: byte {start} (status {reply.status})",
            )
        ranges = reply.headers.getlist("Content-Range")
        match = _RANGE.fullmatch(ranges[0]) if len(ranges) == 1 else None
        size = self.image.size
        if match is not None:
            first, last, total = map(int, match.groups())
            wanted = (start, total if end is None else end, total if size is None else size)
            if (first, last + 1, total) == wanted:
                self.may_refuse_ranges = False
                return
        raise self._error(RangeIgnored, f"requested byte {start}, but the server sent {ranges}")

    def _pieces(self, answer: Answer, start: int, end: int | None) -> Iterator[Buffer]:
        reply, at = answer.reply, start
        while end is None or at < end:
            try:
                with translated(answer.url):
                    piece = reply.read1(_PIECE)
            except ImageBrokerError:
                self._servers.rotate(-1)
                raise
            if self._closed:
                # After a shutdown below TLS, the rest could be read as plain text.
                raise self._error(TransferError, "the source was closed while it was read")
            if not piece:
                break
            at += len(piece)
            if end is not None and at > end:
                if end == self.image.size:
                    raise self._error(TooLarge, f"the server sent more than {end} bytes")
                piece, at = piece[: end - at], end
            yield piece
        self._check_end(answer, at, end)

    def _check_end(self, answer: Answer, at: int, end: int | None) -> None:
        """Not fewer bytes than in the record; without a Content-Length, not more, either."""
        if end is not None and at < end:
            self._servers.rotate(-1)
            raise self._error(TransferError, f"the data ended after {at} of {end} bytes")
        announced = "Content-Length" in answer.reply.headers
        if end is not None and end == self.image.size and not announced:
            with translated(answer.url):
                more = answer.reply.read1(1)
            if more:
                raise self._error(TooLarge, f"the server sent more than {end} bytes")

    def _error(
        self, kind: type[ImageBrokerError], what: str, hint: str = "check the image service's log"
    ) -> ImageBrokerError:
        return kind(f"image {self.image.id}: {what}", hint=hint)
