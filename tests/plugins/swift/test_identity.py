"""Who asks Swift: its own login, a caller's token, nobody; and where tokens go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from imagebroker_swift import SwiftBackend
from imagebroker_swift.options import backend_options
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

from imagebroker.exceptions import (
    BackendError,
    ConfigError,
    NotAuthorized,
    UnsupportedOperation,
)
from imagebroker.plugin import BackendHost, Image, ImageQuery, Options
from imagebroker.policy.addresses import Policy, networks
from tests.plugins.swift.conftest import Container
from tests.servers.swift import GUEST, GUEST_KEY

DISK = bytes(4)


def backend(**options: Any) -> SwiftBackend:
    values = {option.dest: option.default for option in backend_options()} | options
    policy = Policy(allowed_networks=networks(["127.0.0.0/8"]))
    return SwiftBackend(BackendHost("swift", Options(values), policy=policy))


def findings(made: SwiftBackend) -> list[str]:
    return [finding.what for finding in made.check(None)]


def test_check_says_what_works(container: Container) -> None:
    made = backend(**container.server.swift_options(create_in=container.name))
    first, second = findings(made)
    assert_that(first, Contains("logged in; the account is http://127.0.0.1:"))
    assert_that(second, Equals(f"the container {container.name} can be listed"))


def test_check_says_what_is_wrong(container: Container) -> None:
    options = container.server.swift_options(create_in=container.name)
    with pytest.raises(NotAuthorized) as refused:
        findings(backend(**{**options, "password": "canary-wrong"}))
    assert_that(refused.value.hint, Contains("password"))
    assert_that(str(refused.value), Not(Contains("canary")))
    with pytest.raises(Exception, match="no-such-container"):
        findings(backend(**{**options, "create_in": "no-such-container"}))
    url = f"{container.server.url}/healthcheck"
    with pytest.raises(Exception, match="no token and account"):
        findings(backend(**{**options, "auth_url": url}))


@pytest.mark.parametrize("path", ["/auth/v9.9", "/nowhere/auth"])
def test_a_login_at_the_wrong_address_is_told_where_it_belongs(
    path: str, container: Container
) -> None:
    options = container.server.swift_options(create_in=container.name)
    with pytest.raises(BackendError) as caught:
        findings(backend(**{**options, "auth_url": f"{container.server.url}{path}"}))
    assert_that(caught.value.hint, Contains("set auth_url to the address of the login"))
    assert_that(caught.value.retryable, Equals(False))


def test_a_token_that_has_expired_is_renewed_once(container: Container, tmp_path: Path) -> None:
    """In the middle of a download too: the memory of the server forgets all tokens."""
    broker = container.broker()
    ref = broker.create(None, {"name": "disk"}, bytes(3 * 1024 * 1024)).ref
    with broker.open(None, ref) as reader:
        container.server.forget_tokens()
        assert_that(b"".join(reader), HasLength(3 * 1024 * 1024))
    container.server.forget_tokens()
    assert_that(broker.get(None, ref).size, Equals(3 * 1024 * 1024))
    container.server.forget_tokens()
    with broker.open(None, ref) as reader:
        assert_that(b"".join(reader), HasLength(3 * 1024 * 1024))


def test_a_caller_has_what_the_callers_token_may_see(container: Container) -> None:
    """Never what the service may see."""
    guest = container.server.user(GUEST, GUEST_KEY)
    broker = container.broker(storage_url=container.user.account_url)
    ref = broker.create(None, {"name": "disk"}, DISK).ref
    context = RequestContext(auth_token=guest.token)
    for call in (broker.get, broker.delete):
        with pytest.raises(NotAuthorized):
            call(context, ref)
    container.user.call("POST", container.name, X_Container_Read=GUEST)
    with broker.open(context, ref) as reader:
        assert_that(reader.read(), Equals(DISK))
    with pytest.raises(NotAuthorized):
        broker.delete(context, ref)
    with pytest.raises(NotAuthorized):
        broker.get(RequestContext(), ref)


def test_without_a_login_what_everybody_may_read_is_read(container: Container) -> None:
    container.user.call("PUT", f"{container.name}/images/disk", DISK)
    broker = container.broker(
        auth_type=None, username=None, password=None, auth_url=None,
        storage_url=container.user.account_url,
    )  # fmt: skip
    with pytest.raises(NotAuthorized):
        broker.get(None, container.ref("images/disk"))
    container.user.call("POST", container.name, X_Container_Read=".r:*,.rlistings")
    with broker.open(None, container.ref("images/disk")) as reader:
        assert_that(reader.read(), Equals(DISK))
    [image] = broker.get_all(None)
    assert_that(image.size, Equals(4))


@pytest.mark.parametrize(
    "options",
    [
        {"auth_type": "v1password", "auth_url": "http://127.0.0.1:1/auth/v1.0"},
        {"username": "one", "password": "two"},
        {"create_in": "../x"},
        {"auth_section": "other"},
        {"auth_type": "pasword", "auth_url": "http://127.0.0.1:1/v3"},
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        backend(**options)


def test_without_a_place_nothing_is_stored_or_listed() -> None:
    made = backend(storage_url="http://127.0.0.1:1/v1/AUTH_x")
    for call in (
        lambda: made.get_all(None, ImageQuery()),
        lambda: made.create(None, Image(""), None),
        lambda: made.purge(None, 0.0, False),
    ):
        with pytest.raises(UnsupportedOperation) as caught:
            call()
        assert_that(caught.value.hint, Contains("create_in"))
