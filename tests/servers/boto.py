"""boto3's own clients: the other side of tests with servers of S3."""

from __future__ import annotations

import functools
from typing import Any


@functools.lru_cache(maxsize=8)
def client_of(url: str, region: str, access_key: str, secret_key: str) -> Any:
    """A client with its own connections; the same one again, as each takes long to make."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3", endpoint_url=url, region_name=region, aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            s3={"addressing_style": "path"}, request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )  # fmt: skip
