"""What errors of S3 and boto3 mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

from imagebroker.plugin import (
    BackendError,
    ConfigError,
    Conflict,
    ImageBrokerError,
    ImageNotFound,
    InvalidImageRef,
    MalformedAnswer,
    NotAuthorized,
    NotReady,
    QuotaExceeded,
    UnsupportedOperation,
    printable,
)

_KEYS = "check access_key, secret_key and region, and what the bucket's policy allows"

#: Codes that say more than the status.
_BY_CODE: dict[str, tuple[type[ImageBrokerError], str]] = {
    "NoSuchBucket": (ImageNotFound, "check the bucket's name, and endpoint_url"),
    "NoSuchKey": (ImageNotFound, "check the key"),
    "NoSuchVersion": (ImageNotFound, "check the versionId"),
    "NoSuchUpload": (ImageNotFound, "create the image again"),
    "InvalidBucketName": (InvalidImageRef, "check the bucket's name"),
    "KeyTooLongError": (InvalidImageRef, "choose a shorter name"),
    "InvalidAccessKeyId": (NotAuthorized, "check access_key"),
    "SignatureDoesNotMatch": (NotAuthorized, "check access_key and secret_key"),
    "AuthorizationHeaderMalformed": (NotAuthorized, "check region"),
    "IllegalLocationConstraintException": (NotAuthorized, "check region"),
    "PermanentRedirect": (NotAuthorized, "check region and endpoint_url"),
    "TemporaryRedirect": (NotAuthorized, "check region and endpoint_url"),
    "ExpiredToken": (NotAuthorized, "get new keys: these have expired"),
    "RequestTimeTooSkewed": (NotAuthorized, "set the clock of this host: timedatectl set-ntp true"),
    "InvalidObjectState": (NotReady, "restore it from the archive first: aws s3api restore-object"),
    "InvalidToken": (NotAuthorized, "check session_token"),
    "TokenRefreshRequired": (NotAuthorized, "get new keys: these have expired"),
    "QuotaExceeded": (QuotaExceeded, "delete something, or raise the quota"),
    "XMinioStorageFull": (QuotaExceeded, "the server's disks are full"),
    "EntityTooLarge": (QuotaExceeded, "the server takes no object of this size"),
    "MetadataTooLarge": (InvalidImageRef, "use fewer properties and tags"),
    "PreconditionFailed": (Conflict, "choose another name, or delete it"),
    "ConditionalRequestConflict": (Conflict, "try again"),
}
_BY_STATUS: dict[int, tuple[type[ImageBrokerError], str]] = {
    301: (NotAuthorized, "check region and endpoint_url"),
    307: (NotAuthorized, "check region and endpoint_url"),
    400: (BackendError, _KEYS),
    401: (NotAuthorized, _KEYS),
    403: (NotAuthorized, _KEYS),
    404: (ImageNotFound, "check the bucket and the key"),
    405: (UnsupportedOperation, "the server does not support this"),
    409: (Conflict, "try again"),
    411: (BackendError, "the server does not speak this version of S3"),
    412: (Conflict, "choose another name, or delete it"),
    413: (QuotaExceeded, "the server takes no object of this size"),
    416: (BackendError, "the object may have changed; try again"),
    501: (UnsupportedOperation, "the server does not support this"),
    507: (QuotaExceeded, "the server's disks are full"),
}


@contextmanager
def translated(subject: object) -> Iterator[None]:
    """Turn boto3's exceptions into ours; `subject` is what the request was about."""
    from imagebroker_s3.signer import ResponseParserError
    from imagebroker_s3.signer import exceptions as boto

    try:
        yield
    except boto.ClientError as error:
        raise error_of(subject, error.response) from error
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
        raise NotAuthorized(
            f"{subject}: there are no keys, or only one of two",
            hint="set access_key and secret_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from error
    except boto.ProfileNotFound as error:
        raise ConfigError(
            str(error),
            hint="set AWS_PROFILE to one of those that this lists: aws configure list-profiles",
        ) from error
    except (boto.ConfigParseError, boto.ConfigNotFound, boto.InvalidConfigError) as error:
        raise ConfigError(str(error), hint="correct that file, or unset AWS_PROFILE") from error
    except boto.ParamValidationError as error:
        raise InvalidImageRef(f"{subject}: {error}", hint="check the bucket and the key") from error
    except ResponseParserError as error:
        raise MalformedAnswer(f"{subject}: the server's answer is not XML of S3") from error
    except ValueError as error:
        if str(error).startswith("Invalid endpoint"):
            raise ConfigError(
                printable(str(error), 200),
                hint="write endpoint_url, or AWS_ENDPOINT_URL, as https://host[:port]",
            ) from error
        raise InvalidImageRef(f"{subject}: {error}", hint="check the bucket's name") from error
    except boto.EndpointProviderError as error:
        raise InvalidImageRef(f"{subject}: {error}", hint="check the bucket's name") from error


def error_of(subject: object, response: Any) -> ImageBrokerError:
    """The error for a response that is one."""
    found, told = response.get("Error", {}), response.get("ResponseMetadata", {})
    status, headers = int(told.get("HTTPStatusCode", 0)), told.get("HTTPHeaders", {})
    code = printable(str(found.get("Code") or ""), 60)
    said = printable(str(found.get("Message") or ""), 200)
    kind, hint = (
        _encrypted(code, said)
        or _elsewhere(code, status, found, headers)
        or _BY_CODE.get(code)
        or _BY_STATUS.get(status)
        or (BackendError, "")
    )
    shown = code if code and code != str(status) else f"HTTP {status}"
    message = f"{subject}: the server answers {shown}" + (f": {said}" if said else "")
    if code == "RequestTimeTooSkewed":
        message += _difference(headers)
    if status >= 500 and kind is BackendError:
        return BackendError(
            message, hint="try again later", retryable=True, retry_after=_seconds(headers)
        )
    if kind is BackendError:
        return BackendError(message, hint=hint, retryable=code in ("RequestTimeout", "SlowDown"))
    return kind(message, hint=hint)


def _encrypted(code: str, said: str) -> tuple[type[ImageBrokerError], str] | None:
    """What it means if a key is missing with which an object is, or is to be, encrypted."""
    words = said.lower()
    if "server side encryption" in words and ("customer" in words or "correct param" in words):
        return UnsupportedOperation, (
            "it is encrypted with a key that only its owner has (SSE-C): store it without, or with "
            "a key of the server's (SSE-S3, SSE-KMS)"
        )
    if code.startswith("KMS.") or "kms-keyid" in words:
        return NotAuthorized, (
            "check the KMS key (kms_key_id): that it exists, is enabled, and its policy allows this"
        )
    if code == "AccessDenied" and "kms:" in words:
        return NotAuthorized, (
            "allow these keys to use the KMS key: kms:Decrypt to read, kms:GenerateDataKey to store"
        )
    return None


def _elsewhere(
    code: str, status: int, found: Any, headers: Any
) -> tuple[type[ImageBrokerError], str] | None:
    """What it means if the bucket is in another region, and the server says in which."""
    if code not in _ELSEWHERE and status not in (301, 307):
        return None
    region = found.get("Region") or headers.get("x-amz-bucket-region")
    if region:
        return NotAuthorized, f"set region = {printable(str(region), 40)}"
    if found.get("Endpoint"):
        place = printable(str(found["Endpoint"]), 100)
        return NotAuthorized, f"set endpoint_url to the server that has the bucket: {place}"
    return None


_ELSEWHERE = frozenset({
    "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect",
    "TemporaryRedirect",
})  # fmt: skip


def _difference(headers: Any, now: Callable[[], float] = time.time) -> str:
    """How far the clock of this host is from the server's."""
    try:
        ahead = now() - parsedate_to_datetime(str(headers.get("date"))).timestamp()
    except (TypeError, ValueError, OverflowError):
        return ""
    minutes = round(abs(ahead) / 60)
    where = "ahead of" if ahead > 0 else "behind"
    return f"; the clock of this host is {minutes} minutes {where} the server's"


def _seconds(headers: Any) -> float | None:
    value = str(headers.get("retry-after", ""))
    return float(value) if value.isdigit() and len(value) < 6 else None
