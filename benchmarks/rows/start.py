"""What it costs to start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.bench import Bench
from benchmarks.contest import Contender, Goal, Row
from benchmarks.peers import imagebroker


@contextmanager
def version(bench: Bench) -> Iterator[Row]:
    contenders = [Contender("imagebroker", [[imagebroker("--version")]]), _python("python", "pass")]
    yield Row("`imagebroker --version`", contenders, [Goal(0.3)])


@contextmanager
def importing(bench: Bench) -> Iterator[Row]:
    ours = _python("imagebroker", "import imagebroker")
    contenders = [ours, _python("python", "pass")]
    yield Row("`import imagebroker`", contenders, [Goal(0.15)])


def _python(name: str, program: str) -> Contender:
    return Contender(name, [[[sys.executable, "-c", program]]])
