"""Who we are at a registry: nobody, a user with a password, or the bearer of a token."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from imagebroker_oci import OciBackend
from imagebroker_oci.credentials import PullSecrets
from imagebroker_oci.identity import MAX_KEPT, keep
from imagebroker_oci.names import Name
from imagebroker_oci.options import OPTIONS
from testtools import ExpectedException
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

from imagebroker.exceptions import ConfigError, ImageNotFound, NotAuthorized, TransferError
from imagebroker.model.reference import in_form, parse
from imagebroker.plugin import BackendHost, Options
from imagebroker.policy.addresses import Policy, networks
from imagebroker.testing.hooks import random_bytes
from tests.plugins.oci.conftest import Library
from tests.servers.registry import PASSWORD, USER, Registry

DISK = random_bytes(200_000)


def backend(*, personal: bool = False, **options: Any) -> OciBackend:
    values = {option.dest: option.default for option in OPTIONS} | options
    policy = Policy(allowed_networks=networks(["127.0.0.0/8"]))
    return OciBackend(BackendHost("oci", Options(values), personal=personal, policy=policy))


def size_of(made: OciBackend, ref: str) -> int | None:
    try:
        return made.get(None, in_form(parse(ref), OciBackend.ref_form)).size
    finally:
        made.close()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_password_over_tls(basic_repository: Library) -> None:
    basic_repository.push_disk("1", DISK)
    assert_that(basic_repository.downloaded(basic_repository.ref("1")), Equals(DISK))


@pytest.mark.parametrize("wrong", [True, False])
def test_a_wrong_password_and_none_are_refused(basic_repository: Library, wrong: bool) -> None:
    basic_repository.push_disk("1", DISK)
    secret = basic_repository.server.pull_secret("another") if wrong else None
    broker = basic_repository.broker(pull_secret_file=secret)
    error = None
    try:
        broker.get(None, basic_repository.ref("1"))
    except NotAuthorized as caught:
        error = caught
    assert error is not None
    assert_that(error.hint, Contains(str(secret) if wrong else "pull_secret_file"))
    assert_that(f"{error} {error.hint}", Not(Contains("another")))


def test_a_registry_with_an_unknown_authority_is_refused(basic_repository: Library) -> None:
    from imagebroker.exceptions import PolicyViolation

    with ExpectedException(PolicyViolation, ".*certificate is refused.*"):
        basic_repository.broker(ca_file=None).get(None, basic_repository.ref("1"))


def test_anybody_may_pull_with_a_token_that_anybody_gets(token_repository: Library) -> None:
    token_repository.push_disk("1", DISK)
    found = token_repository.downloaded(token_repository.ref("1"), pull_secret_file=None)
    assert_that(found, Equals(DISK))


def test_a_token_is_asked_for_once_and_with_the_password(token_repository: Library) -> None:
    tokens = token_repository.server.tokens
    assert tokens is not None
    token_repository.push_disk("1", DISK)
    broker = token_repository.broker()
    for _ in range(3):
        broker.download(None, token_repository.ref("1"), token_repository.folder / "disk")
    mine = [each for each in tokens.asked if token_repository.name in str(each["scope"])]
    assert_that([each["user"] for each in mine], Equals([USER]))


def test_a_token_that_runs_out_is_replaced_before_it_does(token_repository: Library) -> None:
    tokens = token_repository.server.tokens
    assert tokens is not None
    token_repository.push_disk("1", DISK, title="disk.raw")
    broker = token_repository.broker()
    tokens.seconds = 0.001
    try:
        for _ in range(3):
            broker.get(None, token_repository.ref("1"))
    finally:
        tokens.seconds = 300
    mine = [each for each in tokens.asked if token_repository.name in str(each["scope"])]
    assert_that(mine, HasLength(3))


def test_a_wrong_password_at_the_token_server(token_repository: Library) -> None:
    token_repository.push_disk("1", DISK)
    secret = token_repository.server.pull_secret("wrong-password")
    with ExpectedException(NotAuthorized, ".*token server.*"):
        token_repository.broker(pull_secret_file=secret).get(None, token_repository.ref("1"))


def test_a_repository_that_the_token_does_not_allow(token_repository: Library) -> None:
    token_repository.push_disk("1", DISK)
    assert token_repository.server.tokens is not None
    token_repository.server.tokens.denied.add(token_repository.name)
    with ExpectedException(NotAuthorized):
        token_repository.broker().get(None, token_repository.ref("1"))


def test_an_identity_token_in_place_of_a_password(
    token_repository: Library, tmp_path: Path
) -> None:
    server = token_repository.server
    assert server.tokens is not None
    token_repository.push_disk("1", DISK)
    path = tmp_path / "identity.json"
    entry = {"identitytoken": server.tokens.refresh_token}
    path.write_text(json.dumps({"auths": {server.address: entry}}))
    broker = token_repository.broker(pull_secret_file=path)
    assert_that(broker.get(None, token_repository.ref("1")).size, Equals(len(DISK)))
    assert_that(server.tokens.asked[-1]["grant_type"], Equals("refresh_token"))


def test_a_person_has_the_login_of_docker_and_a_service_has_not(
    basic_repository: Library, home: Path
) -> None:
    server = basic_repository.server
    basic_repository.push_disk("1", DISK)
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text(server.pull_secret().read_text())
    ref, ca_file = basic_repository.ref("1"), str(server.ca_file)
    assert_that(size_of(backend(personal=True, ca_file=ca_file), ref), Equals(len(DISK)))
    with ExpectedException(NotAuthorized):
        size_of(backend(ca_file=ca_file), ref)


def test_a_person_has_the_login_of_podman_first(basic_repository: Library, home: Path) -> None:
    server = basic_repository.server
    basic_repository.push_disk("1", DISK)
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text(server.pull_secret("wrong").read_text())
    (home / ".config" / "containers").mkdir(parents=True)
    (home / ".config" / "containers" / "auth.json").write_text(server.pull_secret().read_text())
    made = backend(personal=True, ca_file=str(server.ca_file))
    assert_that(size_of(made, basic_repository.ref("1")), Equals(len(DISK)))


@pytest.mark.parametrize("config", [
    {"credsStore": "desktop"}, {"auths": {"ADDRESS": {}}, "credHelpers": {"ADDRESS": "desktop"}},
])  # fmt: skip
@pytest.mark.parametrize("runtime", [True, False])
def test_a_login_that_a_program_of_docker_keeps_is_named_with_a_way_that_works(
    config: dict[str, Any], runtime: bool, basic_repository: Library, home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    elif not os.access("/run", os.W_OK):
        pytest.skip("only root can log in without XDG_RUNTIME_DIR")
    server = basic_repository.server
    basic_repository.push_disk("1", DISK)
    (home / ".docker").mkdir()
    helper = home / "docker-credential-desktop"  # it has no login, and keeps none
    helper.write_text("#!/bin/sh\necho credentials not found in native keychain\nexit 1\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    text = json.dumps(config).replace("ADDRESS", server.address)
    (home / ".docker" / "config.json").write_text(text)
    ref, ca_file = basic_repository.ref("1"), str(server.ca_file)
    with pytest.raises(NotAuthorized) as caught:
        size_of(backend(personal=True, ca_file=ca_file), ref)
    assert_that(caught.value.hint, Contains("docker-credential-desktop"))
    command = caught.value.hint.rpartition(": ")[2].split()
    assert_that(command, Equals(["skopeo", "login", server.address]))
    login = ["--tls-verify=false", "--username", USER, "--password", PASSWORD]
    try:
        subprocess.run([*command, *login], check=True, capture_output=True)
        assert_that(size_of(backend(personal=True, ca_file=ca_file), ref), Equals(len(DISK)))
    finally:
        subprocess.run(["skopeo", "logout", server.address], check=False, capture_output=True)


def secrets(tmp_path: Path, config: object) -> PullSecrets:
    path = tmp_path / "secret.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    values = {option.dest: option.default for option in OPTIONS} | {"pull_secret_file": str(path)}
    return PullSecrets(BackendHost("oci", Options(values)))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("registry.example.org", Name("registry.example.org", None, "a/b")),
        ("https://registry.example.org/v2/", Name("registry.example.org", None, "a")),
        ("registry.example.org:5000", Name("registry.example.org", 5000, "a")),
        ("registry.example.org/a", Name("registry.example.org", None, "a/b")),
        ("https://index.docker.io/v1/", Name("docker.io", None, "library/debian")),
        ("docker.io", Name("docker.io", None, "library/debian")),
    ],
)
def test_entries_are_found_however_programs_call_them(tmp_path: Path, key: str, name: Name) -> None:
    found = secrets(tmp_path, {"auths": {key: {"auth": "bWU6czNjcmV0LXBhaXI="}}}).find(name)
    assert found is not None
    assert_that((found.username, found.password), Equals(("me", "s3cret-pair")))


@pytest.mark.parametrize(
    "name",
    [
        Name("registry.example.org", 5000, "a"), Name("example.org", None, "a"),
        Name("registry.example.org.evil.net", None, "a"),
    ],
)  # fmt: skip
def test_no_other_registry_gets_an_entry(tmp_path: Path, name: Name) -> None:
    config = {"auths": {"registry.example.org": {"username": "me", "password": "secret-pair"}}}
    assert_that(secrets(tmp_path, config).find(name), Equals(None))


def test_the_most_special_entry_counts(tmp_path: Path) -> None:
    config = {"auths": {
        "example.org": {"username": "all", "password": "password-1"},
        "example.org/a/b": {"username": "special", "password": "password-2"},
    }}  # fmt: skip
    found = secrets(tmp_path, config).find(Name("example.org", None, "a/b/c"))
    assert found is not None
    assert_that(found.username, Equals("special"))


@pytest.mark.parametrize("config", ["no json {", "[]", '{"auths": []}', "x" * (1024 * 1024 + 1)])
def test_a_file_that_is_no_pull_secret_is_named(tmp_path: Path, config: str) -> None:
    with ExpectedException(ConfigError, ".*pull_secret_file.*docker's config format.*"):
        secrets(tmp_path, config)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with ExpectedException(ConfigError, ".*pull_secret_file.*cannot be read.*"):
        backend(pull_secret_file=os.fspath(tmp_path / "none"))


def test_no_error_has_the_password(basic_registry: Registry, home: Path) -> None:
    made = backend(**basic_registry.options())
    try:
        made.get(None, in_form(parse(basic_registry.ref("none/none")), OciBackend.ref_form))
    except ImageNotFound as error:
        assert_that(f"{error!r} {error.hint}", Not(Contains(PASSWORD)))
    made.close()


def test_a_registry_without_tls_is_named(registry: Registry) -> None:
    made = backend()
    with pytest.raises(TransferError) as caught:
        size_of(made, registry.ref("a"))
    assert_that(caught.value.hint, Contains("plain_http = yes in [backend:oci]"))


def test_check_finds_the_repository_and_what_is_wrong_with_the_login(
    basic_repository: Library,
) -> None:
    server = basic_repository.server
    place = f"{server.address}/{basic_repository.name}"

    def findings(**options: Any) -> list[str]:
        made = backend(**{**server.options(create_in=place), **options})
        try:
            return [finding.what for finding in made.check(None)]
        finally:
            made.close()

    assert_that(findings()[0], Contains("is not there yet"))
    basic_repository.push_disk("1", DISK)
    assert_that(findings()[0], Contains("has 1 tags"))
    with ExpectedException(NotAuthorized, ".*UNAUTHORIZED.*"):
        findings(pull_secret_file=str(server.pull_secret("wrong-password")))
    assert_that(findings(create_in=None), Equals([]))


def test_a_service_that_reads_many_repositories_remembers_a_bounded_number() -> None:
    kept: dict[str, int] = {}
    for number in range(MAX_KEPT + 50):
        keep(kept, f"repository-{number}", number)
    assert_that(kept, HasLength(MAX_KEPT))
    assert_that(kept[f"repository-{MAX_KEPT + 49}"], Equals(MAX_KEPT + 49))
