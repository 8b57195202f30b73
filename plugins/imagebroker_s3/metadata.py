"""The record of an image, from what S3 says of its object."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from imagebroker.plugin import Image, objects

#: Bytes of metadata that AWS takes (2 KiB with the names).
MAX_METADATA = 1900


def image_of(ref: str, key: str, answer: Mapping[str, Any]) -> Image:
    """The record, from the answer to a HEAD."""
    changed = answer.get("LastModified")
    return objects.image_of(
        ref,
        key,
        answer.get("Metadata") or {},
        size=answer.get("ContentLength"),
        changed=changed if isinstance(changed, datetime) else None,
        version=version_id(answer) or etag(answer),
    )


#: What a copy that has other metadata loses, unless it says it again.
_LASTING = (
    "BucketKeyEnabled", "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage",
    "ContentType", "Expires", "SSEKMSKeyId", "ServerSideEncryption", "StorageClass",
    "WebsiteRedirectLocation",
)  # fmt: skip


def lasting(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What must be said again when an object gets another record, from the answer to a HEAD."""
    kept = {name: answer[name] for name in _LASTING if answer.get(name)}
    if kept.get("ServerSideEncryption") != "aws:kms":
        kept.pop("SSEKMSKeyId", None)
    theirs = {
        name: value
        for name, value in (answer.get("Metadata") or {}).items()
        if not name.startswith(objects.PREFIX)
    }
    return kept | {"Metadata": theirs}


def is_locked(answer: Mapping[str, Any]) -> bool:
    """Whether its owner wants an object to stay as it is (Object Lock)."""
    until = answer.get("ObjectLockRetainUntilDate")
    kept = isinstance(until, datetime) and until > datetime.now(UTC)
    return kept or answer.get("ObjectLockLegalHoldStatus") == "ON"


def version_id(answer: Mapping[str, Any]) -> str | None:
    """The id of this version, where the bucket keeps versions."""
    found = answer.get("VersionId")
    return found if isinstance(found, str) and found not in ("", "null") else None


def etag(answer: Mapping[str, Any]) -> str | None:
    """The ETag, if it promises that equal means equal bytes."""
    found = answer.get("ETag")
    return found if isinstance(found, str) and found.startswith('"') else None
