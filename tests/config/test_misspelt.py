"""A typing error in the config file is told by every command and service, not only by `check`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.broker import Broker
from imagebroker.config.misspelt import misspelt
from imagebroker.config.settings import Settings

BACKENDS = ("file", "http", "https", "glance")


def told(tmp_path: Path, text: str) -> list[str]:
    """What is said of a file, without its name."""
    path = tmp_path / "imagebroker.conf"
    path.write_text(text)
    found = misspelt(Settings.from_file(path), BACKENDS)
    return [each.removeprefix(f"{path}:") for each in found]


def test_an_option_with_a_typing_error_is_named_with_its_line_and_the_one_that_was_meant(
    tmp_path: Path,
) -> None:
    said = told(tmp_path, "[imagebroker]\nenabeld_schemes = file\nstall-timout = 3\n")
    assert_that(
        said,
        Equals([
            "2: [imagebroker] has no option enabeld_schemes; did you mean enabled_schemes?",
            "3: [imagebroker] has no option stall_timout; did you mean stall_timeout?",
        ]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("title", "meant"),
    [
        ("imagebrokr", "imagebroker"),
        ("backend:htp", "backend:http"),
        ("backend:glnace:one", "backend:glance:one"),
        ("backends:file", "backend:file"),
    ],
)
def test_a_section_with_a_typing_error_is_named(tmp_path: Path, title: str, meant: str) -> None:
    said = told(tmp_path, f"[imagebroker]\n[{title}]\nx = 1\n")
    assert_that(said, Equals([f"2: nothing reads the section [{title}]; did you mean [{meant}]?"]))


def test_nothing_is_said_of_what_has_its_name(tmp_path: Path) -> None:
    text = "[IMAGEBROKER]\nenabled-schemes = file\nstall_timeout = 5\n[backend:glance:one]\n"
    assert_that(told(tmp_path, text), Equals([]))


def test_nor_of_the_sections_and_options_of_a_service(tmp_path: Path) -> None:
    service = "[DEFAULT]\nstate_path = /x\n[database]\n[api]\n[glance]\n[libvirt]\nx = 1\n[backend_file]\n"
    assert_that(told(tmp_path, service + "[imagebroker]\nfrom_a_later_version = 1\n"), Equals([]))


def test_a_broker_logs_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "imagebroker.conf"
    path.write_text(
        "[imagebroker]\nenabled_schemes = file\nrequire_digset = true\n[backend:fiel]\n"
    )
    with caplog.at_level(logging.WARNING), Broker.from_config(path):
        pass
    assert_that(caplog.text, Contains("did you mean [backend:file]?"))


def test_a_service_that_has_read_no_file_yet_has_a_broker(caplog: pytest.LogCaptureFixture) -> None:
    with Broker(Settings(cfg.ConfigOpts())):
        assert_that(caplog.text, Equals(""))
