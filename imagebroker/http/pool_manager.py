"""A urllib3 `PoolManager` over our pools, for libraries that take one.

urllib3 decides nothing here: its retries, redirects, proxies, time-outs and certificates are not
used.
"""

from __future__ import annotations

from typing import Any

from urllib3 import BaseHTTPResponse, PoolManager

from imagebroker.http.client import Client
from imagebroker.http.library_client import LibraryClient, fields_for
from imagebroker.http.loaded import as_urllib3


class Manager(PoolManager):
    """Sends through the pools of a client; `clear` ends its connections."""

    def __init__(self, client: Client, origins: frozenset[str], limit: int | None) -> None:
        super().__init__()
        self._library = LibraryClient(client, origins, limit, "credentials")
        self._own = client.pools()

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **how: Any
    ) -> BaseHTTPResponse:
        """The answer to one request; redirects are answers.

        :raises PolicyViolation, TransferError, NotAuthorized: as `Pools.send`.
        """
        place = self._library.place(url)
        every = fields_for(place, (how.get("headers") or self.headers or {}).items())
        answer = self._own.send(method, place, every, how.get("body"))
        return as_urllib3(answer, self._library.limit if how.get("preload_content", True) else None)

    def clear(self) -> None:
        super().clear()
        self._own.close()
