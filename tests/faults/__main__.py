"""python -m tests.faults: faults of every kind, thousands of them, and what came of it as a table.

    python -m tests.faults                              everything
    python -m tests.faults --campaign cuts --jobs 2     one campaign
    python -m tests.faults --sample 0.02                one of fifty points of each
    python -m tests.faults --seconds 300                as many as there is time for, of each
    python -m tests.faults --record FILE                go on where the last run with FILE ended

The points of a campaign are tried in an order that `--seed` decides. With `--record`, what is tried
is appended to a file; points that are in it are not tried again, and count in the table. So a long
campaign can be run in parts, by `--seconds` or by killing it. Take a new file when the code has
changed. `growth` watches one process from its beginning to its end: run it as a whole. `cuts-https`
has some other points each time, because signatures differ in length: in parts, it tries more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.campaigns import CAMPAIGNS
from tests.faults.record import Record
from tests.faults.tally import Attempt, Tally, table


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--campaign", action="append", choices=[*CAMPAIGNS],
                        help="only this one; may be repeated")  # fmt: skip
    parser.add_argument("--sample", type=float, default=1.0, help="fraction of the points")
    parser.add_argument("--seconds", type=float, default=float("inf"),
                        help="time for each campaign")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--folder", default="/dev/shm" if os.access("/dev/shm", os.W_OK) else None,
                        help="where to work (default: in memory)")  # fmt: skip
    parser.add_argument("--groups", action="store_true", help="how many points of each group")
    parser.add_argument("--record", type=Path, metavar="FILE",
                        help="append what is tried to this file, and skip what is in it")  # fmt: skip
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    chosen = options.campaign or [*CAMPAIGNS]
    if options.worker is not None:
        print(json.dumps(vars(work(chosen[0], options))))
        return 0
    tallies = []
    for name in chosen:
        tally = run(name, options)
        tallies.append(tally)
        for point, kind, what in tally.found:
            print(f"{name}: {point}: {kind}: {what}", file=sys.stderr, flush=True)
        print(f"{name}: {tally.tried} points in {tally.seconds:.0f} s, {tally.missed} not struck, "
              f"{sum(tally.kinds.values())} violations", file=sys.stderr, flush=True)  # fmt: skip
        if options.groups:
            for group, count in sorted(tally.groups.items()):
                print(f"  {count:7} {group}", file=sys.stderr)
    print(table(tallies))
    return 1 if any(tally.kinds for tally in tallies) else 0


def run(name: str, options: argparse.Namespace) -> Tally:
    """One campaign, in as many processes as there are jobs, after what is recorded of it."""
    earlier = list(Record(options.record, name).attempts())
    command = [
        sys.executable, "-m", "tests.faults", "--campaign", name, "--sample", str(options.sample),
        "--seconds", str(options.seconds), "--seed", options.seed, "--jobs", str(options.jobs),
        *(["--folder", options.folder] if options.folder else []),
        *(["--record", str(options.record)] if options.record else []),
    ]  # fmt: skip
    workers = [
        subprocess.Popen([*command, "--worker", str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(options.jobs)
    ]
    whole = Tally(name)
    for worker in workers:
        output, _ = worker.communicate()
        if worker.returncode != 0:
            raise SystemExit(f"a worker of {name} ended with {worker.returncode}")
        whole.join(loaded(json.loads(output.splitlines()[-1])))
    for attempt in earlier:
        whole.add(attempt)
        whole.seconds += attempt.seconds
    return whole


def loaded(found: dict[str, Any]) -> Tally:
    counters = {key: Counter(found.pop(key)) for key in ("kinds", "groups")}
    return Tally(**found, **counters)


def share(points: list[Any], options: argparse.Namespace) -> list[Any]:
    """What this worker tries, and in which order.

    By the names of the points: lists that differ a little between workers, because threads do
    not always run alike, lose nothing and try nothing twice.
    """

    def drawn(point: Any) -> float:
        return zlib.crc32(f"{options.seed} {point}".encode()) / 2**32

    ordered = sorted(points, key=lambda point: (drawn(point), str(point)))
    chosen = ordered[: max(1, round(len(ordered) * options.sample))]
    return [p for p in chosen if zlib.crc32(str(p).encode()) % options.jobs == options.worker]


def work(name: str, options: argparse.Namespace) -> Tally:
    """This worker's share of a campaign, without what is recorded of it."""
    tally, record = Tally(name), Record(options.record, name)
    known = {each.point for each in record.attempts()}
    began = last = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-", dir=options.folder) as folder:
        with CAMPAIGNS[name](Path(folder)) as campaign:
            points = list(campaign.points())
            tally.total = sum(getattr(point, "faults", 1) for point in points)
            for point in share(points, options):
                if str(point) in known:
                    continue
                if time.monotonic() - began > options.seconds:
                    break
                violations = campaign.attempt(point)
                found = None if violations is None else list(violations)
                now = time.monotonic()
                attempt = Attempt(str(point), point.group, getattr(campaign, "struck", 1), found,
                                  (now - last) / options.jobs)  # fmt: skip
                last = now
                tally.add(attempt)
                record.add(attempt)
    tally.seconds = time.monotonic() - began
    return tally


if __name__ == "__main__":
    sys.exit(main())
