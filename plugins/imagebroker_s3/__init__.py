"""Images in buckets of S3 and of servers that speak it: `s3://bucket/key`."""

from imagebroker_s3.backend import S3Backend

__all__ = ["S3Backend"]
