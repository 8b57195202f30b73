"""The URL of a request."""

from __future__ import annotations

import re
from typing import NamedTuple

from imagebroker.model.reference import DEFAULT_PORTS

_URL = (
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?"
)


class Url(NamedTuple):
    """An absolute URL that has passed the parser of refs. `str` hides the query."""

    text: str
    scheme: str
    #: In lower case, an IPv6 address without its brackets.
    host: str
    port: int
    path: str
    query: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """:raises ValueError: it is not an http(s) URL."""
        match = re.fullmatch(_URL, text)
        if match is None:
            raise ValueError("not an http or https URL")
        port = int(match["port"] or DEFAULT_PORTS[match["scheme"]])
        return cls(
            text,
            match["scheme"],
            match["host"].strip("[]").lower(),
            port,
            match["path"] or "/",
            match["query"] or "",
        )

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port, which credentials are bound to."""
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        """Host and port as they stand in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def site(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def target(self) -> str:
        """Path and query exactly as written."""
        return self.path + self.query

    def __str__(self) -> str:
        return self.site + self.path + ("?***" if self.query else "")


class Place(NamedTuple):
    """Where a request goes, and whether it may say who we are."""

    url: Url
    #: Whether its origin may see the deployer's credentials.
    identified: bool
    #: Whether no redirect has led to another origin. Lost, it is not found again, nor is
    #: `identified`.
    home: bool = True

    def moved(self, url: Url) -> Place:
        """Where a redirect to `url` leads."""
        same = url.origin == self.url.origin
        return Place(url, self.identified and same, self.home and same)

    @property
    def key(self) -> tuple[object, ...]:
        return *self.url.origin, self.identified, self.home
