"""`python -m benchmarks.fleet`: hosts that download one image at once, in network namespaces.

Needs root, nginx, iproute2 and libtorrent. Each link has the same rate in both directions, that of
the origin too. Times are those of whole commands, from a host's start to the image in place.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


def show(bench: Bench, chosen: Sequence[Goal]) -> None:
    """Print what these ways took. The first one is the measure of the others."""
    print(f"{bench.mib} MiB, {bench.megabits} Mbit/s for each host and for the origin\n")
    print(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}", flush=True)
    alone = 0.0
    for goal in chosen:
        result = bench.run(goal.way)
        alone = alone or result.longest
        print(row(goal, result, alone), flush=True)


def calibrate(bench: Bench) -> None:
    """Print what namespaces and the simulation say of the same."""
    alone = bench.run(Way("one host, no swarm", 1, swarm=False)).longest
    print(f"{bench.mib} MiB, {bench.megabits} Mbit/s\n")
    print("| hosts | measured | simulated | error | images measured | simulated |")
    print("|---|---|---|---|---|---|")
    for hosts in (each for each in (4, 8, 16) if each <= len(bench.names)):
        measured = bench.run(Way(f"{hosts} hosts", hosts))
        times = measured.longest / alone
        scene = simulation.Scene("", hosts, bench.mib, bench.megabits)
        simulated = simulation.Simulation(scene).run()
        print(
            f"| {hosts} | {times:.2f} x | {simulated.longest:.2f} x "
            f"| {simulated.longest / times - 1:+.0%} | {measured.images:.2f} "
            f"| {simulated.images:.2f} |",
            flush=True,
        )


def everything(hosts: int, startup: float) -> None:
    """All tables of docs/fleet.md. The second is of links that are a quarter as fast, and as much
    less to send: a machine with two processors has the time for sixteen hosts of that kind."""
    for mib, megabits in ((256, 100), (64, 25)):
        with _bench(hosts, mib, megabits, startup) as bench:
            show(bench, [each for each in goals(hosts) if each.way.swarm or each.way.hosts == 1])
            print(flush=True)
    with _bench(hosts, 64, 25, startup) as bench:
        calibrate(bench)
    print(flush=True)
    simulation.show()


@contextmanager
def _bench(
    hosts: int, mib: int, megabits: int, startup: float, keep: Path | None = None
) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="fleet-") as temporary:
        yield Bench(keep or Path(temporary), hosts, mib, megabits, startup)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--all", action="store_true", help="all tables of docs/fleet.md")
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--megabits", type=int, default=100)
    parser.add_argument("--startup", type=float, default=0.5, help="seconds of a command's start")
    parser.add_argument("--simulate", action="store_true", help="1,000 and 10,000 hosts, instead")
    parser.add_argument("--calibrate", action="store_true",
                        help="compare the simulation with namespaces, instead")  # fmt: skip
    parser.add_argument("--only", default="", help="ways whose title has this in it, and the first")
    parser.add_argument("--keep", type=Path, help="leave logs in this directory")
    asked = parser.parse_args()
    if asked.simulate:
        simulation.show()
    elif asked.all:
        everything(asked.hosts, asked.startup)
    else:
        first, *others = goals(asked.hosts)
        size = asked.hosts, asked.mib, asked.megabits, asked.startup
        with _bench(*size, asked.keep) as bench:
            if asked.calibrate:
                calibrate(bench)
            else:
                show(bench, [first, *(each for each in others if asked.only in each.way.title)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
