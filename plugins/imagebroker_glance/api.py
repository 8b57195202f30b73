"""Questions to the Image API v2: which server, which token, and what an answer's status means."""

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

#: Bytes of one record, and of what an error says about itself.
MAX_RECORD = 1024 * 1024
MAX_MESSAGE = 64 * 1024
PATCH_TYPE = "application/openstack-images-v2.1-json-patch"

_KINDS: Mapping[int, tuple[type[ImageBrokerError], str]] = {
    400: (InvalidImageRef, "see what the service objects to"),
    401: (NotAuthorized, "the token is invalid or expired: get a new one"),
    403: (NotAuthorized, "the project or the role of this token does not permit it"),
    404: (ImageNotFound, "check the id; other projects' private images look missing too"),
    409: (Conflict, "look at the image's present state, and whether something uses it"),
    410: (Gone, "the image was deleted"),
    413: (QuotaExceeded, "delete images, or ask for a higher quota"),
    415: (FormatError, "the data is not what disk_format and container_format say"),
}
_BUSY = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Answer:
    """A reply with an acceptable status, and which server gave it."""

    server: str
    url: str
    reply: Reply


class GlanceApi:
    """Asks the servers of one backend instance. One serves all threads."""

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
        """The first answer that a server gives; `path` begins below `v2/`.

        A GET goes on to the next server when one is in trouble; anything else only when nothing
        was sent. A 401 to the service's own token is asked again once, with a new token.

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
                hint="check the proxies and caches before the image service",
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
        """Send a document and return the one that comes back."""
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
        """Send a document; the answer is as it came."""
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
        """The locations of an image by the newer call; None where it, or its caller, may not."""
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
        """Read what little body an answer has, so that its connection can be used again."""
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
            if reply.status >= 400:  # what comes with others is no message, but may be the image
                said = _message(self.wire.read_all(reply, url, MAX_MESSAGE, whole=False))
            else:
                reply.close()
        except TransferError:
            pass  # cut or encoded: the status says enough
        raise _refusal(reply, url, what, identity.hide(said))

    def _postpone(self, server: str) -> None:
        """Ask this one last from now on: every call would wait for it otherwise."""
        order = self._keystone.endpoints
        if len(order) > 1 and server in order:
            self._keystone.endpoints = [each for each in order if each != server] + [server]


def _refusal(reply: Reply, url: str, what: str, said: str) -> ImageBrokerError:
    status = reply.status
    text = f"{what}: {origin(url)} answered {status}" + (f": {said}" if said else "")
    if 300 <= status < 400:
        return _redirected(reply, url, what)
    kind, hint = _KINDS.get(status, (BackendError, "see the image service's log"))
    if kind is not BackendError:
        return kind(text, hint=hint, status=status)
    return BackendError(
        text,
        hint="the service is busy or in trouble; try again later" if status in _BUSY else hint,
        retryable=status in _BUSY,
        retry_after=peer.seconds_until(reply.headers.get("Retry-After")),
        status=status,
    )


def _redirected(reply: Reply, url: str, what: str) -> ImageBrokerError:
    if reply.status in (300, 304):
        return TransferError(
            f"{what}: {origin(url)} answered {reply.status}",
            hint="the endpoint should be the URL to which v2/images is added",
            retryable=False,
            status=reply.status,
        )
    target = printable(reply.headers.get("Location", "nowhere"), 200)
    return PolicyViolation(
        f"{what}: {origin(url)} redirects to {target}; the token does not go along",
        hint="write the URL that it redirects to as endpoint, if it is right",
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
        hint="check that the servers named as endpoint run and can be reached",
        retryable=any(error.retryable for error in failed),
        retry_after=min(waits, default=None),
    )


def _message(body: bytes) -> str:
    """What an error says about itself: JSON, HTML or text, depending on who answers."""
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
