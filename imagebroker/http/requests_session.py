"""A `requests` session over the same pools, for libraries that bring an API of their own.

requests decides nothing here: its proxies, its certificates, its environment, `.netrc`, cookies and
redirects are not used. Importing this imports requests, which is a dependency of whoever needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.cookies import RequestsCookieJar

from imagebroker.exceptions import PolicyViolation, TransferError
from imagebroker.http.client import REDIRECTS, Client
from imagebroker.http.loaded import as_urllib3
from imagebroker.http.pools import Answer, Pools
from imagebroker.http.urls import Place, Url


def requests_session(
    client: Client, *, origins: Collection[str] = (), limit: int | None = None
) -> requests.Session:
    """A session whose every request goes through the client's TLS, proxies and policy.

    A redirect of a GET or HEAD is followed under the policy, without the headers that say who asks
    as soon as it leads to another origin; other redirects are answers. Bodies are loaded, up to
    `limit`, unless they are asked for with `stream=True`.

    :param origins: URLs whose scheme, host and port are the only ones asked first; any if empty.
    :param limit: bytes of a body; the host's `max_answer` by default.
    """
    session = _Session()
    session.trust_env = False
    session.headers.clear()
    session.cookies = _NoCookies()
    session.adapters.clear()
    adapter = Adapter(client, {Url.parse(each).origin for each in origins}, limit)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class Adapter(BaseAdapter):
    """How requests sends."""

    def __init__(
        self, client: Client, origins: set[tuple[str, str, int]], limit: int | None
    ) -> None:
        super().__init__()
        self._client, self._origins = client, origins
        self._limit = client.host.limits.max_answer if limit is None else limit
        self._pools: Pools = client.pools()
        self._builder = HTTPAdapter()

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The time-outs, certificates and proxies of the client apply, whatever requests says.

        :raises PolicyViolation, TransferError, NotAuthorized: as `Pools.send`.
        """
        place = self._client.start(str(request.url))
        if self._origins and place.url.origin not in self._origins:
            raise PolicyViolation(
                f"credentials would be sent on to {place.url.site}",
                hint="write that URL as endpoint or auth_url, if it is right",
            )
        answer = self._follow(request, place)
        made = as_urllib3(answer, None if stream else self._limit)
        found = self._builder.build_response(request, made)
        found.url = answer.place.url.text
        return found

    def _follow(self, request: requests.PreparedRequest, place: Place) -> Answer:
        method, limit = str(request.method), self._client.host.limits.redirects
        body = request.body.encode() if isinstance(request.body, str) else request.body
        for _ in range(limit + 1):
            answer = self._pools.send(method, place, self._fields(request, place), body)
            if method not in ("GET", "HEAD") or answer.head.status not in REDIRECTS:
                return answer
            answer.close()
            place = self._client.moved(place, answer.head)
        raise TransferError(
            f"{place.url} leads through more than {limit} redirects",
            hint="check the URL: the server may be sending it in circles",
            retryable=False,
        )

    def _fields(self, request: requests.PreparedRequest, place: Place) -> list[tuple[str, str]]:
        own = {
            name.lower(): (name, value.decode("latin-1") if isinstance(value, bytes) else value)
            for name, value in request.headers.items()
        }
        if not place.home:
            own = {name: own[name] for name in own if name in _HARMLESS}
        ours = {name.lower(): (name, value) for name, value in self._client.fields(place)}
        ours_win = {name: ours[name] for name in ("host", "accept-encoding")}
        return list({**ours, **own, **ours_win}.values())

    def close(self) -> None:
        self._pools.close()


#: What says nothing of who asks.
_HARMLESS = ("accept", "accept-language", "range", "if-match", "if-none-match", "if-range")


class _Session(requests.Session):
    """Follows nothing by itself, and sends no body again."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


class _NoCookies(RequestsCookieJar):
    """Keeps nothing."""

    def set_cookie(self, cookie: Any, *args: Any, **kwargs: Any) -> None:
        pass
