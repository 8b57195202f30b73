"""Our options in Nova's own configuration, beside the real options of Nova."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan

from tests.bounds import HANGS
from tests.cli.conftest import Shell
from tests.compat.nova_process import environment, missing, working_tree
from tests.servers.fixtures import require

PROGRAM = Path(__file__).with_name("nova_options_program.py")
OURS = """
[imagebroker]
enabled_schemes = glance, https
default_backend = glance

[backend:glance]
endpoint = http://127.0.0.1:{port}/
auth_type = password
auth_url = http://127.0.0.1:{port}/v3
username = nova
password = s3cret
project_name = service
user_domain_name = Default
project_domain_name = Default

[backend:file]
allowed_paths = /srv
"""
#: What stands in the nova.conf of a compute node.
NOVA = """[DEFAULT]
debug = false
transport_url = rabbit://nova:s3cret@10.0.0.1/
[api_database]
connection = mysql+pymysql://nova:s3cret@10.0.0.1/nova_api
[glance]
api_servers = http://10.0.0.1:9292
num_retries = 3
[keystone_authtoken]
auth_url = http://10.0.0.1:5000
username = nova
password = s3cret
[libvirt]
virt_type = qemu
live_migration_completion_timeout = 700
[oslo_concurrency]
lock_path = /var/lib/nova/tmp
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The nova.conf, and what the program found."""
    require(missing())
    folder = tmp_path_factory.mktemp("nova")
    path = folder / "nova.conf"
    path.write_text(NOVA + OURS.format(port=9))
    done = subprocess.run(
        [environment() / "bin" / "python", "-W", "ignore", PROGRAM, path],
        cwd=folder, capture_output=True, text=True, timeout=HANGS, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8",
             "PYTHONPATH": str(working_tree(folder / "site"))},
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stderr[-2000:])
    return path, json.loads(done.stdout.splitlines()[-1])


def test_no_option_of_nova_clashes_with_ours_or_changes(found: tuple[Path, dict[str, Any]]) -> None:
    _, answer = found
    assert_that(answer["ours_before"], Equals([]))
    assert_that(answer["options"], GreaterThan(500))
    assert_that(answer["changed"], Equals([]))
    assert_that(answer["resolved"], Equals(["glance", "http"]))


def test_an_error_names_the_line_of_nova_conf(found: tuple[Path, dict[str, Any]]) -> None:
    path, answer = found
    line = path.read_text().splitlines().index("[imagebroker]") + 2
    assert_that(answer["where"], Equals(f"{path}:{line}: [imagebroker] enabled_schemes"))


def test_what_nova_mutates_on_sighup_we_take_up(found: tuple[Path, dict[str, Any]]) -> None:
    assert_that(found[1]["reloaded"], Equals([900, "file"]))


def test_check_finds_no_fault_with_what_is_novas(shell: Shell) -> None:
    path = shell.config(NOVA + OURS.format(port=9))
    path.chmod(0o640)
    found = shell.run("check", "-f", "json").record
    # Nobody listens there; and nothing else is wrong.
    assert_that({row["where"] for row in found}, Equals(
        {"[backend:glance] endpoint", "[backend:glance] auth_url"}
    ))  # fmt: skip
    shown = shell.run("config", "show", "--written", "-f", "json")
    assert_that({row["section"] for row in shown.record}, Equals({"imagebroker", "backend:glance"}))
    assert "s3cret" not in shown.stdout.decode()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)
