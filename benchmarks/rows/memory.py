"""Into a file in memory, over http and https: no disk, and no sync on either side."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.bench import GIB, MIB, Bench, Image, Unmeasured
from benchmarks.contest import Contender, Goal, Row
from benchmarks.rows.http import LIMITED

_CURL = "curl, unverified"


@contextmanager
def plain(bench: Bench) -> Iterator[Row]:
    with bench.image(GIB) as image, _dest() as dest:
        url = bench.nginx(LIMITED).url(image.path.name)
        contenders = [_ours(bench, url, image, dest), _curl(url, dest)]
        title = f"http, {bench.size_text(GIB)}, sha256 verified, to memory"
        yield Row(title, contenders, [Goal(1.05, _CURL)], dest, image.checker(dest))


@contextmanager
def tls(bench: Bench) -> Iterator[Row]:
    """curl checks the certificate too."""
    with bench.image(GIB) as image, _dest() as dest:
        server = bench.nginx(LIMITED)
        url = f"https://127.0.0.1:{server.ports['good']}/{image.path.name}"
        contenders = [
            _ours(bench, url, image, dest, f"ca_file = {server.ca_file}\n"),
            _curl(url, dest, "--cacert", server.ca_file),
        ]
        title = f"https, {bench.size_text(GIB)}, sha256 verified, to memory"
        yield Row(title, contenders, [Goal(1.0, _CURL)], dest, image.checker(dest))


@contextmanager
def small(bench: Bench) -> Iterator[Row]:
    """What a short download costs: nearly all of it is the start."""
    path = bench.images / "small.raw"
    path.write_bytes(bytes(range(256)) * (MIB // 256))
    image = Image(path)
    with _dest() as dest:
        url = bench.nginx(LIMITED).url(path.name)
        contenders = [_ours(bench, url, image, dest), _curl(url, dest)]
        yield Row("http, 1 MiB, sha256 verified, to memory", contenders, [Goal(0.35)], dest,
                  image.checker(dest))  # fmt: skip


@contextmanager
def _dest() -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir():
        raise Unmeasured("there is no /dev/shm")
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=memory) as folder:
        yield Path(folder) / "image.raw"


def _ours(bench: Bench, url: str, image: Image, dest: Path, options: str = "") -> Contender:
    config = bench.config("http, https", http=f"allowed_networks = 127.0.0.0/8\n{options}")
    words = "download", url, dest, "--checksum", f"sha256:{image.digest()}"
    return peers.ours(config, *words)


def _curl(url: str, dest: Path, *options: object) -> Contender:
    return peers.command(_CURL, ["curl", "-sSf", *options, "-o", dest, url])
