"""`config sample` begins with what a first config file needs, and lists every option below it."""

from __future__ import annotations

import re

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesRegex, Not, StartsWith

from imagebroker.registry import list_opts
from tests.cli.conftest import Inside


@pytest.fixture
def sample(imagebroker: Inside) -> str:
    return imagebroker("config", "sample").stdout.decode()


@pytest.fixture
def minimal(imagebroker: Inside) -> str:
    return imagebroker("config", "sample", "--minimal").stdout.decode()


def test_it_begins_with_the_core_and_the_scheme_that_must_be_chosen(sample: str) -> None:
    assert_that(sample, StartsWith("[imagebroker]\n# "))
    assert_that(sample.split("\n\n")[0], Contains("\nenabled_schemes = file, https\n"))


def test_the_minimal_one_is_its_beginning(sample: str, minimal: str) -> None:
    assert_that(sample, StartsWith(minimal))
    assert_that(len([line for line in minimal.splitlines() if line]) <= 24, Equals(True))


def test_every_option_is_in_it_commented(sample: str, minimal: str) -> None:
    rest = sample.removeprefix(minimal)
    sections = dict(re.findall(r"(?ms)^\[([^\]]+)\]\n(.*?)(?=^\[|\Z)", rest))
    for group, options in list_opts():
        for option in options:
            assert_that(sections[group], MatchesRegex(rf"(?ms).*^#{option.dest} =( |$)"))
    uncommented = [line for line in rest.splitlines() if line and line[0] not in "#["]
    assert_that(uncommented, Equals([]))


def test_each_explanation_is_wrapped_once(sample: str) -> None:
    """However its author wrapped it: each line but the last is full."""
    text = " ".join(line.removeprefix("#").strip() for line in sample.splitlines())
    for _, options in list_opts():
        for option in options:
            assert_that(option.help, Not(Contains("\n")))
            assert_that(" ".join(text.split()), Contains(option.help))


def test_it_says_nothing_again_at_every_option(sample: str) -> None:
    for line in ("can be changed without restarting", "sample default", "# From imagebroker"):
        assert_that(sample, Not(Contains(line)))


@pytest.mark.parametrize("options", [(), ("--minimal",)])
def test_it_works_as_it_is(options: tuple[str, ...], imagebroker: Inside) -> None:
    text = imagebroker("config", "sample", *options).stdout.decode()
    text = text.replace("/var/lib/imagebroker", f"{imagebroker.folder}/store")
    path = imagebroker.config(text)
    done = imagebroker("--config-file", str(path), "check", "-f", "json")
    assert_that((done.status, done.record), Equals((0, [])))


def test_what_it_shows_of_openstack_works_without_the_signs_of_a_comment(
    minimal: str, imagebroker: Inside
) -> None:
    pytest.importorskip("keystoneauth1")
    head, _, glance = minimal.partition("#[backend:glance]")
    glance = "[backend:glance]" + glance.replace("\n#", "\n").replace(
        "password =\n", "password = x\n"
    )
    head = head.replace("file, https", "file, https, glance")
    head = head.replace("/var/lib/imagebroker", f"{imagebroker.folder}/store")
    path = imagebroker.config(head + glance)
    path.chmod(0o600)
    done = imagebroker("--config-file", str(path), "check", "--offline", "-f", "json")
    assert_that((done.status, done.record), Equals((0, [])))
