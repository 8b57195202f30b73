"""Calls a broker with ever more of one resource left, and prints how each call ended, as JSON.

`python -m tests.system.exhausted RESOURCE CONFIG FOLDER VERB BACKEND [REF]`. RESOURCE is `files` (so many
descriptors can be opened), `threads` (so many can be started) or `memory` (so many pages).
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import resource
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagebroker
from imagebroker.exceptions import ImageBrokerError

#: Larger than what is done in the caller's thread.
DATA = bytes(range(256)) * 16384
INFO = {"disk_format": "raw", "container_format": "bare"}
#: So much is tried at most; after so many calls in a row that end well, more is no news.
MOST, ENOUGH = 40, 2
PAGES = 256 * 4096


def _check(right: bool) -> None:
    """Not by `assert`: this is a program, which nobody rewrites to keep it under `python -O`."""
    if not right:
        raise AssertionError("not what was stored")


class Calls:
    """The verbs, as one caller uses them."""

    def __init__(self, folder: Path, backend: str, ref: str | None) -> None:
        self.folder, self.backend, self.ref = folder, backend, ref
        self.to_delete: list[str] = []

    def prepare(self, broker: imagebroker.Broker, verb: str) -> None:
        if self.ref is None:
            self.ref = self.create(broker)
        if verb == "delete":
            self.to_delete += [self.create(broker) for _ in range(3)]

    def create(self, broker: imagebroker.Broker) -> str:
        info = {**INFO, "name": uuid.uuid4().hex}
        if self.backend == "scp":  # which stores names and bytes
            info = {"name": info["name"]}
        if self.backend == "oci":  # where the name is a tag
            info.pop("container_format")
        return broker.create(None, info, DATA, backend=self.backend).ref

    def call(self, broker: imagebroker.Broker, verb: str) -> Any:
        return getattr(self, verb)(broker)

    def download(self, broker: imagebroker.Broker) -> None:
        broker.download(None, str(self.ref), self.folder / "dest")
        _check((self.folder / "dest").read_bytes() == DATA)

    def read(self, broker: imagebroker.Broker) -> None:
        with broker.open(None, str(self.ref)) as reader:
            data = b"".join(reader)
        _check(data == DATA)

    def get(self, broker: imagebroker.Broker) -> None:
        broker.get(None, str(self.ref))

    def get_all(self, broker: imagebroker.Broker) -> None:
        _check(list(broker.get_all(None, backend=self.backend)) != [])

    def update(self, broker: imagebroker.Broker) -> None:
        broker.update(None, str(self.ref), {"name": "y"})

    def delete(self, broker: imagebroker.Broker) -> None:
        if not self.to_delete:
            self.to_delete.append(self.create(broker))
        broker.delete(None, self.to_delete[-1])
        self.to_delete.pop()

    def copy(self, broker: imagebroker.Broker) -> None:
        broker.copy(None, str(self.ref), backend="file")

    def load(self, broker: imagebroker.Broker) -> None:
        broker.load(None, str(self.ref))


@contextlib.contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    before, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (before, hard))


@contextlib.contextmanager
def files(count: int) -> Iterator[None]:
    """The limit is on the numbers of descriptors: the free ones below the highest are taken."""
    with contextlib.ExitStack() as plugs:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        while (fd := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) < highest:
            plugs.callback(os.close, fd)
        os.close(fd)
        with limited(resource.RLIMIT_NOFILE, fd + count):
            yield


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Of this user, who has no other process."""
    with limited(resource.RLIMIT_NPROC, len(os.listdir("/proc/self/task")) + count):
        yield


@contextlib.contextmanager
def memory(count: int) -> Iterator[None]:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, size + count * PAGES):
        yield


def outcome(call: Callable[[], Any], limit: Any) -> dict[str, Any]:
    try:
        with limit:
            call()
    except ImageBrokerError as error:
        return {"class": type(error).__name__, "text": str(error), "hint": error.hint,
                "retryable": error.retryable}  # fmt: skip
    except BaseException as error:
        return {"class": f"raw {type(error).__name__}", "text": str(error), "hint": "",
                "retryable": False}  # fmt: skip
    return {"class": "ok"}


def main(kind: str, config: str, folder: str, verb: str, backend: str, ref: str = "") -> None:
    logging.disable(logging.CRITICAL)
    calls = Calls(Path(folder), backend, ref or None)
    with imagebroker.Broker.from_config(config) as broker:
        calls.prepare(broker, verb)
        calls.call(broker, verb)  # what is imported late is imported now
    ended: list[dict[str, Any]] = []
    for count in range(MOST):
        with imagebroker.Broker.from_config(config) as broker:
            gc.collect()
            for thread in threading.enumerate():  # of the last call
                with contextlib.suppress(AssertionError, RuntimeError):  # not one of `threading`
                    thread.join(5)
            limit = {"files": files, "threads": threads, "memory": memory}[kind](count)
            ended.append(outcome(lambda broker=broker: calls.call(broker, verb), limit))
        if [each["class"] for each in ended[-ENOUGH:]] == ["ok"] * ENOUGH:
            break
    print(json.dumps(ended))


if __name__ == "__main__":
    main(*sys.argv[1:])
