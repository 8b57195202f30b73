"""The image that is fetched."""

from __future__ import annotations

from typing import Any

from tests.plugins.http_peers import make_backend
from tests.servers.nginx import Nginx

SIZE = 3_000_017


def secure(nginx: Nginx, **options: Any) -> Any:
    return make_backend(ca_file=str(nginx.ca_file), **options)
