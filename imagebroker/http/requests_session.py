"""A `requests` session over the same pools, for libraries that bring an API of their own.

requests decides nothing here: its proxies, its certificates, its environment, `.netrc`, cookies and
redirects are not used. Importing this imports requests: a plugin that uses it depends on that.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.cookies import RequestsCookieJar
from urllib3 import HTTPResponse

from imagebroker.exceptions import PolicyViolation, TransferError
from imagebroker.http.client import Client
from imagebroker.http.codings import foreign_coding
from imagebroker.http.head import Malformed
from imagebroker.http.loaded import fields_of
from imagebroker.http.pools import Answer, Pools
from imagebroker.http.urls import Place, Url
from imagebroker.redaction import printable


def requests_session(
    client: Client,
    *,
    origins: Collection[str] = (),
    limit: int | None = None,
    pools: Pools | None = None,
    streams: bool = True,
    redirects: bool = True,
    patience: float = 1.0,
) -> requests.Session:
    """A session whose every request goes through the client's TLS, proxies and policy.

    A redirect of a GET or HEAD is followed under the policy, without the headers that say who asks
    as soon as it leads to another origin; other redirects are answers. Bodies are loaded, up to
    `limit`, unless they are asked for with `stream=True`; of an error, the beginning is loaded.

    :param origins: URLs whose scheme, host and port are the only ones asked first; any if empty.
    :param limit: bytes of a body; the host's `max_answer` by default.
    :param pools: the connections to use, of several sessions; by default the session has its own.
    :param streams: False: every body is loaded, even if the library asks for a stream.
    :param redirects: False: every redirect is an answer.
    :param patience: multiplies the time that a server has to begin its answer.
    """
    session = _Session()
    session.trust_env = False
    session.headers.clear()
    session.cookies = _NoCookies()
    session.adapters.clear()
    first = frozenset(Url.parse(each).origin for each in origins)
    adapter = Adapter(
        client,
        _Rules(
            first, client.host.limits.max_answer if limit is None else limit, streams, redirects,
            patience,
        ),
        client.pools() if pools is None else pools,
    )  # fmt: skip
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def answer_of(response: requests.Response) -> Answer:
    """The answer behind a streamed response: its `blocks` are not copied on their way.

    It is the caller's to close; the response is not used any more.
    """
    raw: Any = response.raw
    if not isinstance(raw, _Raw) or raw.answer is None:
        raise TypeError("this is not a new response of a session of requests_session")
    answer, raw.answer = raw.answer, None
    return answer


@dataclass(frozen=True)
class _Rules:
    """See `requests_session`."""

    origins: frozenset[tuple[str, str, int]]
    limit: int
    streams: bool
    redirects: bool
    patience: float


class _Raw(HTTPResponse):
    """The file that requests reads from, and the answer that it belongs to."""

    answer: Answer | None = None

    def close(self) -> None:
        """Also called when the response is garbage-collected."""
        if self.answer is not None:
            super().close()


class Adapter(BaseAdapter):
    """How requests sends."""

    def __init__(self, client: Client, rules: _Rules, pools: Pools) -> None:
        super().__init__()
        self._client, self._rules, self._pools = client, rules, pools
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
        if self._rules.origins and place.url.origin not in self._rules.origins:
            raise PolicyViolation(
                f"credentials would be sent on to {place.url.site}",
                hint="write that URL as endpoint or auth_url, if it is right",
            )
        answer = self._answer(request, place)
        body = self._body(answer, stream and self._rules.streams)
        # Of memory, or of what arrives; never decoded, because it was asked for as it is.
        made = _Raw(
            body, headers=fields_of(answer), status=answer.head.status, reason=answer.head.reason,
            preload_content=False, decode_content=False, enforce_content_length=False,
        )  # fmt: skip
        made.answer = answer
        found = self._builder.build_response(request, made)
        found.url = answer.place.url.text
        return found

    def _body(self, answer: Answer, stream: bool) -> Any:
        """:raises TransferError: it is too long, takes too long, or is encoded."""
        seconds = 2 * self._client.host.limits.stall_timeout
        coding = foreign_coding(answer.head.all("content-encoding"), ())
        if answer.head.status >= 400:
            try:
                told = answer.read(MAX_MESSAGE, seconds=seconds, whole=False)
            except TransferError:
                told = b""  # the status is enough
            return io.BytesIO(b"" if coding else told)
        if stream:
            return answer.response
        if coding:
            answer.close()
            raise Malformed(
                f"{answer.place.url.site}: the answer is encoded as {printable(coding, 60)!r}, "
                "which was not asked for"
            )
        return io.BytesIO(answer.read(self._rules.limit, seconds=seconds))

    def _answer(self, request: requests.PreparedRequest, place: Place) -> Answer:
        method = str(request.method)
        body = request.body.encode() if isinstance(request.body, str) else request.body

        def send(place: Place) -> Answer:
            fields = self._fields(request, place)
            return self._pools.send(method, place, fields, body, patience=self._rules.patience)

        if self._rules.redirects and method in ("GET", "HEAD"):
            return self._client.followed(place, send)
        return send(place)

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


#: Bytes of an error's body that are loaded.
MAX_MESSAGE = 64 * 1024
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
