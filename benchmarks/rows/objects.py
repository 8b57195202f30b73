"""From and to Swift on this host, by S3 and by its own API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.bench import GIB, Bench
from benchmarks.contest import Contender, Goal, Row
from tests.servers.swift import ACCESS_KEY, SECRET_KEY, Swift

_CONTAINER = "images"
_AWS, _RCLONE, _SWIFT = "aws s3 cp", "rclone copyto", "swift download"


@contextmanager
def s3(bench: Bench) -> Iterator[Row]:
    dest, server = bench.dest(), bench.swift()
    with bench.image(GIB) as image:
        ref = f"s3://{_CONTAINER}/{_stored(bench, server, image.path)}"
        others = [_aws(server, ref, dest), _rclone(_remote(server, ref), str(dest))]
        contenders = [
            peers.ours(_config(bench, "s3", server.options()), "download", ref, dest),
            *(peers.synced(each, dest) for each in others),
        ]
        title = f"S3 (Swift), {bench.size_text(GIB)}, sha256 verified by us"
        goals = [Goal(0.8, _AWS), Goal(0.8, _RCLONE)]
        yield Row(title, contenders, goals, dest, image.checker(dest))


@contextmanager
def s3_upload(bench: Bench) -> Iterator[Row]:
    """Each run's object is removed after it: nobody replaces another's."""
    server = bench.swift()
    server.user().call("PUT", _CONTAINER)
    with bench.image(GIB) as image:
        path = str(image.path)

        def removed(name: str) -> Callable[[], float]:
            def remove() -> float:
                server.client().delete_object(Bucket=_CONTAINER, Key=name)
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
        title = f"upload to S3 (Swift), {bench.size_text(GIB)}"
        yield Row(title, contenders, [Goal(1.0, _AWS), Goal(1.0, _RCLONE)])


@contextmanager
def swift(bench: Bench) -> Iterator[Row]:
    dest, server = bench.dest(), bench.swift()
    with bench.image(GIB) as image:
        name = _stored(bench, server, image.path)
        login = ["-A", server.auth_url, "-U", ACCESS_KEY, "-K", SECRET_KEY]
        theirs = _peer(_SWIFT, ["swift", *login, "download", _CONTAINER, name, "-o", dest])
        ours = _config(bench, "swift", server.swift_options())
        contenders = [
            peers.ours(ours, "download", f"swift://{_CONTAINER}/{name}", dest),
            peers.synced(theirs, dest),
        ]
        title = f"Swift, {bench.size_text(GIB)}, sha256 verified by us"
        yield Row(title, contenders, [Goal(0.6, _SWIFT)], dest, image.checker(dest))


def _stored(bench: Bench, server: Swift, path: Path) -> str:
    """Put the image there as `imagebroker create` does, in segments; its name."""
    import imagebroker

    server.user().call("PUT", _CONTAINER)
    config = _config(bench, "swift", server.swift_options(create_in=_CONTAINER))
    with imagebroker.Broker.from_config(config) as broker:
        for image in broker.get_all(None, backend="swift"):
            broker.delete(None, image.ref)
        broker.create(None, {"name": path.name}, path, backend="swift")
    return path.name


def _config(bench: Bench, scheme: str, options: dict[str, object]) -> Path:
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    return bench.config(scheme, **{scheme: lines})


def _aws(
    server: Swift, source: object, target: object, count: Callable[[], float] | None = None
) -> Contender:
    keys = [f"AWS_ACCESS_KEY_ID={ACCESS_KEY}", f"AWS_SECRET_ACCESS_KEY={SECRET_KEY}"]
    where = ["--endpoint-url", server.url, "--region", server.region, "--no-progress"]
    return _peer(_AWS, ["aws", "s3", "cp", *where, source, target], before=["env", *keys],
                 count=count)  # fmt: skip


def _rclone(source: str, target: str, count: Callable[[], float] | None = None) -> Contender:
    words = "rclone", "copyto", source, target
    made = peers.command(_RCLONE, words)
    return Contender(made.name, made.stages, count=count, missing=made.missing)


def _remote(server: Swift, ref: str) -> str:
    """How rclone names an object without a config file."""
    return (
        f":s3,provider=Other,access_key_id='{ACCESS_KEY}',secret_access_key={SECRET_KEY},"
        f"endpoint='{server.url}':{ref.removeprefix('s3://')}"
    )


def _peer(
    name: str, words: Sequence[object], before: Sequence[str] = (),
    count: Callable[[], float] | None = None,
) -> Contender:  # fmt: skip
    """A command of the environment with the libraries."""
    program = peers.environment() / "bin" / str(words[0])
    missing = None if program.exists() else "not installed: run benchmarks/install-peers"
    command = [*before, str(program), *map(str, words[1:])]
    return Contender(name, [[command]], count=count, missing=missing)
