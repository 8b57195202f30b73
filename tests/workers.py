"""A test process that dies fails the whole run, at once and under its own exit status.

pytest-xdist would start another in its place, which with `--dist loadfile` waits for ever; without
a replacement it would end with the status of a failed test, as if all others had been run.
"""

from __future__ import annotations

import pytest

_DIED = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "maxworkerrestart", "") is None:
        config.option.maxworkerrestart = "0"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """Of pytest-xdist, in the process that hands out the tests."""
    if error:
        config: pytest.Config = node.config  # type: ignore[attr-defined]
        config.stash[_DIED] = str(error)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _DIED in session.config.stash:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
