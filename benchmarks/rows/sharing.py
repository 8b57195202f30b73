"""Many processes of one host that want the same image at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import peers
from benchmarks.bench import MIB, Bench
from benchmarks.contest import Contender, Goal, Row, RunError
from benchmarks.rows.http import LIMITED, config

_PROCESSES = 16
_RATE = 30 * 1000 * 1000
_ONE = "one download of imagebroker"


@contextmanager
def sixteen(bench: Bench) -> Iterator[Row]:
    port = bench.nginx(LIMITED).ports["http"]
    with bench.image(256 * MIB) as image, bench.way(port=port, rate=_RATE) as way:
        url = f"http://127.0.0.1:{way.port}/{image.path.name}"
        file, checksum = config(bench), f"sha256:{image.digest()}"
        dests = [bench.dest(f"image-{number}.raw") for number in range(_PROCESSES)]

        def commands(count: int) -> list[list[str]]:
            words = "--config-file", file, "download", url
            return [
                peers.imagebroker(*words, dest, "--checksum", checksum) for dest in dests[:count]
            ]

        def images_handed() -> float:
            return way.handed() / image.size

        def check() -> None:
            stored = [dest for dest in dests if dest.exists()]
            if not stored or any(dest.stat().st_size != image.size for dest in stored):
                raise RunError("not every process stored the image")

        title = (
            f"http, {_PROCESSES} processes, the same {bench.size_text(256 * MIB)}, 30 MB/s in all"
        )
        contenders = [
            Contender("imagebroker", [commands(_PROCESSES)], dests, images_handed),
            Contender(_ONE, [commands(1)], dests, images_handed),
        ]
        goals = [
            Goal(1.5, _ONE), Goal(1.1, figure="counted", unit="images sent by the server"),
        ]  # fmt: skip
        # Without sharing it takes sixteen times as long.
        yield Row(title, contenders, goals, check=check, limit=240, rounds=5)
