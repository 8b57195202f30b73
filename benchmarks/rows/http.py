"""From a web server on this host, whose only limit is the processor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.bench import GIB, MIB, Bench, Image
from benchmarks.contest import Contender, Goal, Row

#: Bytes a second of one connection, where a row wants that limited.
LIMITED = 40 * 1000 * 1000


def config(bench: Bench) -> Path:
    return bench.config("http, https", http="allowed_networks = 127.0.0.0/8")


def ours(
    bench: Bench, url: str, image: Image, algorithm: str = "sha256", words: Sequence[str] = ()
) -> Contender:
    checksum = f"{algorithm}:{image.digest(algorithm)}"
    return peers.ours(config(bench), "download", url, bench.dest(), "--checksum", checksum, *words)


def curl(url: str, dest: Path, name: str = "curl, unverified") -> Contender:
    return peers.synced(peers.command(name, ["curl", "-sSf", "-o", dest, url]), dest)


def aria2c(url: str, dest: Path, *words: str) -> Contender:
    name = " ".join(["aria2c", *words])
    command = "aria2c", "-q", "--allow-overwrite=true", *words, "-d", dest.parent, "-o", dest.name
    return peers.synced(peers.command(name, [*command, url]), dest)


@contextmanager
def plain(bench: Bench) -> Iterator[Row]:
    dest = bench.dest()
    with bench.image(GIB) as image:
        url = bench.nginx(LIMITED).url(image.path.name)
        verified = peers.command(
            "curl, then sha256sum",
            ["curl", "-sSf", "-o", dest, url], ["sync", dest], ["sha256sum", dest],
        )  # fmt: skip
        others = [
            peers.command("wget, unverified", ["wget", "-q", "-O", dest, url]),
            peers.command("rclone copyurl, unverified", ["rclone", "copyurl", url, dest]),
            peers.library("requests, unverified", "requests_get", url, dest),
            peers.library("pooch", "pooch_retrieve", url, image.digest(), dest),
        ]
        contenders = [
            ours(bench, url, image), curl(url, dest), verified, aria2c(url, dest),
            *(peers.synced(each, dest) for each in others),
        ]  # fmt: skip
        goals = [
            Goal(1.0, "curl, unverified"), Goal(0.6, "curl, then sha256sum"), Goal(0.3, "pooch"),
        ]  # fmt: skip
        title = f"http, {bench.size_text(GIB)}, sha256 verified, to a file"
        yield Row(title, contenders, goals, dest, image.checker(dest))


@contextmanager
def large(bench: Bench) -> Iterator[Row]:
    dest = bench.dest()
    with bench.image(4 * GIB) as image:
        url = bench.nginx(LIMITED).url(image.path.name)
        contenders = [ours(bench, url, image), curl(url, dest)]
        title = f"http, {bench.size_text(4 * GIB)}, sha256 verified"
        goals = [Goal(0.85, "curl, unverified")]
        yield Row(title, contenders, goals, dest, image.checker(dest))


@contextmanager
def sha512(bench: Bench) -> Iterator[Row]:
    dest = bench.dest()
    with bench.image(4 * GIB) as image:
        url = bench.nginx(LIMITED).url(image.path.name)
        alone = peers.alone("sha512", image.size // MIB)
        contenders = [ours(bench, url, image, "sha512"), alone]
        title = f"http, {bench.size_text(4 * GIB)}, sha512 verified"
        check = image.checker(dest)
        yield Row(title, contenders, [Goal(1 / 0.9, alone.name)], dest,
                  lambda: check() if dest.exists() else None)  # fmt: skip


@contextmanager
def zeros(bench: Bench) -> Iterator[Row]:
    dest = bench.dest()
    with bench.sparse_image(8 * GIB, 0.1) as image:
        url = bench.nginx(LIMITED).url(image.path.name)
        words = "download", url, dest, "--checksum", f"sha256:{image.digest()}"
        contenders = [
            peers.ours(config(bench), *words, count=lambda: dest.stat().st_blocks * 512 / GIB),
            curl(url, dest),
        ]
        goals = [
            Goal(0.8, "curl, unverified"),
            Goal(1.1 * bench.scale, figure="counted", unit="GiB on disk"),
        ]
        title = f"http, {bench.size_text(8 * GIB)}, 90 % zeros, sha256 verified"
        yield Row(title, contenders, goals, dest, image.checker(dest))
