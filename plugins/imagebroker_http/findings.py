"""What `imagebroker check` finds out about the servers in `endpoint`: whether the login works."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.plugin import FAILURE, WARNING, BackendHost, Finding, ImageBrokerError, http

_OPTION = "endpoint"


def check(host: BackendHost, client: http.Client) -> Iterator[Finding]:
    """One HEAD for each endpoint. That there is no page at a prefix says nothing about images."""
    for url in host.options.get(_OPTION) or ():
        try:
            answer = http.Session(client, url.rstrip("/") + "/").request("HEAD")
        except ImageBrokerError as error:
            yield Finding(str(error), FAILURE, error.hint, error.option or _OPTION)
            continue
        answer.close()
        yield _about(url, answer.head.status)


def _about(url: str, status: int) -> Finding:
    if status == 401:
        return Finding(
            f"{url} answered 401: it requires a login", FAILURE,
            "set username and password to what the server expects", _OPTION,
        )  # fmt: skip
    if status >= 500:
        return Finding(f"{url} answered {status}", WARNING, "check the log of that server", _OPTION)
    return Finding(f"{url} answers", option=_OPTION)
