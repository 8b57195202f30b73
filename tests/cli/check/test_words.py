"""The lines of `check` read like those of a person: each thing is said once, and in plain words."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesRegex, Not

from tests.cli.conftest import Inside

CORE = "[imagebroker]\nenabled_schemes = file, http\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (f"{CORE}retries = lots\n",
         "3: failure: [imagebroker] retries: 'lots' is not a whole number; write a whole number of "
         "at least 0"),
        (f"{CORE}retry_backoff = soon\n",
         "3: failure: [imagebroker] retry_backoff: 'soon' is not a number; write a number of at "
         "least 0"),
        (f"{CORE}fsync = perhaps\n",
         "3: failure: [imagebroker] fsync: 'perhaps' is neither true nor false; write true or "
         "false"),
        (f"{CORE}retries = -1\n",
         "3: failure: [imagebroker] retries: the value must be at least 0; write a whole number of "
         "at least 0"),
        (f"{CORE}default_backend = fil\n",
         "3: warning: [imagebroker] default_backend: 'fil' is not enabled: ids without a backend's "
         "name are refused; did you mean file?"),
        ("[imagebroker\n",
         "1: failure: the config file {file} cannot be read: line 1: Invalid section (must end "
         "with ]): '[imagebroker'; write it as [section], then lines option = value"),
        ("enabled_schemes = file\n",
         "1: failure: the config file {file} cannot be read: line 1: Section must be started "
         "before assignment: ''; write it as [section], then lines option = value"),
    ],
)  # fmt: skip
def test_a_line(content: str, line: str, imagebroker: Inside) -> None:
    file = imagebroker.config(content)
    done = imagebroker("check")
    assert_that(done.stdout.decode(), Equals(f"{file}:{line.format(file=file)}\n"), done.stderr)


@pytest.mark.parametrize("option", ["", "known_hosts = /etc/hosts\n"])
def test_a_section_is_named_once(option: str, imagebroker: Inside) -> None:
    imagebroker.config(f"[imagebroker]\nenabled_schemes = scp\n[backend:scp]\n{option}")
    done = imagebroker("check")
    [line] = [each for each in done.stdout.decode().splitlines() if "failure" in each]
    assert_that(line, Contains(": failure: [backend:scp] identity_file: the scp backend has no"))
    assert_that(line.count("[backend:scp]"), Equals(1))


def test_a_directory_is_no_config_file(imagebroker: Inside) -> None:
    done = imagebroker("--config-file", str(imagebroker.work), "list")
    assert_that(done.status, Equals(2))
    assert_that(done.stderr, MatchesRegex(r"(?s).*cannot be read: Is a directory \[config-error\]"))
    assert_that(done.stderr, Not(Contains("Errno")))
