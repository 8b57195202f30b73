"""The campaigns by name. Each is a context manager with `points()` and `attempt(point)`.

A point may stand for several `faults`; `struck` says how many of them hit something.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.cuts import Cuts
from tests.faults.forks import Forks
from tests.faults.growth import Growth
from tests.faults.kills import Kills
from tests.faults.missing_ranges import MissingRanges
from tests.faults.power_loss import PowerLoss
from tests.faults.swarm import Swarm
from tests.faults.tenants import Tenants
from tests.faults.write_path import WritePath

CAMPAIGNS: dict[str, Callable[[Path], Any]] = {
    "write-path": WritePath,
    "cuts-http": partial(Cuts, schemes=("http",)),
    "cuts-https": partial(Cuts, schemes=("https",)),
    "cuts-glance": partial(Cuts, schemes=("glance",)),
    "cuts-scp": partial(Cuts, schemes=("scp",)),
    "cuts-s3": partial(Cuts, schemes=("s3",)),
    "cuts-swift": partial(Cuts, schemes=("swift",)),
    "kills": Kills,
    "power-loss": PowerLoss,
    "growth": Growth,
    "missing-ranges": MissingRanges,
    "tenants": Tenants,
    "forks": Forks,
    "swarm": Swarm,
}
