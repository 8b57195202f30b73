"""Unfinished uploads: their parts take up space, and no list shows them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from imagebroker.plugin import BackendHost, Image, ImageNotFound
from imagebroker_s3.client import Server


def abandoned(
    server: Server,
    host: BackendHost,
    bucket: str,
    prefix: str,
    older_than: float,
    *,
    dry_run: bool,
) -> Iterator[Image]:
    """Abort the uploads that are so many seconds old; yields what each would have become."""
    # Servers say whole seconds, and Swift rounds them up.
    latest = datetime.now(UTC) - timedelta(seconds=older_than - 1)
    for upload in list(_uploads(server, bucket, prefix)):
        key, begun = str(upload["Key"]), upload["Initiated"].astimezone(UTC)
        if begun > latest:
            continue
        ref = host.uri(bucket, key)
        if not dry_run:
            try:
                server.call(
                    ref, "abort_multipart_upload", Bucket=bucket, Key=key,
                    UploadId=upload["UploadId"],
                )  # fmt: skip
            except ImageNotFound:
                continue  # it ended meanwhile
        yield Image(ref, name=key.rpartition("/")[2], status="saving", created_at=begun)


def _uploads(server: Server, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    place: dict[str, Any] = {}
    while True:
        answer = server.call(
            f"the uploads in {bucket}", "list_multipart_uploads", Bucket=bucket,
            Prefix=prefix or None, **place,
        )  # fmt: skip
        yield from answer.get("Uploads") or ()
        place = {
            "KeyMarker": answer.get("NextKeyMarker"),
            "UploadIdMarker": answer.get("NextUploadIdMarker"),
        }
        if not answer.get("IsTruncated") or not place["KeyMarker"]:
            return
