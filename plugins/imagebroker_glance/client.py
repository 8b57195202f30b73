"""Glance's API through glanceclient: which server, which token, and what an error means."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlencode

from glanceclient.v2 import schemas
from glanceclient.v2.client import Client
from keystoneauth1.adapter import Adapter
from keystoneauth1.session import Session

from imagebroker.plugin import (
    BackendError,
    ImageBrokerError,
    ImageNotFound,
    NotAuthorized,
    PolicyViolation,
    TransferError,
    http,
    redact,
)
from imagebroker_glance import record
from imagebroker_glance.errors import Refused, none_left, nothing_sent, translated
from imagebroker_glance.identity import Identity, Keystone
from imagebroker_glance.sessions import Sessions
from imagebroker_glance.urls import origin

LOG = logging.getLogger(__name__)
T = TypeVar("T")

PATCH_TYPE = "application/openstack-images-v2.1-json-patch"
#: Characters of one of keystoneauth's log messages, which have the bodies in them.
_LONGEST_LOG = 4000


class Server:
    """One API server, asked by one identity."""

    def __init__(self, url: str, identity: Identity, sessions: Sessions) -> None:
        #: The prefix of its URLs, which ends in `/`.
        self.url = url
        self._identity, self._sessions = identity, sessions

    @cached_property
    def client(self) -> Client:
        """For what is about one image."""
        return self._client(self._sessions.records)

    @cached_property
    def lists(self) -> Client:
        """For lists, whose answers are larger."""
        return self._client(self._sessions.pages)

    @cached_property
    def data(self) -> Adapter:
        """For bytes: glanceclient's own client quotes headers, so that no range would be one."""
        return Adapter(self._sessions.data, **self._how())

    @cached_property
    def uploads(self) -> Adapter:
        return Adapter(self._sessions.uploads, **self._how())

    def _client(self, session: Session) -> Client:
        made = Client(session=session, **self._how())
        made.images.schema_client = made.image_members.schema_client = _AnySchema()
        return made

    def _how(self) -> dict[str, Any]:
        return {
            "auth": self._identity,
            # Elsewhere, keystoneauth would replace %(project_id)s.
            "endpoint_override": self.url.replace("%", "%%"),
            "global_request_id": self._identity.request_id,
            "user_agent": http.user_agent(),
            "logger": _Log(LOG, {"identity": self._identity}),
        }


@dataclass(frozen=True)
class Answer:
    """The data of an image, which is read or closed, and the server that sends it."""

    server: str
    status: int
    body: http.Answer


