"""Authorization: Basic, or tokens of the server that a registry names."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from imagebroker.plugin import (
    BackendHost,
    MalformedAnswer,
    NotAuthorized,
    http,
    peer,
)
from imagebroker_oci.credentials import Login, PullSecrets
from imagebroker_oci.errors import error_of
from imagebroker_oci.names import Name

#: Seconds that a token is valid if its server says nothing (the specification of docker's tokens).
_VALID = 60
#: Characters of a challenge, and of a token.
_LONGEST_CHALLENGE, _LONGEST_TOKEN = 4096, 64 * 1024
_SCHEME = r"\s*(?P<scheme>[A-Za-z]+)\s+"
_PARAMETER = r'\s*([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*(?:,|\Z)'
_VISIBLE = r"[\x21-\x7e]+"

#: Registries and repositories that an instance remembers something about.
MAX_KEPT = 1000

Key = TypeVar("Key")
Value = TypeVar("Value")

#: What a request does, and the actions that its token must allow.
PULL, PUSH, DELETE = "pull", "pull,push", "pull,delete"


@dataclass(frozen=True)
class Challenge:
    """How a registry wants to be told who asks."""

    #: None: Basic.
    realm: str | None
    service: str = ""


@dataclass(frozen=True)
class _Token:
    text: str
    #: When it has to be replaced (monotonic).
    until: float


class Identity:
    """The logins of an instance at its registries. One serves all threads."""

    def __init__(self, host: BackendHost, secrets: PullSecrets) -> None:
        self._host, self.secrets = host, secrets
        self._lock = threading.Lock()
        self._challenges: dict[str, Challenge] = {}
        self._scopes: dict[tuple[str, str, str], str] = {}
        self._tokens: dict[tuple[str, str, str], _Token] = {}

    def known(self, asker: Asker, name: Name, actions: str) -> str | None:
        """The value of the Authorization header, as far as the registry has asked for one."""
        with self._lock:
            challenge = self._challenges.get(name.registry)
            return None if challenge is None else self._answer(asker, challenge, name, actions)

    def learn(self, site: str, name: Name, actions: str, head: http.Head) -> bool:
        """Take note of a 401; whether there is anything new to say to the registry."""
        challenge, scope = _parsed(self._host, site, head)
        if challenge is None:
            return False
        key = name.registry, name.repository, actions
        own = re.fullmatch(rf"repository:{re.escape(name.repository)}:[a-z,*]{{1,40}}", scope)
        with self._lock:
            keep(self._challenges, name.registry, challenge)
            if own:
                keep(self._scopes, key, scope)
            self._tokens.pop(key, None)
        return challenge.realm is not None or self.secrets.find(name) is not None

    def _answer(self, asker: Asker, challenge: Challenge, name: Name, actions: str) -> str | None:
        if challenge.realm is None:
            login = self.secrets.find(name)
            return None if login is None else login.basic
        key = name.registry, name.repository, actions
        token = self._tokens.get(key)
        if token is None or monotonic() >= token.until:
            scope = self._scopes.get(key, f"repository:{name.repository}:{actions}")
            token = self._fetched(asker, challenge, name, scope)
            keep(self._tokens, key, token)
        return f"Bearer {token.text}"

    def _fetched(self, asker: Asker, challenge: Challenge, name: Name, scope: str) -> _Token:
        login = self.secrets.find(name)
        if login is not None and login.bearer:
            return _Token(login.bearer, monotonic() + _VALID)
        who = f"the token server of {name.registry}"
        begun = monotonic()
        answer = asker.ask_token(*_request(challenge, login, scope))
        if answer.head.status != 200:
            raise error_of(who, answer, self.secrets.hint)
        limit = min(_LONGEST_TOKEN * 2, self._host.limits.max_answer)
        found = peer.document(answer.read(limit), dict, who)
        text = found.get("token") or found.get("access_token")
        if not isinstance(text, str) or not _is_token(text):
            raise MalformedAnswer(f"{who}: invalid response: it has no token")
        self._host.conceal(text)
        seconds = _seconds(found.get("expires_in"))
        return _Token(text, begun + seconds - min(10.0, seconds / 4))


def keep(kept: dict[Key, Value], key: Key, value: Value) -> None:
    """Remember it; the oldest is forgotten if there are too many: it is found out again."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > MAX_KEPT:
        kept.pop(next(iter(kept)), None)


class Asker:
    """What can ask a token server; `Registry` does."""

    def ask_token(
        self, method: str, url: str, authorization: str | None, body: bytes | None
    ) -> http.Answer:
        raise NotImplementedError


def _request(
    challenge: Challenge, login: Login | None, scope: str
) -> tuple[str, str, str | None, bytes | None]:
    """Method, URL, authorization and body of the request for a token."""
    realm = challenge.realm or ""
    asked = {"service": challenge.service, "scope": scope}
    if login is not None and login.refresh_token:
        asked |= {
            "grant_type": "refresh_token", "client_id": "imagebroker",
            "refresh_token": login.refresh_token,
        }  # fmt: skip
        return "POST", realm, None, urlencode(asked).encode()
    sign = "&" if "?" in realm else "?"
    query = urlencode({key: value for key, value in asked.items() if value}, quote_via=quote)
    return "GET", f"{realm}{sign}{query}", None if login is None else login.basic, None


def _parsed(host: BackendHost, site: str, head: http.Head) -> tuple[Challenge | None, str]:
    """The best challenge of an answer, and the scope in it.

    :raises PolicyViolation: the token server may not be asked.
    :raises NotAuthorized: the registry wants something else than Basic or tokens.
    """
    basic: Challenge | None = None
    for value in head.all("www-authenticate"):
        match = re.match(_SCHEME, value[:_LONGEST_CHALLENGE])
        if match is None:
            continue
        scheme = match["scheme"].lower()
        found = {
            key.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
            for key, quoted, plain in re.findall(
                _PARAMETER, value[match.end() : _LONGEST_CHALLENGE]
            )
        }
        if scheme == "bearer" and found.get("realm"):
            # As for a redirect: not from https to http, and only where the policy allows.
            realm = host.redirect(site, found["realm"])
            return Challenge(realm, found.get("service", "")), found.get("scope", "")
        if scheme == "basic":
            basic = Challenge(None)
    if basic is None and head.all("www-authenticate"):
        raise NotAuthorized(
            f"{site} wants a login of a kind that is neither Basic nor a token",
            hint="use a registry with htpasswd or token authentication",
        )
    return basic, ""


def _is_token(text: str) -> bool:
    return len(text) <= _LONGEST_TOKEN and re.fullmatch(_VISIBLE, text) is not None


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        return _VALID
    return float(value)
