"""What `imagebroker check` finds out about Swift: the login works, and the container is there."""

from __future__ import annotations

import hmac
from collections.abc import Iterator

from imagebroker.plugin import WARNING, Finding, NotAuthorized, Options, objects
from imagebroker_swift.client import Account


def check(account: Account, place: objects.Place, options: Options) -> Iterator[Finding]:
    """Change nothing."""
    if account.server.anonymous:
        yield Finding("no login is configured: requests are anonymous", option="auth_type")
    else:
        address = account.address
        key = _tempurl_key(account)
        yield Finding(f"logged in; the account is {address}", option="auth_url")
        if options.tempurl_key:
            yield _about_key(key, options)
    if place.bucket:
        what = f"the container {place.bucket}"
        account.ask(what, "GET", account.url(place.bucket, limit="1", format="json"))
        yield Finding(f"{what} can be listed", option="create_in")


def _tempurl_key(account: Account) -> str | None:
    """The account's key for temporary URLs; None where this user may not see it."""
    try:
        reply = account.ask("the account", "HEAD", account.address)
    except NotAuthorized as error:
        if getattr(error, "status", None) != 403:
            raise
        return None  # some containers are for this user, and not the account
    return reply.head.get("x-account-meta-temp-url-key")


def _about_key(known: str | None, options: Options) -> Finding:
    if known is None:
        return Finding("the key of the account for temporary URLs is not shown to this user",
                       option="tempurl_key")  # fmt: skip
    if hmac.compare_digest(known.encode(), options.tempurl_key.encode()):
        return Finding("the account has this key for temporary URLs", option="tempurl_key")
    return Finding(
        "the account has another key for temporary URLs",
        WARNING,
        "set tempurl_key to the account's key; that of a container opens no segments",
        "tempurl_key",
    )
