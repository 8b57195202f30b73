"""What the pages about migration tell a deployer to write runs in the service itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength

from tests.compat.nova_process import missing, nova_environment, working_tree
from tests.compat.service_process import environment_of, missing_service
from tests.servers.fixtures import require

PAGES = Path(__file__).parents[2] / "docs"
_CODE = re.compile(r"<!-- not run: it needs \w+ -->\n```python\n(.*?)```", re.DOTALL)
#: Whose classes the service has afterwards, as its own modules make them.
AFTER = {
    "nova": "print(nova.image.glance.API().__class__.__mro__[1].__module__)",
    "cinder": "print(type(cinder.image.glance.get_default_image_service()).__mro__[1].__module__)",
    "ironic": "print(type(ironic.common.image_service.get_image_service('http://a/b')).__module__)",
}


@pytest.mark.parametrize("service", list(AFTER))
def test_the_lines_that_switch_a_service_run_in_it(service: str, tmp_path: Path) -> None:
    require(missing() if service == "nova" else missing_service(service))
    found = _CODE.findall((PAGES / f"migrating-from-{service}.md").read_text())
    assert_that(found, HasLength(1))
    place = nova_environment() if service == "nova" else environment_of(service)
    done = subprocess.run(
        [place / "bin" / "python", "-W", "ignore", "-c", f"{found[0]}\n{AFTER[service]}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={
            "PATH": f"{place}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path),
            "LANG": "C.UTF-8", "PYTHONPATH": str(working_tree(tmp_path / "site")),
        },
    )  # fmt: skip
    assert_that((done.returncode, done.stderr[-2000:] if done.returncode else ""), Equals((0, "")))
    assert_that(done.stdout.split(".")[:2], Equals(["imagebroker", "compat"]))
