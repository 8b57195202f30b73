"""A host without rights gets no byte from other hosts, as the kernel counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, LessThan

from imagebroker.swarm.tree import LEAF
from tests.servers.fixtures import require
from tests.servers.nginx import missing as missing_nginx
from tests.swarm.fleet import needs_libtorrent

pytestmark = needs_libtorrent


def cannot_count() -> str | None:
    """Why the kernel does not count here."""
    done = subprocess.run(
        ["unshare", "--net", "iptables", "-L"], check=False, capture_output=True, text=True
    )
    return f"no counters in a network namespace: {done.stderr}" if done.returncode else None


@pytest.mark.parametrize("answers", ["right", "wrong"])
def test_the_kernel_counts_no_byte_of_a_chunk_for_who_proves_nothing(answers: str) -> None:
    require(missing_nginx() or cannot_count())
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.swarm.counted", answers],
        check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stderr)
    counted = json.loads(done.stdout)
    if answers == "right":
        assert_that(counted["sent"], GreaterThan(counted["bytes"]))
        assert_that(counted["bytes"], GreaterThan(LEAF))
    else:
        # A TLS handshake: libtorrent looks at the address only when that is done.
        assert_that(counted["sent"], LessThan(LEAF))
        # A TLS handshake with two certificates, greetings, and the challenge.
        assert_that(counted["spoken"], LessThan(LEAF))
