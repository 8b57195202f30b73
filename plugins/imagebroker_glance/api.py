"""Requests to the Image API v2: which server, which token, and the meaning of a status."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from imagebroker.plugin import (
    BackendError,
    Conflict,
    FormatError,
    Gone,
    ImageBrokerError,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    QuotaExceeded,
    TransferError,
    peer,
    printable,
)
from imagebroker_glance import record
from imagebroker_glance.identity import Identity, Keystone
from imagebroker_glance.wire import Body, Reply, Wire, nothing_sent, origin

#: Maximum size of one record, and of an error message, in bytes.
MAX_RECORD = 1024 * 1024
MAX_MESSAGE = 64 * 1024
PATCH_TYPE = "application/openstack-images-v2.1-json-patch"

_KINDS: Mapping[int, tuple[type[ImageBrokerError], str]] = {
    400: (InvalidImageRef, "correct the request as the service says"),
    401: (NotAuthorized, "get a new token: this one is invalid or has expired"),
    403: (NotAuthorized, "use a project and a role that are allowed to do this"),
    404: (ImageNotFound, "check the id and the project: private images of others are not visible"),
    409: (Conflict, "check the status of the image, and whether something uses it"),
    410: (Gone, "use another image: this one was deleted"),
    413: (QuotaExceeded, "delete images, or ask for a higher quota"),
    415: (FormatError, "set disk_format and container_format to those of the data"),
}
_BUSY = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Answer:
    """A reply with an acceptable status, and the server that sent it."""

    server: str
    url: str
    reply: Reply


class GlanceApi:
    """Sends requests to the servers of one backend instance. Used by all threads."""

    def __init__(self, wire: Wire, keystone: Keystone) -> None:
        self.wire = wire
        self._keystone = keystone

    def ask(
        self,
        identity: Identity,
        method: str,
        path: str,
        *,
        what: str,
        allowed: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        servers: Sequence[str] | None = None,
        patience: float = 1.0,
    ) -> Answer:
        """The answer of the first server that gives one; `path` is relative to `v2/`.

        If a server fails, a GET is sent to the next one; any other request only if nothing was
        sent. After a 401 to the service's own token, the request is repeated with a new token.

        :raises ImageBrokerError: the answer's status is not in `allowed`.
        """
        failed: list[ImageBrokerError] = []
        for server in servers or identity.servers():
            url = f"{server}v2/{path}"
            try:
                reply = self._send(identity, method, url, headers or {}, body, patience)
                self._check(reply, url, what, allowed, identity)
                return Answer(server, url, reply)
            except (TransferError, BackendError, PolicyViolation) as error:
                if error.retryable or nothing_sent(error):
                    self._postpone(server)
                if not (nothing_sent(error) or (method == "GET" and error.retryable)):
                    raise
                failed.append(error)
        raise _none_left(what, failed)

    def show(
        self, identity: Identity, image_id: str, servers: Sequence[str] | None = None
    ) -> tuple[dict[str, Any], Answer]:
        """The record of an image as parsed JSON.

        :raises ImageNotFound, NotAuthorized, TransferError, BackendError: as named.
        """
        answer = self.ask(
            identity, "GET", f"images/{image_id}", what=f"image {image_id}", allowed=(200,),
            headers={"Accept": "application/json"}, servers=servers,
        )  # fmt: skip
        raw = self.json_of(answer, MAX_RECORD)
        if str(raw.get("id")).lower() != image_id.lower():
            raise TransferError(
                f"image {image_id}: {origin(answer.url)} answered with another image",
                hint="check the proxies and caches in front of the image service",
            )
        record.check(raw, answer.url)
        return raw, answer

    def send_json(
        self,
        identity: Identity,
        method: str,
        path: str,
        document: Any,
        *,
        what: str,
        kind: str = "application/json",
        allowed: Collection[int] = (200, 201),
    ) -> dict[str, Any]:
        """Send a document, and return the one in the answer."""
        answer = self.ask_json(
            identity, method, path, document, what=what, kind=kind, allowed=allowed
        )
        return self.json_of(answer, MAX_RECORD)

    def ask_json(
        self,
        identity: Identity,
        method: str,
        path: str,
        document: Any,
        *,
        what: str,
        kind: str = "application/json",
        allowed: Collection[int] = (200, 201),
    ) -> Answer:
        """Send a document; returns the answer."""
        return self.ask(
            identity, method, path, what=what, allowed=allowed,
            headers={"Content-Type": kind, "Accept": "application/json"},
            body=json.dumps(document).encode(),
        )  # fmt: skip

    def list(
        self, identity: Identity, path: str, query: Sequence[tuple[str, str]], what: str
    ) -> Answer:
        """One page of a listing; every value of `query` is encoded, once."""
        return self.ask(
            identity, "GET", f"{path}?{urlencode(query)}".rstrip("?"), what=what, allowed=(200,),
            headers={"Accept": "application/json"},
        )  # fmt: skip

    def locations(self, identity: Identity, image_id: str) -> Sequence[Any] | None:
        """The locations of an image by the newer call; None if unavailable, or forbidden."""
        answer = self.ask(
            identity, "GET", f"images/{image_id}/locations", what=f"locations of image {image_id}",
            allowed=(200, 403, 404, 405, 501), headers={"Accept": "application/json"},
        )  # fmt: skip
        body = self.wire.read_all(answer.reply, answer.url, MAX_RECORD)
        return record.parse_list(body, answer.url) if answer.reply.status == 200 else None

    def json_of(self, answer: Answer, limit: int) -> dict[str, Any]:
        """The bounded, strictly parsed body of an answer."""
        limit = min(limit, self.wire.limits.max_answer)
        return record.parse_json(self.wire.read_all(answer.reply, answer.url, limit), answer.url)

    def drop(self, answer: Answer) -> None:
        """Read the short body of an answer, so that its connection can be reused."""
        self.wire.read_all(answer.reply, answer.url, MAX_MESSAGE)

    def _send(
        self,
        identity: Identity,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body,
        patience: float,
    ) -> Reply:
        reply = self.wire.send(method, url, {**headers, **identity.headers()}, body, patience)
        repeatable = body is None or isinstance(body, bytes)
        if reply.status == 401 and repeatable and identity.renew():
            reply.close()
            reply = self.wire.send(method, url, {**headers, **identity.headers()}, body, patience)
        return reply

    def _check(
        self, reply: Reply, url: str, what: str, allowed: Collection[int], identity: Identity
    ) -> None:
        if reply.status in allowed:
            return
        said = ""
        try:
            if reply.status >= 400:  # other bodies are not messages, and may be the image
                said = _message(self.wire.read_all(reply, url, MAX_MESSAGE, whole=False))
            else:
                reply.close()
        except TransferError:
            pass  # truncated or encoded: the status is enough
        raise _refusal(reply, url, what, identity.hide(said))

    def _postpone(self, server: str) -> None:
        """Use this server last from now on, so that calls do not wait for it."""
        order = self._keystone.endpoints
        if len(order) > 1 and server in order:
            self._keystone.endpoints = [each for each in order if each != server] + [server]


def _is_no_image_service(what: str, said: str) -> bool:
    """Whether a 404 says that the server does not know the path, as Keystone does."""
    return what == "the list of images" or "requested URL was not found" in said


def _refusal(reply: Reply, url: str, what: str, said: str) -> ImageBrokerError:
    status = reply.status
    text = f"{what}: {origin(url)} answered {status}" + (f": {said}" if said else "")
    if 300 <= status < 400:
        return _redirected(reply, url, what)
    kind, hint = _KINDS.get(status, (BackendError, "check the image service's log"))
    if status == 404 and _is_no_image_service(what, said):
        hint = "no image service answers there: set endpoint to the address of Glance, or remove it"
    if kind is not BackendError:
        return kind(text, hint=hint, status=status)
    return BackendError(
        text,
        hint="try again later: the service is busy or has a problem" if status in _BUSY else hint,
        retryable=status in _BUSY,
        retry_after=peer.seconds_until(reply.headers.get("Retry-After")),
        status=status,
    )


def _redirected(reply: Reply, url: str, what: str) -> ImageBrokerError:
    if reply.status in (300, 304):
        return TransferError(
            f"{what}: {origin(url)} answered {reply.status}",
            hint="set endpoint to the base URL, without v2/images",
            retryable=False,
            status=reply.status,
        )
    target = printable(reply.headers.get("Location", "nowhere"), 200)
    return PolicyViolation(
        f"{what}: {origin(url)} redirects to {target}, and the token is not sent there",
        hint="if that URL is right, set endpoint to it",
        status=reply.status,
    )


def _none_left(what: str, failed: Sequence[ImageBrokerError]) -> ImageBrokerError:
    if len(failed) == 1:
        return failed[0]
    kinds = {type(error) for error in failed}
    kind = kinds.pop() if len(kinds) == 1 else TransferError
    waits = [error.retry_after for error in failed if error.retry_after is not None]
    return kind(
        f"{what}: no image service answered: " + "; ".join(str(error) for error in failed),
        hint="check that the servers in endpoint are running and reachable",
        retryable=any(error.retryable for error in failed),
        retry_after=min(waits, default=None),
    )


def _message(body: bytes) -> str:
    """The message of an error response: JSON, HTML or text, depending on the server."""
    text = body.decode("utf-8", "replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        inner = parsed.get("error")
        found = inner.get("message") if isinstance(inner, dict) else parsed.get("message")
        text = found if isinstance(found, str) else ""
    text = re.sub(r"(?is)<(head|title|style|script)\b.*?</\1\s*>", " ", text[:4096])
    text = html.unescape(re.sub(r"<[^>]*>", " ", text))
    return printable(" ".join(text.split()), 300)
