"""What is read stays beneath the endpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from imagebroker.plugin import ConfigError, PolicyViolation
from tests.plugins.scp.endpoint import log_of
from tests.plugins.scp_peers import fetched, make_backend
from tests.servers.sshd import Sshd


@pytest.mark.parametrize(
    ("path", "data"), [("image", b"on the shelf"), ("inner/image", b"shelf/inner"),
                       ("in", b"shelf/inner")]
)  # fmt: skip
def test_files_beneath_the_endpoint_can_be_read(
    sshd: Sshd, shelf: Path, path: str, data: bytes
) -> None:
    backend = make_backend(sshd, endpoint=[sshd.url(shelf) + "/"])
    assert_that(fetched(sshd.url(shelf / path), backend), Equals(data))


@pytest.mark.parametrize("path", ["out", "evil/image"])
def test_a_link_that_leads_out_of_the_endpoint_is_refused(
    sshd: Sshd, shelf: Path, path: str
) -> None:
    backend = make_backend(sshd, endpoint=[sshd.url(shelf) + "/"])
    with pytest.raises(PolicyViolation):
        fetched(sshd.url(shelf / path), backend)


@pytest.mark.parametrize("path", ["../outside/image", "../shelf-evil/image"])
def test_refs_outside_of_the_endpoint_are_refused_without_a_connection(
    sshd: Sshd, shelf: Path, path: str
) -> None:
    log = len(log_of(sshd))
    backend = make_backend(sshd, endpoint=[sshd.url(shelf) + "/"])
    with pytest.raises(PolicyViolation):
        fetched(sshd.url((shelf / path).resolve()), backend)
    # The end of an earlier connection may be logged late.
    assert_that(log_of(sshd)[log:], Not(Contains("Connection from")))


def test_the_endpoint_may_itself_be_reached_through_a_link(
    sshd: Sshd, shelf: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(shelf)
    backend = make_backend(sshd, endpoint=[sshd.url(tmp_path / "link") + "/"])
    data = fetched(sshd.url(tmp_path / "link" / "image"), backend)
    assert_that(data, Equals(b"on the shelf"))


def test_a_known_host_outside_of_the_endpoint_is_not_offered_the_key(
    sshd: Sshd, shelf: Path, another_sshd: Callable[..., Sshd], tmp_path: Path
) -> None:
    other = another_sshd()
    known = tmp_path / "both"
    known.write_text(sshd.known_hosts.read_text() + other.known_hosts.read_text())
    backend = make_backend(sshd, endpoint=[sshd.url(shelf) + "/"], known_hosts=str(known))
    with pytest.raises(PolicyViolation):
        fetched(other.url(shelf / "image"), backend)
    assert_that(log_of(other), Not(Contains("Connection from")))


def test_the_user_of_the_endpoint_is_the_configured_user(sshd: Sshd, shelf: Path) -> None:
    backend = make_backend(sshd, endpoint=[sshd.url(shelf) + "/"])
    url = f"scp://127.0.0.1:{sshd.port}{shelf}/image"
    assert_that(fetched(url, backend), Equals(b"on the shelf"))
    with pytest.raises(PolicyViolation):
        fetched(sshd.url(shelf / "image", user="nobody"), backend)


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": ["scp://a@h/x/"], "username": "b"},
        {"endpoint": ["https://h/x/"]},
        {"proxy": "http://proxy:3128"},
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_backend(**options)
