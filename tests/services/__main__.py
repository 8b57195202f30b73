"""Run the tests of services before and after imagebroker is swapped in.

    python -m tests.services                    # everything: hours
    python -m tests.services nova:image         # one suite
    python -m tests.services --sample           # what CI runs
    python -m tests.services nova:functional --after-first --keep results   # again, to go on

The sample runs a suite after the swap, and before it only the tests that fail without a known reason;
so does `--after-first` with any suite. A run that was interrupted goes on in the folder that it kept.
Each service is installed, the newest from PyPI, into an environment of its own, which is kept. Every
test that fails only after the swap is printed with the reason; one without a known reason makes
the exit status 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.services.environment import INSIDE, Environment
from tests.services.model import Service
from tests.services.runs import Incomplete, Outcome, run_suite
from tests.services.table import Comparison


def services() -> dict[str, Service]:
    """By name: of each module that has a swap beside it."""
    names = sorted(path.stem.removesuffix("_swap") for path in INSIDE.glob("*_swap.py"))
    return {name: importlib.import_module(f"tests.services.{name}").SERVICE for name in names}


def chosen(found: dict[str, Service], names: list[str], sample: bool) -> Iterator[tuple[str, str]]:
    """The suites to run. :raises SystemExit: a name is unknown."""
    known = [(s.name, suite) for s in found.values() for suite in s.suites]
    for name in names:
        service, _, suite = name.partition(":")
        if service not in found or (suite and suite not in found[service].suites):
            raise SystemExit(f"there is no {name}; there are {' '.join(map(':'.join, known))}")
    for service, suite in known:
        named = not names or service in names or f"{service}:{suite}" in names
        if named and (found[service].suites[suite].sample or not sample):
            yield service, suite


def tried(environment: Environment, suite: str, work: Path, seconds: float) -> Comparison:
    """Run a suite after the swap, and before it the tests that fail then and should not."""
    service = environment.service
    folder, run = work / f"{service.name}-{suite}", partial(run_suite, seconds=seconds)
    after = run(environment, service.suites[suite], Path(f"{folder}-after"), swapped=True)
    before = dict.fromkeys(after, Outcome("ok"))
    failing = [
        test
        for test, each in after.items()
        if each.failed and service.reason(test, each.last_line) is None
    ]
    if failing:
        before |= run(
            environment, service.suites[suite], Path(f"{folder}-before"), swapped=False,
            only=failing,
        )  # fmt: skip
    return Comparison(service, suite, before, after, whole=False)


def compared(environment: Environment, suite: str, work: Path, seconds: float) -> Comparison:
    """Run one suite twice, at the same time: each in processes and a folder of its own."""
    service = environment.service

    def run(swapped: bool) -> dict[str, Outcome]:
        folder = work / f"{service.name}-{suite}-{'after' if swapped else 'before'}"
        return run_suite(
            environment, service.suites[suite], folder, swapped=swapped, seconds=seconds
        )

    with ThreadPoolExecutor(2) as both:
        before, after = both.map(run, (False, True))
    return Comparison(service, suite, before, after)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("suites", nargs="*", metavar="SERVICE[:SUITE]")
    parser.add_argument("--sample", action="store_true", help="only the suites that CI runs")
    parser.add_argument("--renew", action="store_true", help="install the newest releases again")
    parser.add_argument("--seconds", type=float, default=600, help="that one test may take")
    parser.add_argument("--keep", type=Path,
                        help="a folder for logs and outcomes; tests that have one are not run again")  # fmt: skip
    parser.add_argument("--after-first", action="store_true",
                        help="before the swap, run only what fails after it without a reason")  # fmt: skip
    arguments = parser.parse_args()
    found, failed = services(), False
    todo = list(chosen(found, arguments.suites, arguments.sample))
    work = arguments.keep or Path(tempfile.mkdtemp(prefix="services-"))
    work.mkdir(exist_ok=True)
    environments = {service: Environment(found[service]) for service, _ in todo}
    with ThreadPoolExecutor() as all_of_them:
        install = partial(Environment.install, renew=arguments.renew)
        for version in all_of_them.map(install, environments.values()):
            print(version, flush=True)
    run = tried if arguments.sample or arguments.after_first else compared
    with ThreadPoolExecutor(os.cpu_count() if arguments.sample else 1) as some:
        running = [
            (each, some.submit(run, environments[each[0]], each[1], work, arguments.seconds))
            for each in todo
        ]
        for (service, suite), result in running:
            failed = told(f"{service}, {suite}", result) or failed
    if arguments.keep is None:
        shutil.rmtree(work, ignore_errors=True)
    return int(failed)


def told(title: str, running: Future[Comparison]) -> bool:
    """Print the result of a suite; whether it is to be looked into."""
    try:
        result = running.result()
    except Incomplete as error:
        print(f"{title}: could not be run: {error}", flush=True)
        return True
    print("\n".join(result.lines()), flush=True)
    return bool(result.unknown()) or not result.before


if __name__ == "__main__":
    sys.exit(main())
