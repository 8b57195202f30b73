"""The options of `[backend:s3]`."""

from __future__ import annotations

from oslo_config import cfg

from imagebroker.plugin import http

MIB = 1024 * 1024
#: Where keys come from.
METADATA = "metadata"
#: A key of the server's key management service encrypts what is stored.
KMS = "aws:kms"

OPTIONS = (
    cfg.StrOpt(
        "endpoint_url",
        help="URL of the server, for example https://s3.example.org. AWS if empty."),
    cfg.StrOpt("region", help="Region of the server; us-east-1 if empty."),
    cfg.StrOpt(
        "access_key",
        help="Access key id. Without one, requests are anonymous; if there is no config file, the "
        "keys of the environment and of the AWS profile are used."),
    cfg.StrOpt("secret_key", secret=True, help="Secret key. Keep the config file private."),
    cfg.StrOpt("session_token", secret=True, help="Session token of temporary keys."),
    cfg.StrOpt(
        "credentials", default="keys", choices=["keys", METADATA],
        help="Where keys come from: access_key and secret_key, or the role of this machine, which "
        "the metadata service of AWS (IMDSv2) knows. Nothing else can reach that service."),
    cfg.StrOpt(
        "metadata_url", default="http://169.254.169.254", metavar="URL",
        help="The metadata service. Asked only where credentials is metadata."),
    cfg.BoolOpt(
        "requester_pays", default=False,
        help="Agree to pay for requests, which some buckets require."),
    cfg.StrOpt(
        "addressing_style", default="auto", choices=["auto", "path", "virtual"],
        help="Whether the bucket is in the path of URLs or in the name of the host. auto: in the "
        "path where endpoint_url is set, in the host name for AWS."),
    cfg.StrOpt(
        "create_in", metavar="BUCKET[/PREFIX]",
        help="Where create stores images and list looks for them."),
    cfg.StrOpt(
        "encryption", choices=["AES256", KMS],
        help="How the server encrypts what create stores: with keys of its own (SSE-S3), or with "
        "one of its key management service (SSE-KMS). If empty, as the bucket has it."),
    cfg.StrOpt(
        "kms_key_id",
        help="Key for `encryption = aws:kms`; the server's default key if empty."),
    cfg.IntOpt(
        "part_size", default=8, min=5, max=5120,
        help="MiB in one part of an upload; more if an image would have more than 10000 parts."),
    cfg.IntOpt(
        "parallel_parts", default=4, min=1, max=32,
        help="Parts that are uploaded at once. Each one is in memory."),
    cfg.StrOpt(
        "state_dir",
        help="Directory that records unfinished uploads: after one was killed, the next call sends "
        "only the parts that the server lacks. Not set: it sends all of them."),
    # Basic authentication is no way to log in to S3.
    *(option for option in http.OPTIONS if option.dest not in ("username", "password")),
)  # fmt: skip
