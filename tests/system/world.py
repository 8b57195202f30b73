"""A configuration whose resources are exhausted in a process of its own, and what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Not

from tests.servers.openstack import OpenStack
from tests.servers.sshd import Sshd

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

    def use(self, backend: str, options: Mapping[str, Any]) -> None:
        lines = "".join(f"{name} = {value}\n" for name, value in options.items())
        self.config += f"[backend:{backend}]\n{lines}"

    def use_ssh(self, sshd: Sshd) -> None:
        (self.folder / "scp").mkdir()
        self.use("scp", {
            "endpoint": f"{sshd.url(self.folder / 'scp')}/", "known_hosts": sshd.known_hosts,
            "identity_file": sshd.key, "allowed_networks": "127.0.0.0/8",
        })  # fmt: skip

    def use_glance(self, openstack: OpenStack) -> None:
        self.use("glance", {"endpoint": openstack.endpoint} | openstack.auth_options("red"))


def world_in(folder: Path) -> World:
    folder.mkdir()
    return World(folder, (
        "[imagebroker]\nenabled_schemes = file, http, scp, glance, s3, swift, oci\nretries = 0\n"
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
