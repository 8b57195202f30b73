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
    BackendHost,
    ConfigError,
    Conflict,
    Context,
    Finding,
    Image,
    ImageBackend,
    ImageData,
    ImageQuery,
    ImageRef,
    ImageSource,
    InvalidImageRef,
    RefForm,
    UnsupportedOperation,
    http,
)
from imagebroker_s3.client import Server
from imagebroker_s3.metadata import FIELDS, image_of, metadata_of
from imagebroker_s3.options import OPTIONS
from imagebroker_s3.source import S3Source, settled

if TYPE_CHECKING:
    from oslo_config import cfg


#: Objects of at most so many bytes can be given other metadata in one request.
_MOST_COPIED = 5 * 1024**3


class S3Backend(ImageBackend):
    """Objects of one server, with one identity."""

    api_version = 1
    name = "s3"
    ref_form = RefForm(authority=True, path=True, query=True, opaque_path=True)
    options: ClassVar[Sequence[cfg.Opt]] = OPTIONS
    servers = ("endpoint_url",)
    record_fields = FIELDS
    serves_pages = True

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError, BackendLoadError: an option is wrong, or boto3 is missing."""
        super().__init__(host)
        self._server = Server(host)
        bucket, _, prefix = (host.options.create_in or "").strip("/").partition("/")
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        if {".", ".."} & {bucket, *prefix.split("/")}:
            raise ConfigError(
                f"[backend:{host.title}] create_in: {host.options.create_in!r} is no place",
                hint="write it as bucket or bucket/prefix",
            )

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return self.open_at(context, ref, 0)

    def open_at(self, context: Context, ref: ImageRef, start: int) -> ImageSource:
        where, record = self._found(ref)
        return S3Source(self._server.http, ref, self._server.url(ref, where), record, start)

    def probe(self, context: Context, ref: ImageRef) -> Image:
        where, record = self._found(ref)
        url = self._server.url(ref, where)
        return settled(record, http.probe(self._server.http, ref, url))

    def get(
        self,
        context: Context,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        return self._found(ref)[1]

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        """The objects below `create_in`. Their records are in their metadata: one request each."""
        self._needs_place("list images")
        return query.apply(self.host.bounded(self._objects()))

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        """Store an object named `image.name` below `create_in`."""
        from imagebroker_s3.upload import Upload

        self._needs_place("create images")
        if data is None:
            raise InvalidImageRef(
                "the s3 backend cannot create an image without data", hint="pass its data"
            )
        key = self._prefix + _checked_name(image.name)
        new = replace(image, ref=self.host.uri(self._bucket, key), created_at=datetime.now(UTC))
        Upload(self._server, self.host, self._bucket, key, new, data).run()
        return self._record(new.ref, {"Bucket": self._bucket, "Key": key})

    def update(
        self,
        context: Context,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        """Give an object other metadata, on the server."""
        where, record = self._found(ref)
        if data is not None:
            raise Conflict(f"{ref} has its data already", hint="create another image")
        if (record.size or 0) > _MOST_COPIED:
            raise UnsupportedOperation(
                f"{ref} has {record.size} bytes, and S3 changes the metadata of at most "
                f"{_MOST_COPIED}",
                hint="create the image again with the new fields",
            )
        self._server.call(
            ref, "copy_object", **where, CopySource=dict(where), MetadataDirective="REPLACE",
            CopySourceIfMatch=record.version,
            Metadata=metadata_of(_changed(record, changes, purge_props)),
        )  # fmt: skip
        return self._record(record.ref, {"Bucket": where["Bucket"], "Key": where["Key"]})

    def delete(self, context: Context, ref: ImageRef) -> None:
        from imagebroker_s3.errors import refused_delete

        where, record = self._found(ref)
        if record.protected:
            raise refused_delete(ref)
        self._server.call(ref, "delete_object", **where)

    def purge(self, context: Context, older_than: float, dry_run: bool) -> Iterator[Image]:
        """Abort uploads below `create_in` that nobody goes on with."""
        from imagebroker_s3.leftovers import abandoned

        self._needs_place("purge uploads")
        return abandoned(
            self._server, self.host, self._bucket, self._prefix, older_than, dry_run=dry_run
        )

    def check(self, context: Context) -> Iterator[Finding]:
        if self._server.anonymous:
            yield Finding("no keys are configured: requests are anonymous", option="access_key")
        if not self._bucket:
            if not self._server.anonymous:
                self._server.call("the list of buckets", "list_buckets")
                yield Finding("the server accepts the keys")
            return
        place = f"the bucket {self._bucket}"
        answer = self._server.call(
            place, "list_objects_v2", Bucket=self._bucket, Prefix=self._prefix or None, MaxKeys=1
        )
        if "KeyCount" not in answer and "Contents" not in answer and "Name" not in answer:
            yield Finding(
                f"what answers for {place} does not speak S3", FAILURE, "check endpoint_url",
                "endpoint_url",
            )  # fmt: skip
            return
        yield Finding(f"{place} can be listed", option="create_in")

    def close(self) -> None:
        self._server.close()

    def _found(self, ref: ImageRef) -> tuple[dict[str, str], Image]:
        """Where an object is, and its record."""
        where = {"Bucket": ref.authority or "", "Key": ref.key}
        if ref.query is not None:
            name, _, value = ref.query.partition("=")
            if name != "versionId" or not value or "&" in value:
                raise InvalidImageRef(f"{ref} has a query other than ?versionId=…")
            where["VersionId"] = value
        text = ref.text if ref.query is not None else self.host.uri(where["Bucket"], where["Key"])
        return where, self._record(text, where)

    def _record(self, text: str, where: Mapping[str, str]) -> Image:
        answer = self._server.call(text, "head_object", **where)
        return image_of(text, where["Key"], answer)

    def _objects(self) -> Iterator[Image]:
        token = None
        while True:
            answer = self._server.call(
                f"the bucket {self._bucket}", "list_objects_v2", Bucket=self._bucket,
                Prefix=self._prefix or None, ContinuationToken=token,
            )  # fmt: skip
            for each in answer.get("Contents") or ():
                yield from self._listed(str(each["Key"]))
            token = answer.get("NextContinuationToken")
            if not answer.get("IsTruncated") or not token:
                return

    def _listed(self, key: str) -> Iterator[Image]:
        """The record of a listed object; nothing if a ref cannot name it, or it is gone."""
        from imagebroker.plugin import ImageNotFound

        if key.endswith("/") or {".", ".."} & set(key.split("/")):
            return  # a folder of some program's, or what HTTP clients would change
        try:
            yield self._record(
                self.host.uri(self._bucket, key), {"Bucket": self._bucket, "Key": key}
            )
        except ImageNotFound:
            return  # deleted meanwhile

    def _needs_place(self, what: str) -> None:
        if not self._bucket:
            raise UnsupportedOperation(
                f"the s3 backend cannot {what} without a bucket",
                hint="set create_in to bucket or bucket/prefix",
            )


def _checked_name(name: str | None) -> str:
    """:raises InvalidImageRef: no key can be made of it."""
    found = name or ""
    if not found or found.endswith("/") or {"", ".", ".."} & set(found.split("/")):
        raise InvalidImageRef(
            f"{name!r} cannot be the key of an object",
            hint="set name to text without empty, . or .. parts between slashes",
        )
    try:
        size = len(found.encode())
    except UnicodeEncodeError:
        size = 1025
    if size > 900 or not found.isprintable():
        raise InvalidImageRef(
            f"{found[:50]!r} cannot be the key of an object",
            hint="set name to at most 900 bytes of printable text",
        )
    return found


def _changed(record: Image, changes: Mapping[str, Any], purge_props: bool) -> Image:
    """The record after an update."""
    fields = dict(changes)
    if "properties" in fields or purge_props:
        kept = {} if purge_props else dict(record.properties)
        merged = {**kept, **(fields.get("properties") or {})}
        fields["properties"] = {name: v for name, v in merged.items() if v is not None}
    if "name" in fields:
        fields["name"] = fields["name"] or None
    fields.pop("size", None)
    return replace(record, **fields)
