"""How pytest-xdist shares the tests among its processes, and what it does when one of these dies."""

from __future__ import annotations

import os
from typing import Any

import pytest

#: Modules whose tests share nothing and take long: each is handed out alone, or the last process
#: would be busy with them long after the others have ended.
_ONE_BY_ONE = ("tests/faults/test_laboratory.py",)
#: Folders and modules whose tests share servers that take long to start: all go to the same process.
#: The first that fits counts.
_SERVERS = {
    "tests/compat/ironic_service/": "Ironic",
    "tests/plugins/rbd/": "Ceph", "tests/plugins/s3/test_other_servers.py": "Ceph",
    "tests/plugins/s3/": "Swift", "tests/plugins/swift/": "Swift",
}  # fmt: skip
_DIED = pytest.StashKey[str]()
#: What is handed out, and whose end has been told.
_SCHEDULER = pytest.StashKey[Any]()
_FINISHED = pytest.StashKey[set[str]]()
#: The tests that nobody finished because a process died; with this variable only they are run.
_UNFINISHED = "imagebroker/unfinished"
_ONLY_UNFINISHED = "IMAGEBROKER_TEST_UNFINISHED"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist would start another process in place of one that died, which with
    `--dist loadfile` waits for ever."""
    if getattr(config.option, "maxworkerrestart", "") is None:
        config.option.maxworkerrestart = "0"
    config.stash[_FINISHED] = set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get(_ONLY_UNFINISHED) and (cache := _cache(config)) is not None:
        wanted = set(cache.get(_UNFINISHED, []))
        items[:] = [item for item in items if item.nodeid in wanted]


def _cache(config: pytest.Config) -> pytest.Cache | None:
    """None with `-p no:cacheprovider`."""
    return getattr(config, "cache", None)


class _Told:
    """What the process that hands out the tests hears of them."""

    def __init__(self, finished: set[str]) -> None:
        self._finished = finished

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self._finished.add(report.nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Of pytest-xdist, in the process that hands out the tests."""
    if error:
        node.config.stash[_DIED] = str(error)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The status is not that of a failed test, as if all others had been run."""
    config, stash = session.config, session.config.stash
    hands_out = not hasattr(config, "workerinput")
    if hands_out and not os.environ.get(_ONLY_UNFINISHED) and (cache := _cache(config)) is not None:
        died = _DIED in stash and _SCHEDULER in stash
        collected = stash[_SCHEDULER].collection or [] if died else []
        cache.set(_UNFINISHED, [each for each in collected if each not in stash[_FINISHED]])
    if _DIED in stash:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A module belongs to one process, which has the servers that it needs."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    config.stash[_SCHEDULER] = made = ByServer(config, log)
    config.pluginmanager.register(_Told(config.stash[_FINISHED]))
    return made


def scope(nodeid: str) -> str:
    """Tests with the same one are run by the same process."""
    if nodeid.startswith(_ONE_BY_ONE):
        return nodeid
    for folder, server in _SERVERS.items():
        if nodeid.startswith(folder):
            return server
    return nodeid.partition("::")[0]
