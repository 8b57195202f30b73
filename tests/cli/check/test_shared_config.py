"""`imagebroker check` for a user who shares the config file of a service."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.cli.check.findings import Findings
from tests.cli.conftest import Inside


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("option", ["cache_dir", "state_dir"])
def test_a_directory_of_the_services_user_is_a_warning(
    option: str, imagebroker: Inside, tmp_path: Path
) -> None:
    path = tmp_path / "of-the-service"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    found = Findings(
        imagebroker, f"[imagebroker]\nenabled_schemes = file\n{option} = {path}\n[backend:file]\n"
    )
    level, what, remedy = found.at(f"[imagebroker] {option}")
    assert_that(level, Equals("warning"))
    assert_that(what, Contains("is owned by the user id 12345: it is not used"))
    assert_that(remedy, Contains("as the user of the service"))
