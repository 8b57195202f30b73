"""Run the targets under atheris: ``python -m tests.fuzz --seconds 3600``, or some of them by name.

Each target has a process of its own, an equal share of the time, and a folder of inputs that it
goes on with next time. An input that breaks a promise is left there as ``crash-...``; exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

#: What is instrumented, so that new paths through it are noticed.
_OURS = ["imagebroker", "imagebroker_http", "imagebroker_glance", "imagebroker_scp"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="all where none is named")
    parser.add_argument("--seconds", type=int, default=600, help="in all")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="folder of the inputs")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _fuzz(options.targets[0], options.seconds, options.corpus)
    try:
        importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: pip install 'imagebroker[fuzz]'", file=sys.stderr)
        return 2
    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    if unknown := sorted(set(names) - set(TARGETS)):
        parser.error(f"no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    return max([_run(name, options.seconds // len(names), options.corpus) for name in names])


def _run(name: str, seconds: int, corpus: Path) -> int:
    """One target in a process of its own; what it did, on one line."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--inside"]
    command += ["--seconds", str(max(seconds, 1)), "--corpus", str(corpus)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    said = done.stdout.decode("utf-8", "replace")
    count = re.search(r"Done (\d+) runs in (\d+) second", said)
    covered = re.findall(r"cov: (\d+)", said)
    if done.returncode or count is None:
        print(f"{name}: FAILED\n{said[-6000:]}", flush=True)
        return 1
    print(f"{name}: {count[1]} inputs in {count[2]} s, {covered[-1]} places reached", flush=True)
    return 0


def _fuzz(name: str, seconds: int, corpus: Path) -> int:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=_OURS):
        targets = importlib.import_module("tests.fuzz.targets")
    target = targets.TARGETS[name]
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        with contextlib.suppress(FileExistsError), open(folder / f"seed-{number}", "xb") as file:
            file.write(seed)
    atheris.Setup(
        [sys.argv[0], f"-max_total_time={seconds}", "-rss_limit_mb=1024", "-timeout=20",
         "-max_len=8192", f"-artifact_prefix={folder}/", str(folder)],
        target.run,
    )  # fmt: skip
    atheris.Fuzz()  # ends the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
