"""The password of a proxy, as `check` and `config show` see it; the proxy of a person's environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from tests.canaries import secret
from tests.cli.conftest import Inside
from tests.plugins.http_peers import answer, serving

PASSWORD = secret("kanarie-option-4c1d")
CONFIG = "[imagebroker]\nenabled_schemes = http\n[backend:http]\nproxy = http://{}127.0.0.1:{}\n"


@pytest.mark.parametrize(
    ("userinfo", "mode", "warned"),
    [
        (f"user:{PASSWORD}@", 0o644, True),
        (f"user:{PASSWORD}@", 0o600, False),
        ("", 0o644, False),
    ],
)
def test_check_warns_of_a_password_that_everybody_may_read(
    userinfo: str, mode: int, warned: bool, imagebroker: Inside
) -> None:
    with serving(answer()) as proxy:
        imagebroker.config(CONFIG.format(userinfo, proxy.port)).chmod(mode)
        done = imagebroker("check", "-f", "json")
    places = [row["where"] for row in done.record]
    assert_that(any("[backend:http] proxy" in each for each in places), Equals(warned))
    assert_that(f"{done}", Not(Contains(PASSWORD)))


def test_config_show_hides_it(imagebroker: Inside) -> None:
    imagebroker.config(CONFIG.format(f"user:{PASSWORD}@", 9))
    done = imagebroker("config", "show", "backend:http", "-f", "json")
    assert_that(done.status, Equals(0))
    assert_that(f"{done}", Not(Contains(PASSWORD)))


@pytest.mark.parametrize("text", [f"https://u:{PASSWORD}@h:1", f"http://u:{PASSWORD}@h:99999"])
def test_one_that_cannot_be_used_is_not_quoted(text: str, imagebroker: Inside) -> None:
    imagebroker.config(f"[imagebroker]\nenabled_schemes = http\n[backend:http]\nproxy = {text}\n")
    for argv in (("check",), ("show", "http://images.example/x")):
        done = imagebroker(*argv)
        assert_that(done.status, Equals(2))
        assert_that(f"{done}", Not(Contains(PASSWORD)))


def test_a_person_downloads_through_the_proxy_of_their_environment(
    imagebroker: Inside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(answer(b"data" * 100)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:{PASSWORD}@127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        done = imagebroker("download", "http://images.example/a.img", str(tmp_path / "a.img"))
        assert_that(done.status, Equals(0))
        assert_that(proxy.received[0], Contains(b"GET http://images.example/a.img HTTP/1.1"))
        assert_that(proxy.received[0], Contains(b"Proxy-Authorization: Basic "))
    assert_that((tmp_path / "a.img").read_bytes(), Equals(b"data" * 100))
    assert_that(f"{done}", Not(Contains(PASSWORD)))
