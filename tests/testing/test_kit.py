"""The kit itself: its clauses, what it skips, what it listens to."""

from __future__ import annotations

import inspect
import re
import socket
import subprocess
import sys
import threading
import unittest
from pathlib import Path
from typing import Any

import pytest
import testtools
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, HasLength

from imagebroker.testing import BackendContract, MemoryBackend
from imagebroker.testing.harness.audit import NETWORK, guarded, record_events
from imagebroker.testing.harness.resources import ResourceSnapshot, leaked_since
from imagebroker.testing.report import FAILED, PASSED, SKIPPED, run
from tests.bounds import HANGS
from tests.testing import hookups

ROOT = Path(__file__).parents[2]


def clauses() -> dict[str, list[str]]:
    """The clauses that the kit tests, and their tests."""
    found: dict[str, list[str]] = {}
    for name in dir(BackendContract):
        if name.startswith("test_"):
            match = re.match(r"test_c(\d+)_", name)
            assert match, f"{name} names no clause"
            found.setdefault(f"C{match[1]}", []).append(name)
    return found


def test_every_clause_of_the_contract_has_a_test_of_the_kit_and_the_other_way_round() -> None:
    written = set(re.findall(r"^### (C\d+)\.", (ROOT / "docs/contract.md").read_text(), re.M))
    assert_that(set(clauses()), Equals(written))


def test_every_test_of_the_kit_says_what_a_user_would_suffer() -> None:
    for name in (name for names in clauses().values() for name in names):
        first = (inspect.getdoc(getattr(BackendContract, name)) or "").partition("\n")[0]
        assert first.endswith("."), f"{name} has no sentence about its harm"


def test_what_needs_a_hook_that_is_left_out_is_skipped_with_its_name() -> None:
    methods = {
        "make_backend": lambda self: MemoryBackend,
        "publish": hookups.MemoryContract.publish,
    }
    report = run(type("WithoutHooks", (BackendContract, testtools.TestCase), methods))
    assert_that(report.of(FAILED), HasLength(0))
    reasons = {each.detail for each in report.of(SKIPPED)}
    for hook in ("replace", "forbid", "take_away", "cut_after", "stall_after", "publish_sparse"):
        assert_that(reasons, Contains(f"needs the hook {hook}"))


def test_a_plain_unittest_test_case_will_do_too() -> None:
    methods = {
        "make_backend": lambda self: MemoryBackend,
        "publish": hookups.MemoryContract.publish,
    }
    report = run(type("Plain", (BackendContract, unittest.TestCase), methods), only="c1[0-4]_")
    assert_that(report.of(FAILED), HasLength(0))
    assert_that(len(report.of(PASSED)), GreaterThan(10))


def test_a_contract_test_without_its_methods_says_which() -> None:
    report = run(type("Empty", (BackendContract, testtools.TestCase), {}), only="c9_open")
    assert_that(report.of(FAILED)[0].detail, Contains("a contract test has a"))


def test_connections_and_their_way_are_heard_in_this_thread_and_in_new_ones() -> None:
    def connect() -> None:
        with socket.socket() as sock:
            sock.connect_ex(("127.0.0.1", 9))

    go, done = threading.Event(), threading.Event()

    def other() -> None:
        go.wait(5)
        connect()
        done.set()

    threading.Thread(target=other, daemon=True).start()
    with record_events() as heard:
        go.set()
        done.wait(5)  # of a thread that was there before: not heard
        thread = threading.Thread(target=connect)
        thread.start()
        thread.join()
        with guarded():
            connect()
    connected = [event for event in heard.of(NETWORK) if event.name == "socket.connect"]
    assert_that([event.guarded for event in connected], Equals([False, True]))
    events = len(heard.events)
    connect()
    assert_that(heard.events, HasLength(events))


def test_calls_can_be_made_to_run_out_of_descriptors() -> None:
    with record_events(fail_from=1) as heard, open("/etc/hostname") as file:
        with pytest.raises(OSError, match="Too many open files"):
            socket.socket()
        with pytest.raises(OSError, match="Too many open files"):
            Path("/etc/passwd").read_bytes()
        assert file.read()
    assert_that(heard.failed, Equals(2))


def test_what_is_left_is_named() -> None:
    before = ResourceSnapshot.now()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left behind")
    thread.start()
    with socket.socket() as sock, subprocess.Popen([sys.executable, "-c", "input()"],
                                                   stdin=subprocess.PIPE) as child:  # fmt: skip
        left: Any = "; ".join(leaked_since(before, 0, 0.1))
        child.communicate()
    stop.set()
    thread.join()
    for what in (f"descriptor {sock.fileno()}" if sock.fileno() > 0 else "socket:",
                 "left behind", f"child process {child.pid}"):  # fmt: skip
        assert_that(left, Contains(what))
    assert_that(leaked_since(before, 0, 1.0), Equals([]))


def test_without_testtools_the_message_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['testtools'] = None\n"
        "import imagebroker.testing\n"
        "from imagebroker.testing import FakeBroker, MemoryBackend, faults\n"
        "try:\n    imagebroker.testing.BackendContract\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=HANGS
    )
    assert_that(done.stdout, Contains("pip install 'imagebroker[testing]'"))
