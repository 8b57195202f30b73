"""What a service is to the campaign: what to install, what to run, and which failures are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """Tests of a service that belong together."""

    #: Modules or packages with tests.
    modules: tuple[str, ...]
    #: A regular expression that an id has to match somewhere.
    select: str = ""
    #: Whether it is short enough for every run of CI.
    sample: bool = False
    #: Environment variables of its processes.
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reason:
    """Why tests fail after the swap, as their maintainers would accept it."""

    #: A regular expression that the whole id of each of them matches.
    tests: str
    why: str
    #: A regular expression that the last line of their traceback matches; anything, if it is empty.
    says: str = ""

    def holds(self, test: str, last_line: str) -> bool:
        fails_so = not self.says or re.search(self.says, last_line) is not None
        return fails_so and re.fullmatch(self.tests, test) is not None


@dataclass(frozen=True)
class Service:
    """A service whose tests are run."""

    name: str
    #: Its package, the newest of PyPI, and what its tests need.
    packages: tuple[str, ...]
    suites: Mapping[str, Suite]
    reasons: tuple[Reason, ...] = ()
    #: Folders of the environment that its tests look for beside its packages.
    beside: tuple[str, ...] = ()
    #: Packages of it that its tests look for in the folder that they run in.
    here: tuple[str, ...] = ()
    #: Folders of its source distribution that its tests look for there, too.
    sources: tuple[str, ...] = ()
    #: Backends that the swap registers: name of the scheme to `module:class`.
    backends: Mapping[str, str] = field(default_factory=dict)

    def reason(self, test: str, last_line: str) -> Reason | None:
        """Why `test` is known to fail after the swap with this line; None if it is not."""
        return next((each for each in self.reasons if each.holds(test, last_line)), None)

    def always_fails(self, test: str) -> bool:
        """Whether a reason is known for `test` that does not depend on how it fails."""
        return any(each.holds(test, "") for each in self.reasons if not each.says)
