"""A name that only ssh_config knows is refused with the way to find the server behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
from imagebroker_scp.aliases import is_alias
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from imagebroker.exceptions import PolicyViolation
from tests.plugins.scp_peers import fetched, make_backend


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose ~/.ssh knows no server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    return tmp_path / ".ssh"


@pytest.mark.parametrize(
    "text",
    [
        "Host build7\n  HostName 10.0.0.7\n",
        "host=other build7\nHOSTNAME=build.example.org\n",
        'Host build?\n  User me\n  ProxyJump gate\n  HostName "%h.internal"\n',
        "Include conf.d/*\n",
    ],
)
def test_a_name_that_stands_for_another_is_an_alias(text: str, folder: Path) -> None:
    (folder / "conf.d").mkdir()
    (folder / "conf.d" / "builds").write_text("Host build7\n\tHostName 10.0.0.7\n")
    (folder / "config").write_text(text)
    assert_that(is_alias("build7", folder), Equals(True))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Host *\n  User me\n",
        "Host build7\n  User me\nHost other\n  HostName 10.0.0.7\n",
        "Host build7\n  HostName build7\n",
        'Match host build7 exec "touch /tmp/never"\n  HostName 10.0.0.7\n',
        "Include config\nInclude ~nobody-here/x\n",
        "Host 'build7\n  HostName 10.0.0.7\n",
        "\0\xff",
    ],
)
def test_any_other_is_none(text: str, folder: Path) -> None:
    (folder / "config").write_text(text)
    assert_that(is_alias("build7", folder), Equals(False))


def test_the_hint_names_the_command_that_resolves_it(folder: Path) -> None:
    (folder / "config").write_text("Host build7\n  HostName 127.0.0.1\n  Port 2222\n")
    with pytest.raises(PolicyViolation) as caught:
        fetched("scp://me@build7/srv/x.img", make_backend(personal=True))
    assert_that(str(caught.value), Contains(f"a Host of {folder / 'config'}, which is not read"))
    assert_that(caught.value.hint, Contains("ssh -G build7"))
    with pytest.raises(PolicyViolation) as caught:
        fetched("scp://me@build8/srv/x.img", make_backend(personal=True))
    assert_that(caught.value.hint, Not(Contains("ssh -G")))
