"""The options of `[backend:http]`: those of every backend that speaks HTTP."""

from __future__ import annotations

from imagebroker.plugin import http

OPTIONS = http.OPTIONS
