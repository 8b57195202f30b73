"""The options of `[backend:http]`: those of every backend that speaks HTTP, and a token."""

from __future__ import annotations

from oslo_config import cfg

from imagebroker.plugin import http

OPTIONS = (
    *http.OPTIONS,
    cfg.StrOpt(
        "token", secret=True,
        help="Bearer token, instead of username and password. Sent only to the scheme, host and "
        "port of an endpoint, which must be set. Keep the config file private."),
)  # fmt: skip
