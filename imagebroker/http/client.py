"""Requests as the deployer's options want them: credentials, redirects, TLS, a proxy."""

from __future__ import annotations

import abc
import base64
import re
from collections.abc import Callable, Mapping

from imagebroker._version import VERSION
from imagebroker.backends.backend import BackendHost, Options
from imagebroker.exceptions import ConfigError, NotAuthorized, TransferError
from imagebroker.http.digests import WANTED
from imagebroker.http.head import Field, Head, Malformed
from imagebroker.http.pools import Answer, Pools
from imagebroker.http.tls import Tls
from imagebroker.http.urls import Place, Url

#: What says "ask there"; a GET or HEAD stays what it is with all of them.
REDIRECTS = (301, 302, 303, 307, 308)
#: Answers of an address that was redirected to and may have been meant for a moment only.
_EXPIRED = (401, 403, 404, 410)


class Client:
    """HTTP for one backend instance. One serves all its threads; it has no connections itself."""

    def __init__(
        self, host: BackendHost, tls: Tls | None = None, *, token: str | None = None
    ) -> None:
        """
        :param tls: where the options of TLS are not called as in `OPTIONS`.
        :param token: a bearer token in place of the options `username` and `password`.
        :raises ConfigError: an option cannot be used (`OPTIONS` has them).
        """
        title = f"backend:{host.title}"
        options = host.options
        self.host = host
        self.tls = Tls(options, title) if tls is None else tls
        host.proxies  # noqa: B018 - one that cannot be used shows now, not in a download
        self._origins = {
            Url.parse(text).origin
            for text in options.get("endpoint") or ()
            if text.startswith(("http://", "https://"))
        }
        self._authorization = _authorization(options, title, bool(self._origins), token)

    def pools(self) -> Pools:
        """New connections, which the caller closes."""
        return Pools(self.host, self.tls, user_agent)

    def start(self, text: str) -> Place:
        """Where a URL leads. Credentials need an endpoint; without one there is at most a client
        certificate, for the server that the URL names."""
        url = Url.parse(text)
        return Place(url, not self._origins or url.origin in self._origins)

    def moved(self, place: Place, head: Head) -> Place:
        """Where a redirect leads.

        :raises PolicyViolation: it may not lead there.
        """
        locations = head.all("location")
        if len(locations) != 1:
            raise Malformed(f"{place.url}: a redirect with {len(locations)} locations")
        return place.moved(Url.parse(self.host.redirect(place.url.text, locations[0])))

    def followed(self, place: Place, send: Callable[[Place], Answer]) -> Answer:
        """The answer to `send` from `place`, or from where it redirects to.

        :raises PolicyViolation: a redirect may not be followed.
        :raises TransferError: there are more than `limits.redirects` of them.
        """
        origin, limit, cookies = place, self.host.limits.redirects, False
        for _ in range(limit + 1):
            answer = send(place)
            if answer.head.status not in REDIRECTS:
                return answer
            answer.close()
            cookies = cookies or bool(answer.head.all("set-cookie"))
            place = self.moved(place, answer.head)
        raise TransferError(
            f"{origin.url} leads through more than {limit} redirects",
            hint="use a URL that needs no cookie, since none is sent back"
            if cookies
            else "check the URL: the server may be sending it in circles",
            retryable=False,
        )

    def fields(self, place: Place) -> list[Field]:
        """The headers that every request has."""
        fields = [
            ("Host", place.url.netloc),
            ("User-Agent", user_agent()),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
        ]
        if place.identified and self._authorization:
            fields.append(("Authorization", self._authorization))
        return fields


class Credentials(abc.ABC):
    """Headers that say who asks, and that can expire: a token. Threads share them."""

    @abc.abstractmethod
    def headers(self) -> Mapping[str, str]:
        """The headers to send now."""

    @abc.abstractmethod
    def renew(self, refused: Mapping[str, str]) -> bool:
        """The server has answered 401 to these. Get others; False if that is not possible."""


class Session:
    """The requests for one URL. Threads may share it; each closes its answers."""

    def __init__(
        self,
        client: Client,
        text: str,
        headers: Mapping[str, str] | Credentials | None = None,
    ) -> None:
        """:param headers: for the origin of the URL alone: a token, say."""
        self._client = client
        self._start = client.start(text)
        self._credentials = headers if isinstance(headers, Credentials) else None
        self._headers = {} if isinstance(headers, Credentials) else dict(headers or {})
        #: What messages call the image: its URL without the query.
        self.title = str(self._start.url)
        #: Where the last redirect led: later requests are for the same bytes, so go to that server.
        self._place = self._start
        self._pools = client.pools()

    @property
    def asked(self) -> bool:
        """Whether a server was reached, and told what is wanted of it."""
        return self._pools.reached

    def request(self, method: str, *fields: Field) -> Answer:
        """The answer to a GET or HEAD, after at most `limits.redirects` redirects; any status.

        After a 401, it is sent once more if the credentials can be renewed.

        :raises PolicyViolation: an address, a redirect or a certificate is refused.
        :raises TransferError: there is no answer.
        """
        if self._credentials is None:
            return self._request(method, fields)
        sent = self._headers = dict(self._credentials.headers())
        answer = self._request(method, fields)
        if answer.head.status == 401 and answer.place.home and self._credentials.renew(sent):
            answer.close()
            self._headers = dict(self._credentials.headers())
            answer = self._request(method, fields)
        return answer

    def _request(self, method: str, fields: tuple[Field, ...]) -> Answer:
        place = self._place
        if place is not self._start:
            try:
                answer = self._follow(method, place, fields)
            except (TransferError, NotAuthorized):
                if self._pools.closed:
                    raise
            else:
                if answer.head.status not in _EXPIRED:
                    return answer
                answer.close()
        return self._follow(method, self._start, fields)

    def _follow(self, method: str, place: Place, fields: tuple[Field, ...]) -> Answer:
        def send(place: Place) -> Answer:
            own = self._headers.items() if place.home else ()
            every = [*self._client.fields(place), WANTED, *own, *fields]
            return self._pools.send(method, place, every)

        answer = self._client.followed(place, send)
        self._place = answer.place
        return answer

    def close(self) -> None:
        """End all requests, from any thread; idempotent."""
        self._pools.close()


def _authorization(options: Options, title: str, bound: bool, token: str | None) -> str | None:
    username, password = options.get("username"), options.get("password")
    if username is None and password is None and token is None:
        return None
    if not bound:
        which = "a token is" if token is not None else "username and password are"
        raise ConfigError(
            f"[{title}] {which} set, and no endpoint",
            hint="set endpoint to the URL prefix that they are for",
        )
    if token is not None:
        return _bearer(token, title, alone=username is None and password is None)
    if not username or ":" in username:
        raise ConfigError(
            f"[{title}] password needs a username without colons", hint="set username"
        )
    pair = f"{username}:{password or ''}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _bearer(token: str, title: str, *, alone: bool) -> str:
    if not alone:
        raise ConfigError(
            f"[{title}] has a token as well as a username or password", hint="remove one of them"
        )
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
        raise ConfigError(
            f"[{title}] token has characters that no bearer token has",
            hint="set token to what follows Bearer in the header, without blanks",
        )
    return f"Bearer {token}"


def user_agent() -> str:
    return f"imagebroker/{VERSION}"
