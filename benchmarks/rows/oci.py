"""From docker-registry on this host: a blob that is the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import peers
from benchmarks.bench import GIB, Bench
from benchmarks.contest import Goal, Row
from tests.servers.registry import Registry

_REPOSITORY = "benchmarks/disk"


@contextmanager
def download(bench: Bench) -> Iterator[Row]:
    """`skopeo copy` to a directory checks the digest, too."""
    dest, folder = bench.dest(), bench.folder / "skopeo"
    with bench.image(GIB) as image, Registry(directory=bench.folder / "registry") as registry:
        layer = registry.plant(_REPOSITORY, image.path, image.digest())
        registry.push(_REPOSITORY, "1", layer)
        name = layer["digest"].partition(":")[2]
        config = bench.config("oci", oci="allowed_networks = 127.0.0.0/8\nplain_http = yes")
        source = f"docker://{registry.address}/{_REPOSITORY}:1"
        skopeo = peers.command(
            "skopeo copy",
            ["rm", "-rf", folder],
            ["skopeo", "copy", "-q", "--src-tls-verify=false", source, f"dir:{folder}"],
            ["sync", folder / name],
            ["mv", folder / name, dest],
        )
        contenders = [
            peers.ours(config, "download", registry.ref(_REPOSITORY, "1"), dest),
            skopeo,
        ]
        title = f"oci, {bench.size_text(GIB)}, sha256 verified, to a file"
        yield Row(title, contenders, [Goal(1.0, "skopeo copy")], dest, image.checker(dest))
