"""A sample of the faults in the write path; `python -m tests.faults.write_path` tries every one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan

from tests.faults.write_path import Point, Stage
from tests.servers.fixtures import require

#: One of so many points is tried here.
ONE_OF = int(os.environ.get("IMAGEBROKER_FAULTS_ONE_OF", "9"))


@pytest.fixture(scope="module", params=["streamed", "local"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    if shutil.which("strace") is None:
        require("strace is not installed: apt-get install strace")
    return Stage(tmp_path_factory.mktemp("stage"), local=request.param == "local")


def sample(stage: Stage, *, existing: bool) -> Iterator[Point]:
    for index, point in enumerate(stage.points(existing=existing)):
        if index % ONE_OF == (3 if existing else 0):
            yield point


@pytest.mark.parametrize("existing", [False, True])
def test_an_error_or_death_at_any_system_call_leaves_the_old_or_the_new_image(
    stage: Stage, existing: bool, tmp_path: Path
) -> None:
    points = list(sample(stage, existing=existing))
    assert_that(len(points), GreaterThan(5))
    found = {str(point): stage.violation(point) for point in points}
    assert_that({point: wrong for point, wrong in found.items() if wrong}, Equals({}))
