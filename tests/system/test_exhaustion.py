"""No descriptor, no thread, no memory left: an error of ours that says so, in every verb."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from imagebroker.exceptions import DestinationError, OutOfMemory, TransferError, UploadFailed
from imagebroker.system.exhaustion import as_ours
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.sshd import Sshd
from tests.system.exhausted import DATA

ROOT = Path(__file__).parents[2]
#: A user without any other process.
NOBODY = "61235"


@dataclass
class World:
    """A configuration, and a place where one of its images is."""

    folder: Path
    config: str
    refs: dict[str, str]

    def ended(self, kind: str, verb: str, backend: str, *before: str) -> list[dict[str, Any]]:
        config = self.folder / "imagebroker.conf"
        config.write_text(self.config)
        done = subprocess.run(
            [*before, sys.executable, "-m", "tests.system.exhausted", kind, str(config),
             str(self.folder), verb, backend, self.refs.get(backend, "")],
            cwd=ROOT, check=False, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert_that(done.returncode, Equals(0), done.stderr[-2000:])
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    folder = tmp_path / "world"
    folder.mkdir()
    return World(folder, (
        "[imagebroker]\nenabled_schemes = file, http, scp, glance\nretries = 0\n"
        f"retry_backoff = 0\nstate_dir = {folder}/state\ncache_dir = {folder}/cache\n"
        f"[backend:file]\nstore_dir = {folder}/store\n"
    ), {})  # fmt: skip


def check(ended: list[dict[str, Any]], hint: str) -> None:
    """Nothing but errors of ours that say what to raise, until there is enough."""
    assert_that(ended[-1]["class"], Equals("ok"), str(ended[-1]))
    failed = [each for each in ended if each["class"] != "ok"]
    assert_that(failed, Not(Equals([])))
    odd = [each for each in failed if not each["retryable"] or hint not in each["hint"]]
    assert_that(odd, Equals([]))


VERBS = ("download", "read", "get", "get_all", "create", "update", "delete", "copy", "load")


@pytest.mark.parametrize("verb", VERBS)
def test_without_a_descriptor_the_embedded_store_says_so(verb: str, world: World) -> None:
    check(world.ended("files", verb, "file"), "ulimit -n")


@pytest.mark.parametrize("verb", ["download", "read", "get", "copy"])
def test_without_a_descriptor_for_a_web_server(verb: str, world: World, nginx: Nginx) -> None:
    name = f"exhausted-{uuid.uuid4().hex}.img"
    (nginx.root / name).write_bytes(DATA)
    world.refs["http"] = nginx.url(name)
    world.config += "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    check(world.ended("files", verb, "http"), "ulimit -n")


@pytest.mark.parametrize("verb", ["download", "get", "get_all", "create", "delete"])
def test_without_a_descriptor_for_an_ssh_server(verb: str, world: World, sshd: Sshd) -> None:
    (world.folder / "scp").mkdir()
    world.config += (
        f"[backend:scp]\nendpoint = {sshd.url(world.folder / 'scp')}/\n"
        f"known_hosts = {sshd.known_hosts}\nidentity_file = {sshd.key}\n"
        "allowed_networks = 127.0.0.0/8\n"
    )
    check(world.ended("files", verb, "scp"), "ulimit -n")


@pytest.mark.parametrize("verb", ["download", "get", "get_all", "create", "update", "delete"])
def test_without_a_descriptor_for_glance(verb: str, world: World, openstack: OpenStack) -> None:
    options = "".join(f"{key} = {value}\n" for key, value in openstack.auth_options("red").items())
    world.config += f"[backend:glance]\nendpoint = {openstack.endpoint}/\n{options}"
    check(world.ended("files", verb, "glance"), "ulimit -n")


def as_nobody(world: World) -> list[str]:
    """How to run as a user whose threads are counted: root's are not."""
    if os.geteuid() != 0:
        pytest.skip("only root can become a user without other processes")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing: apt-get install util-linux")
    for each in (world.folder.parent, *world.folder.parent.rglob("*")):
        os.chown(each, int(NOBODY), int(NOBODY))
    rights = "+dac_override,+dac_read_search"  # the code may lie where this user may not look
    return [
        "setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups",
        "--inh-caps", rights, "--ambient-caps", rights,
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["download", "read", "get", "delete", "copy", "load"])
def test_without_a_thread_the_embedded_store_says_so_or_does_without(
    verb: str, world: World
) -> None:
    check(world.ended("threads", verb, "file", *as_nobody(world)), "ulimit -u")


def test_without_a_thread_for_a_web_server(world: World, nginx: Nginx) -> None:
    name = f"exhausted-{uuid.uuid4().hex}.img"
    (nginx.root / name).write_bytes(DATA)
    world.refs["http"] = nginx.url(name)
    world.config += "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    for verb in ("download", "read"):
        check(world.ended("threads", verb, "http", *as_nobody(world)), "ulimit -u")


@pytest.mark.parametrize("verb", ["download", "create"])
def test_without_memory_what_is_raised_is_ours_and_retryable(verb: str, world: World) -> None:
    ended = world.ended("memory", verb, "file")
    odd = [each for each in ended if each["class"] != "ok" and not each["retryable"]]
    assert_that(odd, Equals([]))


def test_a_command_without_descriptors_says_so_and_ends_as_for_a_later_try(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    program = (
        "import resource, sys; from imagebroker.cli.main import main\n"
        f"main(['download', 'file://{tmp_path}/x', '{tmp_path}/warm'])\n"
        "import os; n = os.open('/', 0); os.close(n)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (n + 1, n + 1))\n"
        f"sys.exit(main(['download', 'file://{tmp_path}/x', '{tmp_path}/y']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "HOME": str(tmp_path)}, cwd=tmp_path,
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert_that(done.stderr, Contains("ulimit -n"))
    assert_that(done.stderr, Not(Contains("Traceback")))
    assert_that((tmp_path / "y").exists(), Equals(False))


def test_a_limit_is_found_however_deep_the_reason_lies() -> None:
    reason = OSError(24, "Too many open files")
    middle = ValueError("a library")
    middle.__cause__ = reason
    upload = UploadFailed("no upload", image_id="x")
    upload.__context__ = middle
    assert_that(as_ours(upload) is upload, Equals(True))
    assert_that((upload.retryable, upload.image_id), Equals((True, "x")))
    ours = as_ours(middle)
    assert_that(isinstance(ours, TransferError), Equals(True))
    assert_that(as_ours(ValueError("another reason")), Equals(None))


def test_a_memory_error_is_both() -> None:
    ours = as_ours(MemoryError())
    assert_that(isinstance(ours, OutOfMemory) and isinstance(ours, MemoryError), Equals(True))
    assert_that(DestinationError.wrap(OSError(12, "x"), "cannot").retryable, Equals(True))
