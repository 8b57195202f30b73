"""Whose keys are used: those of the options, or those of a person without a config file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import ConfigError, NotAuthorized, UnsupportedOperation
from imagebroker.model.reference import in_form, parse
from imagebroker.plugin import BackendHost, Options
from imagebroker.policy.addresses import Policy, networks
from tests.plugins.s3.conftest import Bucket, OtherBucket
from tests.servers.swift import ACCESS_KEY, SECRET_KEY

pytest.importorskip("boto3")
from imagebroker_s3 import S3Backend
from imagebroker_s3.options import OPTIONS


def backend(*, personal: bool = False, **options: Any) -> S3Backend:
    values = {option.dest: option.default for option in OPTIONS} | options
    policy = Policy(allowed_networks=networks(["127.0.0.0/8"]))
    return S3Backend(BackendHost("s3", Options(values), personal=personal, policy=policy))


def findings(made: S3Backend) -> list[str]:
    return [finding.what for finding in made.check(None)]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_a_service_does_not_look_at_the_environment(
    bucket: Bucket, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "AWS_PROFILE": "no-such-profile", "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_USE_FIPS_ENDPOINT": "true", "AWS_ACCESS_KEY_ID": "another",
        "AWS_SECRET_ACCESS_KEY": "another", "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }.items():  # fmt: skip
        environment.setenv(name, value)
    (tmp_path / "config").write_text("this is no config file [[[")
    made = backend(**bucket.server.options(create_in=bucket.name))
    assert_that(findings(made), Equals([f"the bucket {bucket.name} can be listed"]))


def test_without_keys_a_service_is_anonymous(
    bucket: Bucket, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    made = backend(endpoint_url=bucket.server.url, create_in=bucket.name)
    found = made.check(None)
    assert_that(next(found).what, Contains("anonymous"))
    with pytest.raises(Exception, match="the server answers"):
        next(found)


def test_a_person_has_the_keys_of_the_environment_or_of_the_profile(
    bucket: Bucket, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        f"[images]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    environment.setenv("AWS_PROFILE", "images")
    expected = [f"the bucket {bucket.name} can be listed"]
    here = {"endpoint_url": bucket.server.url, "create_in": bucket.name}
    assert_that(findings(backend(personal=True, **here)), Equals(expected))
    environment.delenv("AWS_PROFILE")
    environment.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    environment.setenv("AWS_ENDPOINT_URL_S3", bucket.server.url)
    assert_that(findings(backend(personal=True, create_in=bucket.name)), Equals(expected))


@pytest.mark.parametrize(
    "entry",
    [
        "credential_process = /bin/false",
        "sso_session = office\nsso_account_id = 1\nsso_role_name = r",
        "role_arn = arn:x",
    ],
)
def test_a_person_whose_keys_a_program_hands_out_is_told_how_to_pass_them_on(
    entry: str, of_aws: OtherBucket, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".aws").mkdir()
    office = "[sso-session office]\nsso_start_url = https://x\nsso_region = us-east-1\n"
    (tmp_path / ".aws" / "config").write_text(f"[profile 'a b']\n{entry}\n{office}")
    environment.setenv("AWS_PROFILE", "a b")
    of_aws.client.put_object(Bucket=of_aws.name, Key="disk", Body=b"data")
    with pytest.raises(NotAuthorized) as caught:
        made = backend(personal=True, endpoint_url=of_aws.server.url)
        made.get(None, in_form(parse(of_aws.ref("disk")), S3Backend.ref_form))
    assert_that(caught.value.hint, Contains(entry.partition(" ")[0]))
    command = "aws configure export-credentials --profile 'a b' --format env"
    assert_that(caught.value.hint, Contains(f'eval "$({command})"'))


@pytest.mark.parametrize(
    ("variables", "file", "remedy"),
    [
        ({"AWS_PROFILE": "nowhere"}, "", "aws configure list-profiles"),
        ({}, "[default\n", "correct that file"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, "", "as https://host[:port]"),
        ({"AWS_ENDPOINT_URL": "s3.example"}, "", "as https://host[:port]"),
    ],
)
def test_what_is_wrong_with_the_environment_of_a_person_is_no_bug_of_the_plugin(
    variables: dict[str, str], file: str, remedy: str,
    environment: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(file)
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        findings(backend(personal=True, create_in="images"))
    assert_that(caught.value.hint, Contains(remedy))


def test_check_says_what_is_wrong(bucket: Bucket) -> None:
    assert_that(
        findings(backend(**bucket.server.options())), Equals(["the server accepts the keys"])
    )
    with pytest.raises(NotAuthorized) as refused:
        findings(backend(**bucket.server.options(secret_key="canary-wrong")))
    assert_that(refused.value.hint, Contains("secret_key"))
    with pytest.raises(Exception, match="NoSuchBucket"):
        findings(backend(**bucket.server.options(create_in="no-such-bucket-3301")))


@pytest.mark.parametrize(
    "options",
    [
        {"access_key": "one"}, {"secret_key": "one"}, {"endpoint_url": "s3.example.org"},
        {"create_in": "../x"},
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        backend(**options)


def test_without_a_place_nothing_is_stored_or_listed() -> None:
    from imagebroker.plugin import Image, ImageQuery

    made = backend()
    for call in (
        lambda: made.get_all(None, ImageQuery()),
        lambda: made.create(None, Image(""), None),
        lambda: made.purge(None, 0.0, False),
    ):
        with pytest.raises(UnsupportedOperation) as caught:
            call()
        assert_that(caught.value.hint, Contains("create_in"))
