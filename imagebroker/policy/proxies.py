"""Which requests go through an HTTP proxy: from the option `proxy` or the user's environment."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from imagebroker.exceptions import ConfigError, ImageBrokerError, TransferError

_URL = (
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?"
    r"(?:(?P<user>[^\s/@:]*)(?::(?P<password>[^\s/]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?/?"
)


@dataclass(frozen=True)
class Proxy:
    """One HTTP proxy."""

    #: In lower case; an IPv6 address without brackets.
    host: str
    port: int
    #: Where it is configured: `option proxy`, or the name of a variable.
    named_by: str
    #: Only for the proxy, never for a server behind it.
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str, named_by: str) -> Proxy:
        """Parse `[http://][user[:password]@]host[:port]`; user and password are percent-encoded.

        :raises ValueError: it is not of this form. The text of the error does not quote it.
        """
        match = re.fullmatch(_URL, text)
        if match is None or (match["scheme"] or "http").lower() != "http":
            raise ValueError("it is not the URL of an HTTP proxy")
        port = int(match["port"] or 80)
        username, password = unquote(match["user"] or ""), unquote(match["password"] or "")
        if not 0 < port < 65536 or ":" in username:
            raise ValueError("invalid port or user name")
        host = match["host"].strip("[]").lower()
        return cls(host, port, named_by, username, password)

    @property
    def site(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def authorization(self) -> str | None:
        """The value of the `Proxy-Authorization` header; None without a user name."""
        if not self.username:
            return None
        pair = f"{self.username}:{self.password}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    @property
    def credentials_hint(self) -> str:
        """The hint if the proxy refuses a request."""
        if self.username:
            return f"check the user name and password in {self.named_by}"
        return (
            f"write the login that the proxy requires into {self.named_by}, as in "
            "http://USER:PASSWORD@HOST:PORT"
        )

    @property
    def title(self) -> str:
        """How messages refer to it."""
        return f"the proxy {self.site} ({self.named_by})"


def named(proxy: Proxy, error: ImageBrokerError) -> ImageBrokerError:
    """`error`, raised while connecting to a proxy, with the proxy named in its text."""
    hint = error.hint
    if isinstance(error, TransferError):
        hint = f"check that {proxy.named_by} is correct, and that the proxy is running"
    return type(error)(
        f"{proxy.title}: {error}", hint=hint, retryable=error.retryable, option=error.option
    )


class Proxies:
    """Finds the proxy for a request."""

    def __init__(self, everything: Proxy | None = None) -> None:
        self._everything = everything

    def find(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for requests to a server; None to connect directly.

        :raises ConfigError: the setting that names the proxy is invalid.
        """
        return self._everything

    @classmethod
    def configured(cls, text: str) -> Proxies:
        """:raises ValueError: as `Proxy.parse`, or `http://` is missing."""
        if not text.lower().startswith("http://"):
            raise ValueError("it is not the URL of an HTTP proxy")
        return cls(Proxy.parse(text, "option proxy"))


class PersonalProxies(Proxies):
    """Read as by curl, wget and pip: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`.

    Lower case takes precedence over upper case. `HTTP_PROXY` is not read: in a CGI program, the
    client sets it (a `Proxy:` header).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__()
        self._environ = environ

    def find(self, scheme: str, host: str, port: int) -> Proxy | None:
        name = variable(scheme, self._environ)
        if name is None or excepted(host, port, self._first("no_proxy", "NO_PROXY")):
            return None
        try:
            return Proxy.parse(self._environ[name].strip(), name)
        except ValueError as error:
            raise ConfigError(
                f"invalid proxy in {name}: {error}",
                hint=f"set {scheme}_proxy to an http:// proxy, or add {host} to no_proxy",
            ) from None

    def _first(self, *names: str) -> str:
        return next((self._environ[name] for name in names if name in self._environ), "")


def variable(scheme: str, environ: Mapping[str, str]) -> str | None:
    """The variable that sets the proxy for `scheme`; None if none does, or it is empty."""
    own = [f"{scheme}_proxy", *([] if scheme == "http" else [f"{scheme.upper()}_PROXY"])]
    for names in (own, ["all_proxy", "ALL_PROXY"]):
        for name in names:
            if name in environ:
                return name if environ[name].strip() else None
    return None


def excepted(host: str, port: int, text: str) -> bool:
    """Whether `no_proxy` covers a server: by a domain, an address, a network, or `*`."""
    host = host.lower().strip("[]").rstrip(".")
    return any(_covers(entry.lower(), host, port) for entry in re.split(r"[,\s]+", text) if entry)


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    if "/" in entry:
        return address is not None and _in_network(address, entry)
    name, only = _split_port(entry)
    if only not in ("", str(port)):
        return False
    if address is not None:
        return _address(name) == address
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith("." + name))


def _split_port(entry: str) -> tuple[str, str]:
    match = re.fullmatch(r"\[([^\]]*)\](?::([0-9]+))?|([^:]*)(?::([0-9]+))?", entry)
    if match is None:  # an IPv6 address without brackets
        return entry, ""
    return match[1] or match[3] or "", match[2] or match[4] or ""


def _address(text: str) -> object | None:
    if ":" not in text and not text.replace(".", "").isdigit():
        return None  # a name; importing ipaddress to find out takes 5 ms of start-up time
    import ipaddress

    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _in_network(address: object, text: str) -> bool:
    import ipaddress

    try:
        network = ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False
    return address in network
