"""botocore's requests over our pools, for backends that use boto3.

botocore signs, we send: its own connections, proxies, certificates and environment are not used.
Importing this imports botocore: a plugin that uses it depends on that.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HeadersDict

from imagebroker.exceptions import TransferError
from imagebroker.http.client import REDIRECTS, Client
from imagebroker.http.library_client import LibraryClient, fields_for
from imagebroker.http.loaded import as_urllib3, fields_of


class BotocoreSession:
    """Sends for a botocore client; has the methods of botocore's own http session."""

    def __init__(self, client: Client, origins: Collection[str] = (), limit: int | None = None):
        """:param origins: URLs whose scheme, host and port are the only ones asked; any if empty.
        :param limit: bytes of an answer that is loaded; the host's `max_answer` by default.
        """
        self._library = LibraryClient(client, origins, limit, "signed requests")
        self._pools = client.pools()

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        """The answer to one request, whatever its status; no redirect is followed.

        :raises PolicyViolation, TransferError, NotAuthorized: as `Pools.send`.
        """
        place = self._library.place(str(request.url))
        # Not the client's own credentials: the signature is in the headers.
        fields = fields_for(place, request.headers.items())
        answer = self._pools.send(request.method, place, fields, request.body)
        if answer.head.status in REDIRECTS and answer.head.get("x-amz-bucket-region") is None:
            answer.close()
            raise TransferError(
                f"{place.url.site} redirects a signed request, which cannot be followed",
                hint="set the option for the server's URL to where it leads",
                retryable=False,
            )
        stream = request.stream_output and answer.head.status < 300
        made = as_urllib3(answer, None if stream else self._library.limit)
        return AWSResponse(request.url, answer.head.status, HeadersDict(fields_of(answer)), made)

    def close(self) -> None:
        """End all requests, from any thread; idempotent."""
        self._pools.close()


def botocore_session(
    client: Client, boto: Any, *, origins: Collection[str] = (), limit: int | None = None
) -> BotocoreSession:
    """Let a botocore (boto3) client send through the connections of `client`.

    Make the boto client with `retries={"total_max_attempts": 1}`: the core retries. Our errors pass
    through botocore as they are.
    """
    session = BotocoreSession(client, origins, limit)

    def send(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        return session.send(request)

    boto.meta.events.register("before-send", send)
    return session