class GlanceApi:
    """Asks the servers of one backend instance. Used by all threads."""

    def __init__(self, sessions: Sessions, keystone: Keystone) -> None:
        self.sessions, self.limits = sessions, sessions.limits
        self._keystone = keystone

    def ask(
        self,
        identity: Identity,
        call: Callable[[Server], T],
        *,
        what: str,
        reads: bool = False,
        renews: bool = True,
        servers: Sequence[str] | None = None,
    ) -> T:
        """What `call` returns for the first server that answers.

        If a server fails, a call that only `reads` is made for the next one; any other only if
        nothing was sent. After a 401 to the service's own token, one that `renews` is repeated with
        a new token.

        :raises ImageBrokerError: by the status of the answer.
        """
        failed: list[ImageBrokerError] = []
        for url in servers or identity.servers():
            try:
                return self._ask(Server(url, identity, self.sessions), identity, call, what, renews)
            except (TransferError, BackendError, PolicyViolation) as error:
                if error.retryable or nothing_sent(error):
                    self._postpone(url)
                if not (nothing_sent(error) or (reads and error.retryable)):
                    raise
                failed.append(error)
        raise none_left(what, failed)

    def _ask(
        self, server: Server, identity: Identity, call: Callable[[Server], T], what: str,
        renews: bool,
    ) -> T:  # fmt: skip
        try:
            with translated(server.url):
                try:
                    return call(server)
                except Refused as refused:
                    if refused.status != 401 or not renews or not identity.renew():
                        raise
                    return call(server)
        except Refused as refused:
            raise refused.error(what, identity.hide(refused.said)) from None

    def show(
        self, identity: Identity, image_id: str, servers: Sequence[str] | None = None
    ) -> tuple[dict[str, Any], str]:
        """The record of an image as parsed JSON, and the server that sent it.

        :raises ImageNotFound, NotAuthorized, TransferError, BackendError: as named.
        """

        def call(server: Server) -> tuple[dict[str, Any], str]:
            return dict(server.client.images.get(image_id)), server.url

        raw, url = self.ask(identity, call, what=f"image {image_id}", reads=True, servers=servers)
        if str(raw.get("id")).lower() != image_id.lower():
            raise TransferError(
                f"image {image_id}: {origin(url)} answered with another image",
                hint="check the proxies and caches in front of the image service",
            )
        record.check(raw, url)
        return raw, url

    def data(
        self, identity: Identity, image_id: str, span: str, servers: Sequence[str]
    ) -> Answer:  # fmt: skip
        """The data of an image, or a range of it; with `span`, a status can say that there is none.

        :param span: the value of a Range header; empty for the whole.
        """
        headers = {"Accept": "application/octet-stream, */*", **({"Range": span} if span else {})}

        def call(server: Server) -> Answer:
            response = server.data.get(
                f"/v2/images/{image_id}/file", headers=headers, stream=True, raise_exc=False,
                log=False,
            )  # fmt: skip
            return Answer(server.url, response.status_code, http.answer_of(response))

        return self.ask(identity, call, what=f"image {image_id}", reads=True, servers=servers)

    def page(
        self, identity: Identity, query: Sequence[tuple[str, str]]
    ) -> tuple[Mapping[str, Any], str]:
        """One page of the list of images; every value of `query` is encoded, once."""

        def call(server: Server) -> tuple[Mapping[str, Any], str]:
            return server.lists.http_client.get(f"/v2/images?{urlencode(query)}")[1], server.url

        return self.ask(identity, call, what="the list of images", reads=True)

    def patch(self, identity: Identity, image_id: str, patch: Sequence[Mapping[str, Any]]) -> None:
        """Change a record; glanceclient's own `update` cannot remove the last tag."""

        def call(server: Server) -> None:
            server.client.http_client.patch(
                f"/v2/images/{image_id}", headers={"Content-Type": PATCH_TYPE},
                data=json.dumps(patch),
            )  # fmt: skip

        self.ask(identity, call, what=f"image {image_id}")

    def locations(self, identity: Identity, image_id: str) -> Sequence[Any] | None:
        """The locations of an image by the newer call; None if unavailable, or forbidden."""

        def call(server: Server) -> Sequence[Any]:
            path = f"/v2/images/{image_id}/locations"
            return record.a_list(server.client.http_client.get(path)[1], server.url)

        try:
            return self.ask(identity, call, what=f"locations of image {image_id}", reads=True)
        except (ImageNotFound, NotAuthorized, BackendError) as error:
            if getattr(error, "status", None) in (403, 404, 405, 501):
                return None
            raise

    def _postpone(self, server: str) -> None:
        """Use this server last from now on, so that calls do not wait for it."""
        order = self._keystone.endpoints
        if len(order) > 1 and server in order:
            self._keystone.endpoints = [each for each in order if each != server] + [server]


class _AnySchema:
    """Instead of glanceclient's schemas, which it fetches before it parses the first record."""

    def get(self, name: str) -> schemas.Schema:
        return schemas.Schema({"name": name, "properties": {}})


class _Log(logging.LoggerAdapter[logging.Logger]):
    """For keystoneauth, which logs bodies at DEBUG: a server may echo a token in them."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[str, MutableMapping[str, Any]]:
        identity: Any = (self.extra or {})["identity"]
        return redact(identity.hide(str(msg)), _LONGEST_LOG), kwargs
