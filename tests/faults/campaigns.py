"""The campaigns by name. Each is a context manager with `points()` and `attempt(point)`.

A point may stand for several `faults`; `struck` says how many of them hit something.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.cuts import Cuts, some_blocks
from tests.faults.forks import Forks
from tests.faults.growth import Growth
from tests.faults.kills import Kills
from tests.faults.missing_ranges import MissingRanges
from tests.faults.power_loss import PowerLoss
from tests.faults.swarm import Swarm
from tests.faults.tenants import Tenants
from tests.faults.write_path import WritePath


def cuts_of_large_bodies(folder: Path) -> Cuts:
    """Bodies of this size are received in large blocks; of less than 64 MiB, by one connection."""
    image = random.Random(6).randbytes(40 * 1024 * 1024 + 321)
    return Cuts(folder, ("http", "https", "glance"), image, some_blocks, patience=30.0)


CAMPAIGNS: dict[str, Callable[[Path], Any]] = {
    "write-path": WritePath,
    "cuts-http": partial(Cuts, schemes=("http",)),
    "cuts-https": partial(Cuts, schemes=("https",)),
    "cuts-glance": partial(Cuts, schemes=("glance",)),
    "cuts-scp": partial(Cuts, schemes=("scp",)),
    "cuts-s3": partial(Cuts, schemes=("s3",)),
    "cuts-swift": partial(Cuts, schemes=("swift",)),
    "cuts-large": cuts_of_large_bodies,
    "kills": Kills,
    "power-loss": PowerLoss,
    "growth": Growth,
    "missing-ranges": MissingRanges,
    "tenants": Tenants,
    "forks": Forks,
    "swarm": Swarm,
}
