"""What `imagebroker check` finds out about OpenStack: the login works, and Glance answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from imagebroker.plugin import (
    FAILURE,
    Finding,
    ImageBrokerError,
    ImageNotFound,
    ImageQuery,
    NotAuthorized,
    Options,
    PolicyViolation,
    TransferError,
)

if TYPE_CHECKING:
    from imagebroker_glance import GlanceBackend


def check(backend: GlanceBackend, options: Options) -> Iterator[Finding]:
    """Log in as the service, and ask for a list of one image."""
    if not options.get("auth_type"):
        yield Finding("no credentials to check: only callers with their own token are served")
        return
    try:
        for _ in backend.get_all(None, ImageQuery(limit=1)):
            break
    except ImageBrokerError as error:
        yield _explained(error, options)
        return
    who = options.get("username") or options.get("application_credential_id") or "the service"
    yield Finding(f"logged in as {who}; the image service answers", option="auth_url")


def _explained(error: ImageBrokerError, options: Options) -> Finding:
    place = "endpoint" if options.get("endpoint") else error.option or "auth_url"
    if isinstance(error, ImageNotFound):
        return Finding(
            f"{error}: not an image service", FAILURE,
            "set endpoint to the address of Glance, often port 9292, or remove it to use the "
            "service catalogue", place,
        )  # fmt: skip
    if isinstance(error, NotAuthorized) and getattr(error, "status", None) == 401:
        return Finding(
            f"{error}: the login works, but this image service does not accept its token", FAILURE,
            "make sure that auth_url and endpoint belong to the same cloud", place,
        )  # fmt: skip
    if isinstance(error, TransferError) and "TLS" in str(error):
        remedy = "write http:// instead of https://, if that server has no TLS"
        return Finding(str(error), FAILURE, remedy, error.option)
    if isinstance(error, PolicyViolation) and not options.get("endpoint"):
        what = f"the address of the image service in the catalogue is refused: {error}"
        return Finding(what, FAILURE, error.hint, error.option)
    return Finding(str(error), FAILURE, error.hint, error.option)
