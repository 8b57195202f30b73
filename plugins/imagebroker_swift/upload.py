"""Where an upload goes: an object of Swift, or segments and a manifest that names them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence

from imagebroker.plugin import ImageNotFound, http, objects
from imagebroker_swift import segments
from imagebroker_swift.client import Account, Reply
from imagebroker_swift.record import MAX_METADATA, headers_for, metadata_in
from imagebroker_swift.segments import Segment

#: Segments that a manifest can name, if the server does not say otherwise.
_MAX_SEGMENTS = 1000
_ABSENT = {"If-None-Match": "*"}


class SwiftObject(objects.Destination):
    """One key of one container; its segments are in another container."""

    record_comes_last = True
    most_metadata = MAX_METADATA

    def __init__(
        self, account: Account, ref: str, container: str, key: str, segments_container: str
    ) -> None:
        self._account, self._ref = account, ref
        self._container, self._key, self._segments = container, key, segments_container
        self._url = account.url(container, key)

    @property
    def address(self) -> tuple[str, ...]:
        return self._account.address, self._container, self._key

    def find(self) -> objects.Stored | None:
        try:
            head = self._account.ask(self._ref, "HEAD", self._url).head
        except ImageNotFound:
            return None
        return objects.Stored(head.content_length, metadata_in(head))

    def put(self, body: bytes, metadata: Mapping[str, str]) -> None:
        import hashlib

        etag = {"ETag": hashlib.md5(body, usedforsecurity=False).hexdigest()}
        self._put(self._url, {**etag, **_ABSENT, **headers_for(metadata)}, body)

    def begin(self, metadata: Mapping[str, str]) -> str:
        """Make the container for segments, of the same storage policy."""
        account = self._account
        what = f"the container {self._container}"
        head = account.ask(what, "HEAD", account.url(self._container)).head
        policy = head.get("x-storage-policy")
        headers = {"X-Storage-Policy": policy} if policy else {}
        try:
            account.ask(f"the container {self._segments}", "HEAD", account.url(self._segments))
        except ImageNotFound:
            self._put(account.url(self._segments), headers)
        return uuid.uuid4().hex

    def parts(self, upload_id: str) -> Mapping[int, objects.Part] | None:
        found = {}
        try:
            for each in segments.segments_below(
                self._account, self._segments, self._group(upload_id)
            ):
                number = each.key.rpartition("/")[2]
                if number.isdigit():
                    found[int(number)] = objects.Part(int(number), each.size, each.etag, each.etag)
        except ImageNotFound:
            return None
        return found or None

    def put_part(self, upload_id: str, part: objects.Part, body: bytes) -> objects.Part:
        self._put(self._segment_url(upload_id, f"{part.number:08d}"), {"ETag": part.md5}, body)
        return part._replace(etag=part.md5)

    def join(
        self, upload_id: str, parts: Sequence[objects.Part], metadata: Mapping[str, str]
    ) -> None:
        group = self._group(upload_id)
        every = [
            Segment(self._segments, f"{group}{each.number:08d}", each.size, each.md5)
            for each in parts
        ]
        most = _most_segments(self._account.offers())
        level = 0
        while len(every) > most:
            level += 1
            every = list(self._joined(upload_id, level, every, most))
        headers = {**_ABSENT, **headers_for(metadata)}
        url = self._account.url(self._container, self._key, multipart_manifest="put")
        self._put(url, headers, segments.manifest_of(every))

    def _joined(
        self, upload_id: str, level: int, every: Sequence[Segment], most: int
    ) -> Iterator[Segment]:
        """Manifests that are segments of the next manifest."""
        for at in range(0, len(every), most):
            some = every[at : at + most]
            key = f"{self._group(upload_id)}manifest-{level}-{at // most:08d}"
            url = self._account.url(self._segments, key, multipart_manifest="put")
            head = self._put(url, {}, segments.manifest_of(some)).head
            etag = (head.get("etag") or "").strip('"')
            yield Segment(self._segments, key, sum(each.size for each in some), etag, nested=True)

    def abort(self, upload_id: str) -> None:
        account, group = self._account, self._group(upload_id)
        if segments.is_used(account, self._container, self._key, group):
            return  # only the answer was lost that it is stored
        segments.remove(account, list(segments.segments_below(account, self._segments, group)))

    def _group(self, upload_id: str) -> str:
        return f"{self._key}{segments.MARK}{upload_id}/"

    def _segment_url(self, upload_id: str, name: str) -> str:
        return self._account.url(self._segments, self._group(upload_id) + name)

    def _put(self, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Reply:
        fields: list[http.Field] = [("Content-Type", "application/octet-stream"), *headers.items()]
        return self._account.ask(self._ref, "PUT", url, fields, body)


def _most_segments(offers: Mapping[str, object]) -> int:
    slo = offers.get("slo")
    most = slo.get("max_manifest_segments") if isinstance(slo, dict) else None
    return most if isinstance(most, int) and most > 1 else _MAX_SEGMENTS
