"""Swift's API: plain HTTP requests with a token, over the core's connections."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from imagebroker.plugin import (
    BackendHost,
    BackendLoadError,
    ConfigError,
    ImageBrokerError,
    Options,
    http,
    peer,
)
from imagebroker_swift.errors import error_of
from imagebroker_swift.logins import Anonymous, Caller, Login, V1Login, account_url, token_of
from imagebroker_swift.options import V1

if TYPE_CHECKING:
    from imagebroker_swift.identity import Keystone

#: Objects in one page of a list.
PAGE = 1000
#: Factor for the time that a server has to answer, while it stores or removes something.
STORE_FACTOR = 4.0
_OURS = ("username", "password", "token", "endpoint")


class Reply(NamedTuple):
    """An answer that is not an error, and its body."""

    head: http.Head
    body: bytes


class Server:
    """The server of one instance. One serves all threads."""

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError, BackendLoadError: an option is wrong; keystoneauth is missing."""
        self._host, self._options = host, host.options
        if host.options.auth_section:
            raise ConfigError(
                f"[backend:{host.title}]: auth_section is not supported",
                hint="put the auth options in this section",
            )
        # User name, password and token are those of the login: HTTP has none.
        kept = {name: host.options[name] for name in host.options if name not in _OURS}
        self.http = http.Client(dataclasses.replace(host, options=Options(kept)))
        self.limits = host.limits
        self.pools = self.http.pools()
        self._lock = threading.Lock()
        self._keystone: Keystone | None = None
        self._own = self._own_login()

    def _own_login(self) -> Login | None:
        options, title = self._options, f"[backend:{self._host.title}]"
        if options.storage_url:
            account_url(options.storage_url, options)
        if options.auth_type == V1:
            return V1Login(self._host, options, self.http)
        if options.auth_type:
            from imagebroker_swift.identity import KeystoneLogin

            return KeystoneLogin(self._with_keystone())
        if options.get("username") or options.get("password"):
            raise ConfigError(
                f"{title}: username or password is set, but auth_type is not",
                hint=f"set auth_type to {V1} for Swift's own login, or to password for Keystone",
            )
        return Anonymous(options.storage_url.rstrip("/")) if options.storage_url else None

    def _with_keystone(self) -> Keystone:
        try:
            from imagebroker_swift.identity import Keystone
        except ImportError as error:
            raise BackendLoadError(
                f"logging in to Keystone needs keystoneauth, which cannot be imported: {error}",
                hint="pip install 'imagebroker[swift]'",
                scheme="swift",
            ) from error
        with self._lock:
            if self._keystone is None:
                self._keystone = Keystone(self._host, self._options, self.http)
            return self._keystone

    @property
    def anonymous(self) -> bool:
        return isinstance(self._own, Anonymous)

    def account(self, context: Any) -> Account:
        """The account of a caller, or of the service.

        :raises NotAuthorized: the caller has no token.
        :raises ConfigError: the options name no account.
        """
        if context is not None:
            return Account(self, self._login_of(context))
        if self._own is None:
            raise ConfigError(
                f"[backend:{self._host.title}] has no login",
                hint="set OS_CLOUD, or OS_* of your cloud, or ST_AUTH, ST_USER and ST_KEY"
                if self._host.personal
                else "set auth_type, auth_url and the credentials, or storage_url for containers "
                "that everybody may read",
            )
        return Account(self, self._own)

    def _login_of(self, context: Any) -> Login:
        token = token_of(context)
        if self._options.storage_url:
            return Caller(token, self._options.storage_url.rstrip("/"))
        service = self._with_keystone()
        catalogue = getattr(context, "service_catalog", None) or service.catalogue_for(token)
        return Caller(token, service.account_in(catalogue))

    def close(self) -> None:
        self.pools.close()
        if isinstance(self._own, V1Login):
            self._own.close()
        if self._keystone is not None:
            self._keystone.close()


class Account:
    """One account, asked by one identity."""

    def __init__(self, server: Server, login: Login) -> None:
        self.server, self.login = server, login

    @property
    def address(self) -> str:
        return self.login.account_url

    def url(self, container: str = "", key: str = "", **query: str | None) -> str:
        """The URL of the account, a container or an object."""
        parts = [self.address, *(quote(part, safe="") for part in (container,) if part)]
        if key:
            parts.append(quote(key))
        asked = {
            name.replace("_", "-"): value for name, value in query.items() if value is not None
        }
        return "/".join(parts) + (f"?{urlencode(asked)}" if asked else "")

    def ask(
        self,
        what: object,
        method: str,
        url: str,
        headers: Mapping[str, str] | Sequence[http.Field] = (),
        body: bytes | None = None,
    ) -> Reply:
        """The answer to one request; after a 401 with a new token, if there is one.

        :raises: what an error means for `what`.
        """
        own = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        sent = self.login.headers()
        reply = self._ask(method, url, [*sent.items(), *own], body)
        if reply.head.status == 401 and self.login.renew(sent):
            reply = self._ask(method, url, [*self.login.headers().items(), *own], body)
        if not 200 <= reply.head.status < 300:
            raise error_of(what, reply.head, reply.body)
        return reply

    def _ask(
        self, method: str, url: str, fields: Sequence[http.Field], body: bytes | None
    ) -> Reply:
        server = self.server
        place = server.http.start(url)
        if method in ("PUT", "POST") and body is None:
            body = b""
        answer = server.pools.send(
            method, place, [*server.http.fields(place), *fields], body,
            patience=1.0 if method in ("GET", "HEAD") else STORE_FACTOR,
        )  # fmt: skip
        limits = server.limits
        found = answer.read(limits.max_answer, seconds=2 * limits.stall_timeout)
        return Reply(answer.head, found)

    def listed(
        self, container: str, prefix: str, page_size: int = PAGE
    ) -> Iterator[Mapping[str, Any]]:
        """The objects of a container whose keys begin with `prefix`, in order; page by page."""
        marker: str | None = None
        while True:
            url = self.url(
                container, format="json", prefix=prefix or None, marker=marker, limit=str(page_size)
            )
            what = f"the container {container}"
            page = peer.document(
                self.ask(what, "GET", url).body or b"[]", list, url.partition("?")[0]
            )
            objects = [each for each in page if isinstance(each, dict)]
            yield from (each for each in objects if isinstance(each.get("name"), str))
            last = objects[-1].get("name", objects[-1].get("subdir")) if objects else None
            if not isinstance(last, str) or last == marker:
                return
            marker = last

    def offers(self) -> Mapping[str, Any]:
        """What the server says that it can (`/info`); nothing where it does not say."""
        base, _, _ = self.address.rpartition("/v1")
        try:
            reply = self.ask("its capabilities", "GET", f"{base}/info")
            return peer.document(reply.body, dict, f"{base}/info")
        except ImageBrokerError:
            return {}
