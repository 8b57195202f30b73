"""From a web server at the end of a way that limits, delays or breaks connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks import peers
from benchmarks.bench import GIB, MIB, Bench
from benchmarks.contest import Goal, Row
from benchmarks.rows.http import LIMITED, aria2c, config, curl, ours

_MANY = "-x8", "-s8", "-k1M"
_CUTS = 20


@contextmanager
def limited(bench: Bench) -> Iterator[Row]:
    dest = bench.dest()
    with bench.image(GIB) as image:
        url = bench.nginx(LIMITED).url(image.path.name, prefix="slow")
        many = aria2c(url, dest, *_MANY)
        contenders = [ours(bench, url, image), many, curl(url, dest)]
        goals = [Goal(1.05, many.name), Goal(0.3, "curl, unverified")]
        title = f"http, {bench.size_text(GIB)}, 40 MB/s for each connection"
        yield Row(title, contenders, goals, dest, image.checker(dest))


@contextmanager
def delayed(bench: Bench) -> Iterator[Row]:
    """A window of 1 MiB in each round trip of 50 ms: 20 MB/s for each connection."""
    dest = bench.dest()
    port = bench.nginx(LIMITED).ports["http"]
    with (
        bench.image(GIB) as image,
        bench.way(port=port, delay=0.025, window=MIB) as way,
    ):
        url = f"http://127.0.0.1:{way.port}/{image.path.name}"
        many = aria2c(url, dest, *_MANY)
        contenders = [ours(bench, url, image), many]
        title = f"http, {bench.size_text(GIB)}, 50 ms away, 1 MiB under way in each connection"
        yield Row(title, contenders, [Goal(1.05, many.name)], dest, image.checker(dest))


@contextmanager
def cuts(bench: Bench) -> Iterator[Row]:
    dest = bench.dest()
    port = bench.nginx(LIMITED).ports["http"]
    size = bench.scaled(GIB)
    with (
        bench.image(GIB) as image,
        bench.way(port=port, cuts=_CUTS, size=size) as way,
    ):
        url = f"http://127.0.0.1:{way.port}/{image.path.name}"

        def images_handed() -> float:
            return way.handed() / size

        words = "download", url, dest, "--checksum", f"sha256:{image.digest()}"
        stubborn = aria2c(url, dest, "-m0")
        contenders = [
            peers.ours(config(bench), *words, count=images_handed),
            replace(stubborn, count=images_handed),
        ]
        goals = [
            Goal(1.05, figure="counted", unit="images handed to the client"),
            Goal(90, figure="peak", unit="MiB"),
        ]
        title = f"http, {bench.size_text(GIB)}, cut {_CUTS} times at random"
        yield Row(title, contenders, goals, dest, image.checker(dest))
