"""Images in buckets of S3 and of servers that speak it: `s3://bucket/key`.

boto3 signs; connections, TLS, proxies and policy are the core's. The record of an image is in the
metadata of its object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from imagebroker.plugin import (
    FAILURE,
    WARNING,
    BackendError,
    BackendHost,
    Conflict,
    Context,
    Finding,
    Image,
    ImageBackend,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    RefForm,
    UnsupportedOperation,
    http,
    objects,
)
from imagebroker_s3 import rights
from imagebroker_s3.client import Server
from imagebroker_s3.metadata import MAX_METADATA, etag, image_of, is_locked, lasting, version_id
from imagebroker_s3.options import MIB, OPTIONS
from imagebroker_s3.source import S3Source, settled
from imagebroker_s3.upload import MAX_COPIED, S3Object

if TYPE_CHECKING:
    from oslo_config import cfg

#: The most parts that an object of S3 may have.
_MAX_PARTS = 10_000


class S3Backend(ImageBackend):
    """Objects of one server, with one identity."""

    api_version = 1
    name = "s3"
    ref_form = RefForm(authority=True, path=True, query=True, opaque_path=True)
    options: ClassVar[Sequence[cfg.Opt]] = OPTIONS
    servers = ("endpoint_url",)
    record_fields = objects.FIELDS
    serves_pages = True

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError, BackendLoadError: an option is wrong, or boto3 is missing."""
        super().__init__(host)
        self._server = Server(host)
        self._place = objects.Place.configured(host, "bucket")

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return self.open_at(context, ref, 0)

    def open_at(self, context: Context, ref: ImageRef, start: int) -> ImageSource:
        where, record, validator = self._readable(ref)
        there = self._server.location(ref, where)
        try:
            return S3Source(self._server.http, ref, *there, record, validator, start)
        except (NotAuthorized, BackendError) as error:
            reason = self._server.reason(ref, where)
            if reason is None:
                raise
            raise reason from error

    def probe(self, context: Context, ref: ImageRef) -> Image:
        where, record, _ = self._readable(ref)
        return settled(
            record, http.probe(self._server.http, ref, *self._server.location(ref, where))
        )

    def get(
        self,
        context: Context,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        return self._readable(ref)[1]

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        """The objects below `create_in`. Their records are in their metadata: one request each."""
        self._place.needed_to("list images")
        return query.apply(self.host.bounded(self._objects()))

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        """Store an object named `image.name` below `create_in`."""
        place, options = self._place.needed_to("create images"), self.host.options
        if data is None:
            raise InvalidImageRef(
                "the s3 backend cannot create an image without data", hint="pass its data"
            )
        key = place.key(image.name)
        ref = self.host.uri(place.bucket, key)
        new = replace(image, ref=ref, created_at=datetime.now(UTC))
        layout = objects.Layout(options.part_size * MIB, options.parallel_parts, _MAX_PARTS)
        there = S3Object(self._server, self.host, ref, place.bucket, key)
        objects.Upload(self.host, there, layout, new, data).run()
        return self._record(ref, {"Bucket": place.bucket, "Key": key})

    def update(
        self,
        context: Context,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        """Give an object other metadata, on the server."""
        where, record, found = self._found(ref)
        if data is not None:
            raise Conflict(f"{ref} has its data already", hint="create another image")
        if is_locked(found):
            raise PolicyViolation(
                f"{ref} is locked in the bucket (Object Lock), and a new version would not be",
                hint="end its retention or legal hold first, or create another image",
            )
        if (record.size or 0) > MAX_COPIED:
            raise UnsupportedOperation(
                f"{ref} has {record.size} bytes, and S3 changes the metadata of at most "
                f"{MAX_COPIED}",
                hint="create the image again with the new fields",
            )
        new = objects.metadata_of(objects.changed(record, changes, purge_props), MAX_METADATA)
        kept = lasting(found) | rights.of(self._server, ref, where)
        kept["Metadata"] |= new
        place = {"Bucket": where["Bucket"], "Key": where["Key"]}
        self._server.call(
            ref, "copy_object", **place, CopySource=dict(where), MetadataDirective="REPLACE",
            CopySourceIfMatch=found.get("ETag"), **kept,
        )  # fmt: skip
        return self._record(record.ref, place)

    def delete(self, context: Context, ref: ImageRef) -> None:
        where, record, _ = self._found(ref)
        objects.check_unprotected(record)
        self._server.call(ref, "delete_object", **where)

    def purge(self, context: Context, older_than: float, dry_run: bool) -> Iterator[Image]:
        """Abort uploads below `create_in` that nobody goes on with."""
        from imagebroker_s3.leftovers import abandoned

        place = self._place.needed_to("purge uploads")
        return abandoned(
            self._server, self.host, place.bucket, place.prefix, older_than, dry_run=dry_run
        )

    def check(self, context: Context) -> Iterator[Finding]:
        if self._server.anonymous:
            yield Finding("no keys are configured: requests are anonymous", option="access_key")
        bucket = self._place.bucket
        if not bucket:
            if not self._server.anonymous:
                self._server.call("the list of buckets", "list_buckets")
                yield Finding("the server accepts the keys")
            return
        place = f"the bucket {bucket}"
        answer = self._server.call(
            place, "list_objects_v2", Bucket=bucket, Prefix=self._place.prefix or None, MaxKeys=1
        )
        if "KeyCount" not in answer and "Contents" not in answer and "Name" not in answer:
            yield Finding(
                f"what answers for {place} does not speak S3", FAILURE, "check endpoint_url",
                "endpoint_url",
            )  # fmt: skip
            return
        yield Finding(f"{place} can be listed", option="create_in")
        if region := self._server.other_region(bucket):
            yield Finding(
                f"{place} is in {region}: each command asks elsewhere first", WARNING,
                f"set region = {region}", "region",
            )  # fmt: skip

    def close(self) -> None:
        self._server.close()

    def _where(self, ref: ImageRef) -> dict[str, str]:
        where = {"Bucket": ref.authority or "", "Key": ref.key}
        if ref.query is not None:
            name, _, value = ref.query.partition("=")
            if name != "versionId" or not value or "&" in value:
                raise InvalidImageRef(
                    f"{ref} has a query other than versionId",
                    hint="write a signed URL as https://; else, only versionId may follow the ?",
                )
            where["VersionId"] = value
        return where

    def _found(self, ref: ImageRef) -> tuple[dict[str, str], Image, dict[str, Any]]:
        """Where an object is, its record, and the answer that it is from."""
        where = self._where(ref)
        text = ref.text if ref.query is not None else self.host.uri(where["Bucket"], where["Key"])
        try:
            answer = self._server.head(text, where)
        except ImageNotFound as error:
            reason = self._server.reason(text, where)
            if reason is None:
                raise
            raise reason from error
        return where, image_of(text, where["Key"], answer), answer

    def _readable(self, ref: ImageRef) -> tuple[dict[str, str], Image, str | None]:
        """The version to read, its record, and its ETag.

        Where the bucket keeps versions, the one that was found is read to its end, even if another
        one replaces it meanwhile.
        """
        where, record, answer = self._found(ref)
        found = version_id(answer)
        return where | ({"VersionId": found} if found else {}), record, etag(answer)

    def _record(self, text: str, where: Mapping[str, str]) -> Image:
        answer = self._server.call(text, "head_object", **where)
        return image_of(text, where["Key"], answer)

    def _objects(self) -> Iterator[Image]:
        token, bucket = None, self._place.bucket
        while True:
            answer = self._server.call(
                f"the bucket {bucket}", "list_objects_v2", Bucket=bucket,
                Prefix=self._place.prefix or None, ContinuationToken=token,
            )  # fmt: skip
            for each in answer.get("Contents") or ():
                yield from self._listed(str(each["Key"]))
            token = answer.get("NextContinuationToken")
            if not answer.get("IsTruncated") or not token:
                return

    def _listed(self, key: str) -> Iterator[Image]:
        """The record of a listed object; nothing if a ref cannot name it, or it is gone."""
        if not objects.can_be_named(key):
            return
        try:
            bucket = self._place.bucket
            yield self._record(self.host.uri(bucket, key), {"Bucket": bucket, "Key": key})
        except ImageNotFound:
            return  # deleted meanwhile
