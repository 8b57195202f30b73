"""The upload of one object: whole if it is small, in parts otherwise; all of it, or nothing."""

from __future__ import annotations

import base64
import contextvars
import hashlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any

from imagebroker.plugin import (
    BackendHost,
    Conflict,
    Image,
    ImageBrokerError,
    ImageData,
    ImageNotFound,
    TransferError,
    UploadFailed,
)
from imagebroker_s3.client import Server
from imagebroker_s3.metadata import image_of, metadata_of
from imagebroker_s3.options import MIB
from imagebroker_s3.state import Begun, Memory, remembered

LOG = logging.getLogger(__name__)

#: The most parts that an object may have.
_PARTS = 10_000
#: Objects of at most so many bytes can be given their digest afterwards.
_MOST_COPIED = 5 * 1024**3
#: After so many parts of a stream, the next ones are twice as large.
_GROWING = 2000


class Upload:
    """One upload, whose parts are checked by the server (Content-MD5)."""

    def __init__(
        self, server: Server, host: BackendHost, bucket: str, key: str, image: Image,
        data: ImageData,
    ) -> None:  # fmt: skip
        self._server, self._host = server, host
        self._where = {"Bucket": bucket, "Key": key}
        self._image, self._data = image, data
        smallest = host.options.part_size * MIB
        self._part_size = max(smallest, -(-(data.size or 0) // _PARTS))

    def run(self) -> None:
        """:raises Conflict: the object exists. :raises UploadFailed: it is not stored."""
        self._check_free()
        if self._data.rewindable and (self._data.size or 0) > self._part_size:
            for _ in self._data:
                pass  # for the digest, which must be known before the first part is sent
            self._note_digest()
        parts = _parts(self._data, self._part_size)
        first, second = next(parts, b""), next(parts, None)
        if second is None:
            self._whole(first)
        else:
            self._in_parts(_chained(first, second, parts))

    def _check_free(self) -> None:
        try:
            self._server.call(self._image.ref, "head_object", **self._where)
        except ImageNotFound:
            return
        raise self._taken()

    def _taken(self) -> Conflict:
        return Conflict(
            f"{self._image.ref} already exists", hint="choose another name, or delete it"
        )

    def _note_digest(self) -> None:
        digests = {"sha256": self._data.checksums["sha256"]}
        self._image = replace(self._image, checksums=digests)

    def _whole(self, body: bytes) -> None:
        self._note_digest()
        try:
            self._server.call(
                self._image.ref, "put_object", **self._where, Body=body, ContentMD5=_md5(body),
                IfNoneMatch="*", Metadata=metadata_of(self._image),
            )  # fmt: skip
        except TransferError as error:
            if not self._has_landed():
                raise self._failed(error) from error

    def _in_parts(self, parts: Iterator[bytes]) -> None:
        options = self._host.options
        endpoint = options.endpoint_url or options.region or ""
        with remembered(self._host, endpoint, *self._where.values()) as memory:
            begun, there = self._begin(memory)
            try:
                done = self._send(begun, there, parts)
                self._complete(begun, done)
            except BaseException as error:
                self._abort(begun, memory, error)
                if isinstance(error, TransferError) and self._data.failure is None:
                    raise self._failed(error) from error
                raise
            memory.forget()
        if not self._image.checksums:
            self._add_digest()

    def _begin(self, memory: Memory) -> tuple[Begun, dict[int, tuple[int, str]]]:
        """An upload that goes on, with the sizes and MD5s of its parts, or a new one."""
        metadata = metadata_of(self._image)
        earlier = memory.recall()
        if earlier is not None and _same(earlier.metadata, metadata):
            there = self._parts_of(earlier)
            if there is not None:
                LOG.info("%s: going on with %d parts", self._image.ref, len(there))
                return earlier, there
        if earlier is not None:
            self._try_abort(earlier.upload_id)
        answer = self._server.call(
            self._image.ref, "create_multipart_upload", **self._where, Metadata=metadata
        )
        begun = Begun(answer["UploadId"], self._part_size, metadata)
        memory.keep(begun)
        return begun, {}

    def _parts_of(self, begun: Begun) -> dict[int, tuple[int, str]] | None:
        """The parts that the server has; None if it knows no such upload."""
        found: dict[int, tuple[int, str]] = {}
        marker: int | None = None
        if begun.part_size != self._part_size:
            return None
        try:
            while True:
                answer = self._server.call(
                    self._image.ref, "list_parts", **self._where, UploadId=begun.upload_id,
                    PartNumberMarker=marker,
                )  # fmt: skip
                for part in answer.get("Parts") or ():
                    found[int(part["PartNumber"])] = part["Size"], part["ETag"].strip('"')
                marker = answer.get("NextPartNumberMarker")
                if not answer.get("IsTruncated") or not marker:
                    return found
        except ImageNotFound:
            return None

    def _send(
        self, begun: Begun, there: Mapping[int, tuple[int, str]], parts: Iterator[bytes]
    ) -> list[dict[str, Any]]:
        """Upload what the server does not have; a few parts at once."""
        lanes = self._host.options.parallel_parts
        done: dict[int, str] = {}
        under_way: dict[int, Future[str]] = {}
        with ThreadPoolExecutor(lanes, thread_name_prefix="imagebroker-s3") as pool:
            try:
                for number, part in zip(count(1), parts, strict=False):
                    digest = hashlib.md5(part, usedforsecurity=False).hexdigest()
                    if there.get(number) == (len(part), digest):
                        done[number] = digest
                        continue
                    run = contextvars.copy_context().run
                    under_way[number] = pool.submit(run, self._part, begun, number, part)
                    del part
                    if len(under_way) >= lanes:
                        first = min(under_way)
                        done[first] = under_way.pop(first).result()
                done |= {number: each.result() for number, each in under_way.items()}
            except BaseException:
                for each in under_way.values():
                    each.cancel()
                raise
        return [{"PartNumber": number, "ETag": done[number]} for number in sorted(done)]

    def _part(self, begun: Begun, number: int, part: bytes) -> str:
        answer = self._server.call(
            self._image.ref, "upload_part", **self._where, UploadId=begun.upload_id,
            PartNumber=number, Body=part, ContentMD5=_md5(part),
        )  # fmt: skip
        return str(answer["ETag"])

    def _complete(self, begun: Begun, done: list[dict[str, Any]]) -> None:
        try:
            self._server.call(
                self._image.ref, "complete_multipart_upload", **self._where,
                UploadId=begun.upload_id, MultipartUpload={"Parts": done}, IfNoneMatch="*",
            )  # fmt: skip
        except TransferError:
            if not self._has_landed(begun.metadata):
                raise

    def _has_landed(self, metadata: Mapping[str, str] | None = None) -> bool:
        """Whether the object is there after all: only the server's answer was lost."""
        wanted = metadata_of(self._image) if metadata is None else metadata
        try:
            answer = self._server.call(self._image.ref, "head_object", **self._where)
        except ImageBrokerError:
            return False
        same = all(answer.get("Metadata", {}).get(name) == value for name, value in wanted.items())
        return same and answer.get("ContentLength") == self._data.sent

    def _abort(self, begun: Begun, memory: Memory, error: BaseException) -> None:
        """Remove the parts: nothing is left of an upload that failed.

        :raises UploadFailed: they could not be removed.
        """
        problem = self._try_abort(begun.upload_id)
        if problem is None:
            memory.forget()
            return
        if isinstance(error, Exception):
            raise UploadFailed(
                f"{self._image.ref} could not be stored: {error}; and its parts could not be "
                f"removed: {problem}",
                hint=f"remove them later with: imagebroker purge --backend {self._host.title}",
                retryable=getattr(error, "retryable", False),
            ) from error

    def _try_abort(self, upload_id: str) -> ImageBrokerError | None:
        try:
            self._server.call(
                self._image.ref, "abort_multipart_upload", **self._where, UploadId=upload_id
            )
        except ImageNotFound:
            return None
        except ImageBrokerError as problem:
            return problem
        return None

    def _add_digest(self) -> None:
        """Note the digest of data that came as a stream: it is known only now."""
        if self._data.sent > _MOST_COPIED:
            return
        self._note_digest()
        try:
            answer = self._server.call(self._image.ref, "head_object", **self._where)
            if answer.get("ContentLength") != self._data.sent:
                return
            self._server.call(
                self._image.ref, "copy_object", **self._where, CopySource=dict(self._where),
                MetadataDirective="REPLACE", CopySourceIfMatch=answer.get("ETag"),
                Metadata=metadata_of(self._image),
            )  # fmt: skip
        except ImageBrokerError as error:
            LOG.warning("%s has no digest in its record: %s", self._image.ref, error)

    def _failed(self, error: ImageBrokerError) -> UploadFailed:
        return UploadFailed(
            f"{self._image.ref} could not be stored: {error}", hint=error.hint,
            retryable=error.retryable,
        )  # fmt: skip


def _parts(data: ImageData, size: int) -> Iterator[bytes]:
    """The data in pieces of one size, the last one shorter.

    Of data whose size nobody knows they grow, so that 10000 of them hold half a TiB.
    """
    held, number = bytearray(), 0
    wanted = size
    for chunk in data:
        held += chunk
        while len(held) >= wanted:
            yield bytes(memoryview(held)[:wanted])
            del held[:wanted]
            number += 1
            wanted = size if data.size is not None else size << (number // _GROWING)
    if held:
        yield bytes(held)


def _chained(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two records differ in nothing but the time of their creation."""
    images = [image_of("", "", {"Metadata": each}) for each in (one, other)]
    first, second = (replace(each, created_at=None) for each in images)
    return first == second
