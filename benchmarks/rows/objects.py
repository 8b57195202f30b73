"""From and to Swift and Ceph's radosgw on this host, by S3 and by Swift's own API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from benchmarks import peers
from benchmarks.bench import GIB, Bench, Unmeasured
from benchmarks.contest import Contender, Goal, Row
from tests.servers import ceph, radosgw
from tests.servers.radosgw import Radosgw
from tests.servers.swift import ACCESS_KEY, SECRET_KEY

_CONTAINER = "images"
_AWS, _RCLONE, _SWIFT = "aws s3 cp", "rclone copyto", "swift download"


class S3Server(Protocol):
    """What the rows need of a server."""

    region: str

    @property
    def url(self) -> str: ...

    def options(self, **others: Any) -> dict[str, Any]:
        """Those of an s3 backend."""

    def client(self) -> Any:
        """Of boto3's own."""


@contextmanager
def on_swift(bench: Bench) -> Iterator[S3Server]:
    """Swift's S3 API: in Python, so that the server takes most of the time."""
    server = bench.swift()
    server.user().call("PUT", _CONTAINER)
    yield server


@contextmanager
def on_radosgw(bench: Bench) -> Iterator[S3Server]:
    """Ceph's S3 server, in C++."""
    if problem := ceph.missing() or radosgw.missing():
        raise Unmeasured(problem)
    with ceph.Ceph() as cluster, Radosgw(cluster) as server:
        server.client().create_bucket(Bucket=_CONTAINER)
        yield server


Serving = Callable[[Bench], AbstractContextManager[S3Server]]


@contextmanager
def s3(name: str, serving: Serving, bench: Bench) -> Iterator[Row]:
    dest = bench.dest()
    with bench.image(GIB) as image, serving(bench) as server:
        config = _config(bench, "s3", server.options(create_in=_CONTAINER))
        ref = f"s3://{_CONTAINER}/{_stored(config, 's3', image.path)}"
        others = [_aws(server, ref, dest), _rclone(_remote(server, ref), str(dest))]
        contenders = [
            peers.ours(config, "download", ref, dest),
            *(peers.synced(each, dest) for each in others),
        ]
        title = f"S3 ({name}), {bench.size_text(GIB)}, sha256 verified by us"
        goals = [Goal(0.8, _AWS), Goal(0.8, _RCLONE)]
        yield Row(title, contenders, goals, dest, image.checker(dest))


@contextmanager
def s3_upload(name: str, serving: Serving, bench: Bench) -> Iterator[Row]:
    """Each run's object is removed after it: nobody replaces another's."""
    with bench.image(GIB) as image, serving(bench) as server:
        path = str(image.path)

        def removed(key: str) -> Callable[[], float]:
            def remove() -> float:
                server.client().delete_object(Bucket=_CONTAINER, Key=key)
                return 0.0

            return remove

        create = "create", "--backend", "s3", "--name", "ours", "--file", path
        options = server.options(create_in=_CONTAINER)
        ref = f"s3://{_CONTAINER}/"
        contenders = [
            peers.ours(_config(bench, "s3", options), *create, count=removed("ours")),
            _aws(server, path, f"{ref}aws", count=removed("aws")),
            _rclone(path, _remote(server, f"{ref}rclone"), count=removed("rclone")),
        ]
        title = f"upload to S3 ({name}), {bench.size_text(GIB)}"
        yield Row(title, contenders, [Goal(1.0, _AWS), Goal(1.0, _RCLONE)])


@contextmanager
def swift(bench: Bench) -> Iterator[Row]:
    dest, server = bench.dest(), bench.swift()
    with bench.image(GIB) as image:
        server.user().call("PUT", _CONTAINER)
        storing = _config(bench, "swift", server.swift_options(create_in=_CONTAINER))
        name = _stored(storing, "swift", image.path)
        login = ["-A", server.auth_url, "-U", ACCESS_KEY, "-K", SECRET_KEY]
        theirs = _peer(_SWIFT, ["swift", *login, "download", _CONTAINER, name, "-o", dest])
        ours = _config(bench, "swift", server.swift_options())
        contenders = [
            peers.ours(ours, "download", f"swift://{_CONTAINER}/{name}", dest),
            peers.synced(theirs, dest),
        ]
        title = f"Swift, {bench.size_text(GIB)}, sha256 verified by us"
        yield Row(title, contenders, [Goal(0.6, _SWIFT)], dest, image.checker(dest))


def _stored(config: Path, backend: str, path: Path) -> str:
    """Put the image there as `imagebroker create` does, in parts or segments; its name."""
    import imagebroker

    with imagebroker.Broker.from_config(config) as broker:
        for image in broker.get_all(None, backend=backend):
            broker.delete(None, image.ref)
        broker.create(None, {"name": path.name}, path, backend=backend)
    return path.name


def _config(bench: Bench, scheme: str, options: dict[str, object]) -> Path:
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    return bench.config(scheme, **{scheme: lines})


def _aws(
    server: S3Server, source: object, target: object, count: Callable[[], float] | None = None
) -> Contender:
    access, secret = _keys(server)
    keys = [f"AWS_ACCESS_KEY_ID={access}", f"AWS_SECRET_ACCESS_KEY={secret}"]
    where = ["--endpoint-url", server.url, "--region", server.region, "--no-progress"]
    return _peer(_AWS, ["aws", "s3", "cp", *where, source, target], before=["env", *keys],
                 count=count)  # fmt: skip


def _rclone(source: str, target: str, count: Callable[[], float] | None = None) -> Contender:
    words = "rclone", "copyto", source, target
    made = peers.command(_RCLONE, words)
    return Contender(made.name, made.stages, count=count, missing=made.missing)


def _remote(server: S3Server, ref: str) -> str:
    """How rclone names an object without a config file."""
    access, secret = _keys(server)
    return (
        f":s3,provider=Other,access_key_id='{access}',secret_access_key={secret},"
        f"endpoint='{server.url}':{ref.removeprefix('s3://')}"
    )


def _keys(server: S3Server) -> tuple[str, str]:
    options = server.options()
    return options["access_key"], options["secret_key"]


def _peer(
    name: str, words: Sequence[object], before: Sequence[str] = (),
    count: Callable[[], float] | None = None,
) -> Contender:  # fmt: skip
    """A command of the environment with the libraries."""
    program = peers.environment() / "bin" / str(words[0])
    missing = None if program.exists() else "not installed: run benchmarks/install-peers"
    command = [*before, str(program), *map(str, words[1:])]
    return Contender(name, [[command]], count=count, missing=missing)
