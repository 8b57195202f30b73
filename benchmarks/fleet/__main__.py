"""`python -m benchmarks.fleet`: hosts that download one image at once, in network namespaces.

Needs root, nginx, iproute2 and libtorrent. Each link has the same rate in both directions, that of
the origin too. Times are those of whole commands, from a host's start to the image in place.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.fleet import simulation
from benchmarks.fleet.bench import Bench, Result, Way

#: MiB of both processes of one host.
_MEMORY = 150
_HEAD = (
    "way", "hosts with it", "longest", "of one host", "images sent", "liars named",
    "MiB a host", "processor s a host", "processors busy", "goals",
)  # fmt: skip


class Goal(NamedTuple):
    """A way, and what it may cost at most."""

    way: Way
    #: Times as long as one host.
    times: float | None = None
    images: float | None = None

    def missed(self, result: Result, alone: float) -> list[str]:
        """What does not hold, in words."""
        found = []
        if result.wrong or result.right < result.hosts:
            found.append(f"{result.hosts - result.right} hosts without it")
        if self.times is not None and result.longest > self.times * alone:
            found.append(f"longer than {self.times} x")
        if self.images is not None and result.images > self.images:
            found.append(f"more than {self.images} images")
        if result.named < self.way.liars:
            found.append("not all liars named")
        if result.accused:
            found.append(f"{result.accused} honest hosts named")
        if self.way.swarm and result.memory > _MEMORY:
            found.append(f"more than {_MEMORY} MiB")
        return found


def goals(hosts: int) -> Sequence[Goal]:
    """Those of 16 hosts, for as many as there are."""
    return [
        Goal(Way("one host, no swarm", 1, swarm=False)),
        Goal(Way("one host, alone in a swarm", 1), times=1.02),
        Goal(Way(f"{hosts} hosts, a swarm", hosts), times=1.5, images=1.2),
        Goal(Way(f"{hosts} hosts, {hosts // 4} killed after 1 s", hosts, killed=hosts // 4), 1.7),
        Goal(Way(f"{hosts} hosts that begin over 5 s", hosts, over=5.0), 1.6),
        Goal(Way(f"{hosts} hosts, {hosts // 2} of them lie", hosts, liars=hosts // 2), 2.0),
        Goal(Way(f"{hosts} hosts, no swarm", hosts, swarm=False)),
    ]


def row(goal: Goal, result: Result, alone: float) -> str:
    missed = goal.missed(result, alone)
    held = "; ".join(missed) if missed else "held" if goal.times else ""
    named = f"{result.named} of {goal.way.liars}" if goal.way.liars else ""
    cells = (
        goal.way.title, f"{result.right} of {result.hosts}", f"{result.longest:.1f} s",
        f"{result.longest / alone:.2f} x", f"{result.images:.2f}", named, f"{result.memory:.0f}",
        f"{result.processor:.1f}", f"{result.busy:.0%}", held,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def calibrate(bench: Bench, asked: argparse.Namespace) -> None:
    """Print what namespaces and the simulation say of the same."""
    alone = bench.run(Way("one host, no swarm", 1, swarm=False)).longest
    print("| hosts | measured | simulated | error | images measured | simulated |")
    print("|---|---|---|---|---|---|")
    for hosts in (each for each in (4, 8, 16) if each <= asked.hosts):
        measured = bench.run(Way(f"{hosts} hosts", hosts))
        times = measured.longest / alone
        scene = simulation.Scene("", hosts, asked.mib, asked.megabits)
        simulated = simulation.Simulation(scene).run()
        print(
            f"| {hosts} | {times:.2f} x | {simulated.longest:.2f} x "
            f"| {simulated.longest / times - 1:+.0%} | {measured.images:.2f} "
            f"| {simulated.images:.2f} |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--megabits", type=int, default=100)
    parser.add_argument("--startup", type=float, default=0.5, help="seconds of a command's start")
    parser.add_argument("--simulate", action="store_true", help="1,000 and 10,000 hosts, instead")
    parser.add_argument("--calibrate", action="store_true",
                        help="compare the simulation with namespaces, instead")  # fmt: skip
    parser.add_argument("--only", help="ways whose title has this in it, after the first")
    parser.add_argument("--keep", type=Path, help="leave logs in this directory")
    asked = parser.parse_args()
    if asked.simulate:
        simulation.show()
        return 0
    with tempfile.TemporaryDirectory(prefix="fleet-") as temporary:
        folder = asked.keep or Path(temporary)
        bench = Bench(folder, asked.hosts, asked.mib, asked.megabits, asked.startup)
        print(f"{asked.mib} MiB, {asked.megabits} Mbit/s for each host and for the origin\n")
        if asked.calibrate:
            calibrate(bench, asked)
            return 0
        print(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}", flush=True)
        first, *others = goals(asked.hosts)
        alone = 0.0
        for goal in [first, *(g for g in others if (asked.only or "") in g.way.title)]:
            result = bench.run(goal.way)
            alone = alone or result.longest
            print(row(goal, result, alone), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
