"""What `imagebroker check` finds out about ssh servers: hosts are known, keys are accepted."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from imagebroker.plugin import (
    FAILURE,
    WARNING,
    Finding,
    ImageBrokerError,
    ImageNotFound,
    PolicyViolation,
)
from imagebroker_scp.client import Endpoint, Sessions
from imagebroker_scp.errors import translated


def check(sessions: Sessions) -> Iterator[Finding]:
    """Log in to the server of each endpoint, and look at its directory."""
    if not sessions.endpoints:
        yield from _check_without_server(sessions)
    for endpoint in sessions.endpoints:
        try:
            yield _look_at(sessions, endpoint)
        except ImageBrokerError as error:
            yield Finding(str(error), FAILURE, error.hint, error.option or _option(error))


def _look_at(sessions: Sessions, endpoint: Endpoint) -> Finding:
    try:
        with sessions.for_endpoint(endpoint) as session, translated(endpoint.prefix):
            found = session.sftp.stat(endpoint.directory)
    except ImageNotFound:
        return Finding(
            f"there is no directory {endpoint.prefix} on the server", FAILURE,
            "create it there, or correct endpoint", "endpoint",
        )  # fmt: skip
    if not stat.S_ISDIR(found.mode or 0):
        return Finding(
            f"{endpoint.prefix} is not a directory", FAILURE, "name a directory", "endpoint"
        )
    return Finding(f"logged in to {endpoint.prefix}", option="endpoint")


def _check_without_server(sessions: Sessions) -> Iterator[Finding]:
    """Any host in known_hosts may be asked for: whether it lets us in is seen then."""
    sessions.check_key()
    if sessions.has_no_hosts:
        yield Finding(
            f"there is no host in {sessions.known_hosts}: every server is refused", WARNING,
            f"add the servers: ssh-keyscan HOST >> {sessions.known_hosts}   and compare the keys "
            "with those from the servers' admins",
            "known_hosts",
        )  # fmt: skip
    else:
        yield Finding(
            "the key can be used; there is no endpoint to log in to", option="identity_file"
        )


def _option(error: ImageBrokerError) -> str:
    return "known_hosts" if isinstance(error, PolicyViolation) else "endpoint"
