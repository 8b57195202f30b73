"""A urllib3 `PoolManager` over our pools, for libraries that take one.

urllib3 decides nothing here: its retries, redirects, proxies, time-outs and certificates are not
used.
"""

from __future__ import annotations

from typing import Any

from urllib3 import BaseHTTPResponse, PoolManager

from imagebroker.exceptions import PolicyViolation
from imagebroker.http.client import Client, user_agent
from imagebroker.http.loaded import as_urllib3
from imagebroker.http.urls import Url

#: What our connections decide.
_OURS = frozenset({"accept-encoding", "connection", "expect", "host"})


class Manager(PoolManager):
    """Sends through the pools of a client; `clear` ends its connections."""

    def __init__(self, client: Client, origins: frozenset[str], limit: int | None) -> None:
        super().__init__()
        self._client = client
        self._origins = {Url.parse(each).origin for each in origins}
        self._limit = client.host.limits.max_answer if limit is None else limit
        self._own = client.pools()

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **how: Any
    ) -> BaseHTTPResponse:
        """The answer to one request; redirects are answers.

        :raises PolicyViolation, TransferError, NotAuthorized: as `Pools.send`.
        """
        place = self._client.start(url)
        if self._origins and place.url.origin not in self._origins:
            raise PolicyViolation(
                f"credentials would be sent on to {place.url.site}",
                hint="if that is the right server, name it in the option for the server's URL",
            )
        given = how.get("headers") or self.headers or {}
        fields = [(n, str(v)) for n, v in given.items() if n.lower() not in _OURS]
        if not any(name.lower() == "user-agent" for name, _ in fields):
            fields.append(("User-Agent", user_agent()))
        every = [("Host", place.url.netloc), ("Accept-Encoding", "identity"), *fields]
        answer = self._own.send(method, place, every, how.get("body"))
        return as_urllib3(answer, self._limit if how.get("preload_content", True) else None)

    def clear(self) -> None:
        super().clear()
        self._own.close()
