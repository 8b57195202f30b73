"""Where an upload goes: an object of S3, in parts of a multipart upload."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from imagebroker.plugin import BackendHost, ImageNotFound, UnsupportedOperation, objects
from imagebroker_s3.client import Server
from imagebroker_s3.metadata import MAX_METADATA

#: Objects of at most so many bytes can be given other metadata in one request.
MAX_COPIED = 5 * 1024**3


class S3Object(objects.Destination):
    """One key of one bucket."""

    record_comes_last = False
    most_noted = MAX_COPIED
    most_metadata = MAX_METADATA

    def __init__(self, server: Server, host: BackendHost, ref: str, bucket: str, key: str) -> None:
        self._server, self._ref = server, ref
        self._where = {"Bucket": bucket, "Key": key}
        self._endpoint = host.options.endpoint_url or host.options.region or ""
        self._encryption = {
            "ServerSideEncryption": host.options.encryption, "SSEKMSKeyId": host.options.kms_key_id,
        }  # fmt: skip

    @property
    def address(self) -> tuple[str, ...]:
        return self._endpoint, *self._where.values()

    def find(self) -> objects.Stored | None:
        try:
            answer = self._server.head(self._ref, self._where)
        except ImageNotFound:
            return None
        return objects.Stored(answer.get("ContentLength"), answer.get("Metadata") or {})

    def put(self, body: bytes, metadata: Mapping[str, str]) -> None:
        answer = self._call(
            "put_object", Body=body, ContentMD5=_md5(body), IfNoneMatch="*", Metadata=metadata,
            **self._encryption,
        )  # fmt: skip
        if self._is_open(answer):
            self._call("delete_object", VersionId=answer.get("VersionId"))
            raise self._not_encrypted()

    def begin(self, metadata: Mapping[str, str]) -> str:
        answer = self._call("create_multipart_upload", Metadata=metadata, **self._encryption)
        upload_id = str(answer["UploadId"])
        if self._is_open(answer):
            self.abort(upload_id)
            raise self._not_encrypted()
        return upload_id

    def parts(self, upload_id: str) -> Mapping[int, objects.Part] | None:
        found: dict[int, objects.Part] = {}
        marker: int | None = None
        try:
            while True:
                answer = self._call("list_parts", UploadId=upload_id, PartNumberMarker=marker)
                for each in answer.get("Parts") or ():
                    number, etag = int(each["PartNumber"]), str(each["ETag"])
                    found[number] = objects.Part(number, each["Size"], etag.strip('"'), etag)
                marker = answer.get("NextPartNumberMarker")
                if not answer.get("IsTruncated") or not marker:
                    return found
        except ImageNotFound:
            return None

    def put_part(self, upload_id: str, part: objects.Part, body: bytes) -> objects.Part:
        answer = self._call(
            "upload_part", UploadId=upload_id, PartNumber=part.number, Body=body,
            ContentMD5=_base64(bytes.fromhex(part.md5)),
        )  # fmt: skip
        return part._replace(etag=str(answer["ETag"]))

    def join(
        self, upload_id: str, parts: Sequence[objects.Part], metadata: Mapping[str, str]
    ) -> None:
        every = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        self._call(
            "complete_multipart_upload", UploadId=upload_id, MultipartUpload={"Parts": every},
            IfNoneMatch="*",
        )  # fmt: skip

    def abort(self, upload_id: str) -> None:
        self._call("abort_multipart_upload", UploadId=upload_id)

    def note(self, metadata: Mapping[str, str], size: int) -> None:
        answer = self._call("head_object")
        if answer.get("ContentLength") != size:
            return  # somebody else's by now
        self._call(
            "copy_object", CopySource=dict(self._where), MetadataDirective="REPLACE",
            CopySourceIfMatch=answer.get("ETag"), Metadata=metadata, **self._encryption,
        )  # fmt: skip

    def _is_open(self, answer: Mapping[str, Any]) -> bool:
        """Whether a server ignores what it was asked to encrypt with."""
        wanted = self._encryption["ServerSideEncryption"]
        return bool(wanted) and answer.get("ServerSideEncryption") != wanted

    def _not_encrypted(self) -> UnsupportedOperation:
        return UnsupportedOperation(
            f"{self._ref}: the server does not encrypt with "
            f"{self._encryption['ServerSideEncryption']} what it stores",
            hint="remove encryption from the config file, or have the bucket encrypt by default",
        )

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return self._server.call(self._ref, operation, **self._where, **arguments)


def _md5(body: bytes) -> str:
    import hashlib

    return _base64(hashlib.md5(body, usedforsecurity=False).digest())


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
