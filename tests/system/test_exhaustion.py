"""No descriptor, no thread, no memory left: an error of ours that says so, in every verb."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from imagebroker.exceptions import DestinationError, OutOfMemory, TransferError, UploadFailed
from imagebroker.system.exhaustion import as_ours
from tests.bounds import HANGS
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.sshd import Sshd
from tests.system.exhausted import DATA
from tests.system.world import World, as_nobody, check

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
    world.use_ssh(sshd)
    check(world.ended("files", verb, "scp"), "ulimit -n")


@pytest.mark.parametrize("verb", ["download", "get", "get_all", "create", "update", "delete"])
def test_without_a_descriptor_for_glance(verb: str, world: World, openstack: OpenStack) -> None:
    world.use_glance(openstack)
    check(world.ended("files", verb, "glance"), "ulimit -n")


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


@pytest.mark.parametrize("verb", ["download", "get_all", "create"])
def test_without_a_thread_for_an_ssh_server(verb: str, world: World, sshd: Sshd) -> None:
    """A connection is a thread of the library's, beside those of ours."""
    world.use_ssh(sshd)
    check(world.ended("threads", verb, "scp", *as_nobody(world)), "ulimit -u")


@pytest.mark.parametrize("verb", ["download", "get_all"])
def test_without_a_thread_for_glance(verb: str, world: World, openstack: OpenStack) -> None:
    world.use_glance(openstack)
    check(world.ended("threads", verb, "glance", *as_nobody(world)), "ulimit -u")


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
        check=False, capture_output=True, text=True, timeout=HANGS,
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
