"""What Glance's answers mean: a status as an error of ours, and bodies parsed strictly.

`refuse` and `parse` are response hooks of requests: they see an answer before keystoneauth and
glanceclient do. Those two send a body again after a 401, look for a Content-Type that may not be
there, guess character sets, and accept JSON with duplicate keys.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import requests

from imagebroker.plugin import (
    BackendError,
    Conflict,
    FormatError,
    Gone,
    ImageBrokerError,
    ImageNotFound,
    InvalidImageRef,
    MalformedAnswer,
    NotAuthorized,
    PolicyViolation,
    QuotaExceeded,
    TransferError,
    peer,
    printable,
)
from imagebroker_glance.urls import origin

_KINDS: Mapping[int, tuple[type[ImageBrokerError], str]] = {
    400: (InvalidImageRef, "correct the request as the service says"),
    401: (NotAuthorized, "get a new token; this one is invalid or has expired"),
    403: (NotAuthorized, "use a project and a role that are allowed to do this"),
    404: (ImageNotFound, "check the id and the project: private images of others are not visible"),
    409: (Conflict, "check the status of the image, and whether something uses it"),
    410: (Gone, "use another image: this one was deleted"),
    413: (QuotaExceeded, "delete images, or ask for a higher quota"),
    415: (FormatError, "give the disk_format and container_format that the data has"),
}
#: The remedy by what the service says, where a status has more than one reason.
_CLOSER: Sequence[tuple[int, re.Pattern[str], str]] = (
    (400, re.compile("SSL certificate"),
     "set certfile and keyfile to a client certificate that the server trusts, and its key"),
    (413, re.compile(r"number of allowed image (propert|tag|member|location)"),
     "give it fewer of them, or ask for a higher limit"),
    (415, re.compile("safety checks"),
     "convert it to an image without references to other files: qemu-img convert"),
    (403, re.compile("Only shared images have members"),
     "share it: make its visibility shared (--shared)"),
)  # fmt: skip
_BUSY = (429, 500, 502, 503, 504)
#: Answers whose body is not a document, or none that anybody acts on.
_SILENT = (202, 204)


class Refused(Exception):
    """An answer that is none to what was asked, by its status."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response.status_code)
        self.status, self.url = response.status_code, str(response.url)
        self.headers = response.headers
        self.said = _message(response.content) if response.status_code >= 400 else ""

    def error(self, what: str, said: str) -> ImageBrokerError:
        """What it means; `said` is its text as it can be shown."""
        text = f"{what}: {origin(self.url)} answered {self.status}" + (f": {said}" if said else "")
        if 300 <= self.status < 400:
            return self._redirected(what)
        kind, hint = _KINDS.get(self.status, (BackendError, "check the image service's log"))
        if self.status == 404 and _is_no_image_service(what, said):
            hint = (
                "no image service answers there: set endpoint to the address of Glance, or"
                " remove it"
            )
        closer = (h for status, words, h in _CLOSER if status == self.status and words.search(said))
        hint = next(closer, hint)
        if self.status == 404 and (image_id := _capitals(what)):
            hint = f"write the id in small letters, as image services make them: {image_id}"
        if kind is not BackendError:
            return kind(text, hint=hint, status=self.status)
        busy = self.status in _BUSY
        return BackendError(
            text,
            hint="try again later: the service is busy or has a problem" if busy else hint,
            retryable=busy,
            retry_after=peer.seconds_until(self.headers.get("Retry-After")),
            status=self.status,
        )

    def _redirected(self, what: str) -> ImageBrokerError:
        if self.status in (300, 304):
            return TransferError(
                f"{what}: {origin(self.url)} answered {self.status}",
                hint="set endpoint to the base URL, without v2/images",
                retryable=False,
                status=self.status,
            )
        target = printable(self.headers.get("Location", "nowhere"), 200)
        return PolicyViolation(
            f"{what}: {origin(self.url)} redirects to {target}, and the token is not sent there",
            hint="if that URL is right, set endpoint to it",
            status=self.status,
        )


def _is_no_image_service(what: str, said: str) -> bool:
    """Whether a 404 says that the server does not know the path, as Keystone does."""
    return what == "the list of images" or "requested URL was not found" in said


def _capitals(what: str) -> str | None:
    """The id in `what` in small letters, if it has others."""
    found = re.search(r"\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b", what)
    return None if found is None or found[0].islower() or found[0].isdigit() else found[0].lower()


def refuse(response: requests.Response, *args: Any, **options: Any) -> requests.Response:
    """:raises Refused: the status is an error or a redirect."""
    if response.status_code >= 300:
        if response.status_code < 400:
            response.close()  # its body is not a message, and may be long
        raise Refused(response)
    return response


def parse(response: requests.Response, *args: Any, **options: Any) -> requests.Response:
    """As `refuse`; and its `json()` is strict, whatever the answer says of its type.

    :raises Refused: the status is an error or a redirect.
    """
    refuse(response)
    method = response.request.method
    silent = response.status_code in _SILENT or method in ("PUT", "DELETE")
    response.encoding = "utf-8"  # or its text would be searched for the most likely one
    response.headers["Content-Type"] = "application/json"
    response.json = partial(_document, response, silent)  # type: ignore[method-assign]
    return response


def _document(response: requests.Response, silent: bool) -> Any:
    if silent:
        return None
    body = response.content
    kind: type[Any] = list if body.lstrip()[:1] == b"[" else dict
    return peer.document(body, kind, origin(str(response.url)))


@contextlib.contextmanager
def translated(server: str) -> Iterator[None]:
    """Turn what the libraries raise, and what a malformed answer causes in them, into ours.

    Their texts are left out: they show headers that cannot be sent.
    """
    from glanceclient import exc
    from keystoneauth1.exceptions import ClientException

    try:
        yield
    except ImageBrokerError:
        raise
    except (
        exc.BaseException, exc.ClientException, ClientException, requests.RequestException,
    ) as error:  # fmt: skip
        raise TransferError(
            f"{origin(server)}: the request failed ({type(error).__name__})",
            hint="check that the endpoint is the image service",
            retryable=False,
        ) from None
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise MalformedAnswer(
            f"{origin(server)}: the answer is not that of an image service"
            f" ({type(error).__name__})",
            hint="check that the endpoint is the image service",
        ) from error


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


def none_left(what: str, failed: Sequence[ImageBrokerError]) -> ImageBrokerError:
    """The error if several servers failed."""
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


def nothing_sent(error: BaseException) -> bool:
    """Whether `error` came before a connection stood, so that any request may go elsewhere."""
    return getattr(error, "nothing_sent", False) is True
