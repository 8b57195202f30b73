"""HTTP for plugins: urllib3 on the host's connections, and `HttpSource` for what is behind a URL.

See "A backend over HTTP" in docs/writing-a-backend.md. urllib3 is imported with the first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imagebroker.http.answers import (
    check_status,
    content_range,
    parse_date,
    retry_after,
    strong_etag,
)
from imagebroker.http.client import Client, Credentials, Session, user_agent
from imagebroker.http.head import Field, Head, Malformed
from imagebroker.http.options import OPTIONS
from imagebroker.http.pools import Answer, Pools
from imagebroker.http.source import HttpSource, probe, record
from imagebroker.http.tls import Tls
from imagebroker.http.urls import Place, Url

__all__ = [
    "OPTIONS",
    "Answer",
    "Client",
    "Credentials",
    "Field",
    "Head",
    "HttpSource",
    "Malformed",
    "Place",
    "Pools",
    "Session",
    "Tls",
    "Url",
    "answer_of",
    "botocore_session",
    "check_status",
    "content_range",
    "parse_date",
    "pool_manager",
    "probe",
    "record",
    "requests_session",
    "retry_after",
    "strong_etag",
    "user_agent",
]

if TYPE_CHECKING:
    from collections.abc import Collection

    import requests

    from imagebroker.http.botocore_session import BotocoreSession
    from imagebroker.http.pool_manager import Manager


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
    """A `requests` session over the same connections, policy and bounds; it needs requests.

    :param origins: URLs whose scheme, host and port are the only ones asked first; any if empty.
    :param limit: bytes of a body that is loaded; the host's `max_answer` by default.
    :param pools: the connections to use, of several sessions; by default the session has its own.
    :param streams: False: every body is loaded, even if the library asks for a stream.
    :param redirects: False: every redirect is an answer.
    :param patience: multiplies the time that a server has to begin its answer.
    """
    from imagebroker.http.requests_session import requests_session as make

    return make(
        client, origins=origins, limit=limit, pools=pools, streams=streams, redirects=redirects,
        patience=patience,
    )  # fmt: skip


def answer_of(response: requests.Response) -> Answer:
    """The answer behind a response of such a session: its `blocks` are not copied on their way."""
    from imagebroker.http.requests_session import answer_of as find

    return find(response)


def botocore_session(
    client: Client, boto: Any, *, origins: Collection[str] = (), limit: int | None = None
) -> BotocoreSession:
    """Let a botocore (boto3) client send through the same connections; it needs botocore.

    :param origins: URLs whose scheme, host and port are the only ones asked; any if empty.
    :param limit: bytes of a body that is loaded; the host's `max_answer` by default.
    """
    from imagebroker.http.botocore_session import botocore_session as make

    return make(client, boto, origins=origins, limit=limit)


def pool_manager(
    client: Client, *, origins: Collection[str] = (), limit: int | None = None
) -> Manager:
    """A `urllib3.PoolManager` over the same connections; `clear()` ends them.

    :param origins: URLs whose scheme, host and port are the only ones asked; any if empty.
    :param limit: bytes of a body that is loaded; the host's `max_answer` by default.
    """
    from imagebroker.http.pool_manager import Manager

    return Manager(client, frozenset(origins), limit)
