"""What errors of S3 and of boto3 mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from imagebroker.plugin import (
    BackendError,
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
    "PermanentRedirect": (NotAuthorized, "check region and endpoint_url"),
    "ExpiredToken": (NotAuthorized, "get new keys: these have expired"),
    "RequestTimeTooSkewed": (NotAuthorized, "set the clock of this host"),
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
            f"{subject}: there are no keys", hint="set access_key and secret_key"
        ) from error
    except boto.ParamValidationError as error:
        raise InvalidImageRef(f"{subject}: {error}", hint="check the bucket and the key") from error
    except ResponseParserError as error:
        raise MalformedAnswer(f"{subject}: the server's answer is not XML of S3") from error
    except (boto.EndpointProviderError, ValueError) as error:
        raise InvalidImageRef(f"{subject}: {error}", hint="check the bucket's name") from error


def error_of(subject: object, response: Any) -> ImageBrokerError:
    """The error for a response that is one."""
    found = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = printable(str(found.get("Code", "")), 60)
    kind, hint = _BY_CODE.get(code) or _BY_STATUS.get(status) or (BackendError, "")
    said = printable(str(found.get("Message", "")), 200)
    shown = code if code and code != str(status) else f"HTTP {status}"
    message = f"{subject}: the server answers {shown}" + (f": {said}" if said else "")
    if status >= 500 and kind is BackendError:
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return BackendError(
            message, hint="try again later", retryable=True, retry_after=_seconds(headers)
        )
    if kind is BackendError:
        return BackendError(message, hint=hint, retryable=code in ("RequestTimeout", "SlowDown"))
    return kind(message, hint=hint)


def _seconds(headers: Any) -> float | None:
    value = str(headers.get("retry-after", ""))
    return float(value) if value.isdigit() and len(value) < 6 else None
