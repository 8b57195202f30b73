"""What the loss of a connection means: the other side may have said why, in an alert of TLS."""

from __future__ import annotations

import re

from imagebroker.exceptions import ImageBrokerError, NotAuthorized, TransferError

#: The options for one; those of backends that log in to Keystone have its names.
CLIENT_CERTIFICATE = "cert_file and key_file, or certfile and keyfile"
#: OpenSSL's names of alerts about the certificate of a client.
_CERTIFICATE = re.compile(
    r"ALERT_(CERTIFICATE_REQUIRED|BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_REVOKED"
    r"|CERTIFICATE_EXPIRED|CERTIFICATE_UNKNOWN|UNKNOWN_CA|ACCESS_DENIED)"
)


def lost(peer: str, error: OSError) -> ImageBrokerError:
    """The error for a connection to `peer` that ended with `error`."""
    return refused(peer, error) or TransferError(
        f"{peer}: the connection was lost: {error.strerror or type(error).__name__}",
        hint="try again; if it happens again, check the server and the network",
    )


def refused(peer: str, error: OSError) -> NotAuthorized | None:
    """The error if the other side asks for a client certificate, or refuses the one it got."""
    found = _CERTIFICATE.search(str(getattr(error, "reason", None) or ""))
    if found is None:
        return None
    alert = found[1].replace("_", " ").lower()
    return NotAuthorized(
        f"{peer} wants a client certificate that it trusts: {alert}",
        hint=f"set one and its key in the backend's section: {CLIENT_CERTIFICATE}",
    )
