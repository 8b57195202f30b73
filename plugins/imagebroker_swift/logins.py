"""Logins to Swift: the token of a request, and the account."""

from __future__ import annotations

import abc
import re
import threading
from collections.abc import Mapping
from typing import Any

from imagebroker.plugin import (
    BackendError,
    BackendHost,
    ConfigError,
    MalformedAnswer,
    NotAuthorized,
    Options,
    PolicyViolation,
    http,
    printable,
)
from imagebroker_swift.errors import error_of
from imagebroker_swift.options import V1

_ADDRESS = "set auth_url to the address of the login, such as https://HOST/auth/v1.0"
_TOKEN = re.compile(r"[!-~]{1,16384}")


class Login(http.Credentials):
    """The token of one identity, and the URL of its account."""

    @property
    @abc.abstractmethod
    def account_url(self) -> str:
        """Without a `/` at its end."""

    @abc.abstractmethod
    def headers(self) -> Mapping[str, str]: ...

    def renew(self, refused: Mapping[str, str]) -> bool:
        return False


class Anonymous(Login):
    """Containers that everybody may read."""

    def __init__(self, account_url: str) -> None:
        self._url = account_url

    @property
    def account_url(self) -> str:
        return self._url

    def headers(self) -> Mapping[str, str]:
        return {}


class Caller(Login):
    """A caller of the service, with their own token, never with the service's instead."""

    def __init__(self, token: str, account_url: str) -> None:
        self._token, self._url = token, account_url

    @property
    def account_url(self) -> str:
        return self._url

    def headers(self) -> Mapping[str, str]:
        return {"X-Auth-Token": self._token}


class V1Login(Login):
    """Swift's own login, version 1 (TempAuth). Logs in when it is first used."""

    def __init__(self, host: BackendHost, options: Options, client: http.Client) -> None:
        """:raises ConfigError: an option is missing."""
        self._host, self._options = host, options
        self._client, self._pools = client, client.pools()
        self._lock = threading.Lock()
        self._known: tuple[str, str] | None = None
        for name in ("auth_url", "username", "password"):
            if not options.get(name):
                raise ConfigError(
                    f"[backend:{host.title}]: auth_type is {V1}, but {name} is not set",
                    hint=f"set {name}",
                )

    @property
    def account_url(self) -> str:
        return self._account()[0]

    def headers(self) -> Mapping[str, str]:
        return {"X-Auth-Token": self._account()[1]}

    def renew(self, refused: Mapping[str, str]) -> bool:
        with self._lock:
            if self._known is not None and self._known[1] == refused.get("X-Auth-Token"):
                self._known = None
        return True

    def _account(self) -> tuple[str, str]:
        with self._lock:
            if self._known is None:
                self._known = self._logged_in()
            return self._known

    def _logged_in(self) -> tuple[str, str]:
        options, place = self._options, self._client.start(self._options.auth_url)
        who = ("X-Auth-User", options.username), ("X-Auth-Key", options.password)
        answer = self._pools.send("GET", place, [*self._client.fields(place), *who])
        body = answer.read(64 * 1024, seconds=self._host.limits.stall_timeout, whole=False)
        head = answer.head
        if head.status in (401, 403):
            raise NotAuthorized(
                f"{place.url}: Swift refuses the login of {printable(options.username, 60)!r}: "
                f"{head.status}",
                hint="check username and password",
            )
        if not 200 <= head.status < 300:
            error = error_of(f"the login at {place.url}", head, body)
            if head.status < 400 or error.retryable:
                raise error
            raise BackendError(str(error), hint=_ADDRESS, retryable=False)
        token, url = head.get("x-auth-token"), head.get("x-storage-url")
        if not token or not _TOKEN.fullmatch(token) or not url:
            raise MalformedAnswer(
                f"{place.url}: the answer has no token and account of Swift",
                hint=_ADDRESS,
                retryable=False,
            )
        self._host.conceal(token)
        return account_url(options.storage_url or url, options), token

    def close(self) -> None:
        self._pools.close()


def account_url(url: Any, options: Options) -> str:
    """A URL that a login or a catalogue names, checked.

    :raises PolicyViolation: the token would be sent in the clear.
    """
    try:
        found = http.Url.parse(str(url).rstrip("/"))
        if found.query:
            raise ValueError
    except ValueError:
        raise MalformedAnswer(
            f"the URL of the account is invalid: {printable(str(url), 200)}",
            hint="set storage_url",
            retryable=False,
        ) from None
    secure = str(options.get("auth_url") or "").startswith("https://")
    if secure and found.scheme == "http" and not options.get("storage_url"):
        raise PolicyViolation(
            f"the login is at an https URL, and sends its token to {found}",
            hint="set storage_url to the account's https URL",
        )
    return found.text


def token_of(context: Any) -> str:
    """:raises NotAuthorized: the caller has none."""
    token = getattr(context, "auth_token", None)
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise NotAuthorized(
            "the caller's context has no valid token",
            hint="pass a context with auth_token, or None for the service's own identity",
        )
    return token
