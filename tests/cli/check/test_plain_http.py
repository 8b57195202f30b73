"""`imagebroker check` warns of passwords that would leave this host without encryption."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.cli.check.findings import Findings
from tests.cli.conftest import Inside

SECTIONS = {
    "glance": "auth_type = password\nauth_url = http://{}:5000/v3\nusername = u\npassword = p\n"
    "user_domain_name = Default\nproject_name = p\nproject_domain_name = Default\n",
    "http": "endpoint = http://{}:8080/images/\nusername = u\npassword = p\n",
    "s3": "endpoint_url = http://{}:9000\naccess_key = a\nsecret_key = s\nregion = r\n",
}


def found(imagebroker: Inside, backend: str, host: str) -> Findings:
    section = f"[backend:{backend}]\n{SECTIONS[backend].format(host)}"
    config = f"[imagebroker]\nenabled_schemes = {backend}\n{section}"
    return Findings(imagebroker, config, "--offline", mode=0o600)


@pytest.mark.parametrize("backend", SECTIONS)
@pytest.mark.parametrize(
    "host", ["cloud.example.org", "10.0.0.1", "127.0.0.1.example.org", "[fd00::1]"]
)
def test_a_password_over_the_network_is_a_warning_where_it_stands(
    backend: str, host: str, imagebroker: Inside
) -> None:
    option = {"glance": "auth_url", "http": "endpoint", "s3": "endpoint_url"}[backend]
    checked = found(imagebroker, backend, host)
    level, what, remedy = checked.at(f"[backend:{backend}] {option}")
    assert_that((level, checked.status), Equals(("warning", 1)))
    assert_that(what, Contains("without encryption"))
    assert_that(remedy, Contains("https://"))


@pytest.mark.parametrize("backend", SECTIONS)
@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "[::1]"])
def test_what_stays_on_this_host_is_none(backend: str, host: str, imagebroker: Inside) -> None:
    checked = found(imagebroker, backend, host)
    assert_that((checked.found, checked.status), Equals(([], 0)))
