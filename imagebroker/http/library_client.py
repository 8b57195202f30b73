"""Requests of libraries that send through our connections."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from imagebroker.exceptions import PolicyViolation
from imagebroker.http.client import Client, user_agent
from imagebroker.http.head import Field
from imagebroker.http.urls import Place, Url

#: What our connections decide.
_OURS = frozenset({"accept-encoding", "connection", "expect", "host"})


class LibraryClient:
    """The client's connections, as a library may use them."""

    def __init__(self, client: Client, origins: Collection[str], limit: int | None, what: str):
        """
        :param origins: URLs whose scheme, host and port are the only ones asked; any if empty.
        :param limit: bytes of an answer that is loaded; the host's `max_answer` by default.
        :param what: must not go to other servers.
        """
        self._client, self._what = client, what
        self._origins = {Url.parse(each).origin for each in origins}
        self.limit = client.host.limits.max_answer if limit is None else limit

    def place(self, url: str) -> Place:
        """:raises PolicyViolation: the library wants to ask another server."""
        place = self._client.start(url)
        if self._origins and place.url.origin not in self._origins:
            raise PolicyViolation(
                f"{self._what} would be sent on to {place.url.site}",
                hint="if that is the right server, name it in the option for the server's URL",
            )
        return place


def fields_for(place: Place, given: Iterable[tuple[str, object]]) -> list[Field]:
    """The headers of such a request. The client's own credentials are not among them."""
    fields = [
        (name, value.decode("latin-1") if isinstance(value, bytes) else str(value))
        for name, value in given
        if name.lower() not in _OURS
    ]
    if not any(name.lower() == "user-agent" for name, _ in fields):
        fields.append(("User-Agent", user_agent()))
    return [("Host", place.url.netloc), ("Accept-Encoding", "identity"), *fields]
