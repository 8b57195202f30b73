"""`python -m benchmarks`: the rows that are asked for, and the table."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import peers, table
from benchmarks.bench import Bench
from benchmarks.contest import Result, Row, hold
from benchmarks.rows import ROWS


def main() -> int:
    asked = _arguments()
    results: list[Result] = []
    began = time.monotonic()
    print(table.HEADER, flush=True)
    text = [table.HEADER]
    peers.compile_all()
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-", dir=asked.folder) as folder,
        ExitStack() as stack,
    ):
        bench = Bench(Path(folder), asked.scale, stack)
        for name in asked.rows or ROWS:
            result = _measured(name, bench, asked.pairs)
            results.append(result)
            lines = [*table.lines(result)]
            if not result.runs:
                lines = [table.unmeasured(name, result.problems[""])]
            text += lines
            print("\n".join(lines), flush=True)
    text.append(table.memory(results))
    print(text[-1])
    _tell(f"{time.monotonic() - began:.0f} s in all")
    if asked.write is not None:
        table.put("\n".join(text), asked.write)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure imagebroker beside its peers and print a Markdown table. "
        "Nothing else should run on the machine.",
    )
    parser.add_argument(
        "--rows", type=lambda text: text.split(","), metavar="ROW,ROW",
        help=f"measure only these: {', '.join(ROWS)}",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", type=int, default=5, metavar="N", help="rounds in each row (default: 5)"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="F",
        help="multiply the sizes of all images, for a quick sample",
    )  # fmt: skip
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path.cwd(),
        metavar="DIR",
        help="where images and destinations go, on a disk (default: here); 25 GiB must be free",
    )
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="also put the table into this page of the docs"
    )
    asked = parser.parse_args()
    for name in asked.rows or ():
        if name not in ROWS:
            parser.error(f"there is no row {name!r}: choose from {', '.join(ROWS)}")
    return asked


def _measured(name: str, bench: Bench, pairs: int) -> Result:
    """A row whatever happens: what goes wrong stands in the table."""
    try:
        with ROWS[name](bench) as row:
            return hold(row, pairs, bench.home / "log", _tell)
    except Exception as error:
        _tell(f"{name}: {type(error).__name__}: {error}")
        return Result(Row(name, ()), problems={"": str(error) or type(error).__name__})


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
