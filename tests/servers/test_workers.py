"""A test process that dies ends the run with an error, and never leaves it waiting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from tests.bounds import HANGS
from tests.workers import scope

ROOT = Path(__file__).parents[2]
PLAIN = "def test_one(): pass\n"


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "tests.workers", *arguments, "-n", "2",
         "--dist", "loadfile", f"--rootdir={folder}", folder],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip


@pytest.mark.parametrize(
    "dying",
    [
        "import os\ndef test_dies(): os.kill(os.getpid(), 11)\n",
        # As after a time limit, or in a library: with the status of success, between two tests.
        "import os, pytest\n@pytest.fixture\ndef last():\n    yield\n    os._exit(0)\n"
        "def test_dies(last): pass\n",
    ],
    ids=["in a test", "between two tests"],
)
def test_the_run_ends_with_an_error_that_names_what_died(dying: str, tmp_path: Path) -> None:
    for name in "bcde":
        (tmp_path / f"test_{name}.py").write_text(PLAIN)
    (tmp_path / "test_a.py").write_text(dying + PLAIN)
    done = run(tmp_path, "-p", "no:cacheprovider")
    assert_that(done.returncode, Equals(int(pytest.ExitCode.INTERNAL_ERROR)), done.stdout)
    assert_that(done.stdout, Contains("crashed while running 'test_a.py::test_dies'"))


def test_what_it_left_unfinished_and_nothing_else_can_be_run_again(tmp_path: Path) -> None:
    names = [f"test_{number}" for number in range(8)]
    dies = "import os\ndef test_dies(): 'AGAIN' in os.environ or os.abort()\n"
    rest = "".join(f"def {name}(): pass\n" for name in names)
    (tmp_path / "test_a.py").write_text(f"def test_before(): pass\n{dies}{rest}")
    assert_that(run(tmp_path).returncode, Equals(int(pytest.ExitCode.INTERNAL_ERROR)))
    done = run(tmp_path, IMAGEBROKER_TEST_UNFINISHED="1", AGAIN="1")
    assert_that(done.returncode, Equals(0), done.stdout)
    passed = {line.rpartition("::")[2] for line in done.stdout.splitlines() if "PASSED" in line}
    assert_that({each.strip() for each in passed}, Equals({"test_dies", *names}))


def test_a_module_or_a_server_is_one_processs_and_each_campaign_anybodys() -> None:
    """Servers that take long to start are started once."""
    assert_that(scope("tests/cli/test_x.py::A::test_1"), Equals(scope("tests/cli/test_x.py::t[2]")))
    assert_that(
        scope("tests/plugins/s3/test_a.py::t"), Equals(scope("tests/plugins/swift/b.py::t"))
    )
    assert_that(scope("tests/plugins/s3/a.py::t"), Not(Equals(scope("tests/plugins/rbd/a.py::t"))))
    ceph = scope("tests/plugins/s3/test_other_servers.py::t")
    assert_that(ceph, Equals(scope("tests/plugins/rbd/a.py::t")))
    laboratory = "tests/faults/test_laboratory.py::test_no_promise_is_broken"
    assert_that(scope(f"{laboratory}[kills]"), Not(Equals(scope(f"{laboratory}[growth]"))))
