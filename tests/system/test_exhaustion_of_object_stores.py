"""No descriptor or thread left for S3, Swift or a registry: the same error of ours, in every verb."""

from __future__ import annotations

import os
import uuid

import pytest

from tests.servers.registry import Registry
from tests.servers.swift import Swift
from tests.system.world import World, as_nobody, check

LOCAL = {"allowed_networks": "127.0.0.0/8"}
VERBS = ("download", "read", "get", "get_all", "create", "update", "delete", "copy")
#: Each verb costs seconds: IMAGEBROKER_SLOW_TESTS=1 asks for all of them.
SLOW = os.environ.get("IMAGEBROKER_SLOW_TESTS") == "1"


@pytest.fixture(params=["s3", "swift", "oci"])
def store(request: pytest.FixtureRequest, world: World) -> str:
    """A backend that is configured, with a place of its own to store in."""
    backend: str = request.param
    name = f"exhausted-{uuid.uuid4().hex}"
    if backend == "oci":
        registry: Registry = request.getfixturevalue("registry")
        place = f"{registry.address}/test/{name}"
        world.use("oci", registry.options(create_in=place, **LOCAL))
        return backend
    server: Swift = request.getfixturevalue("swift")
    server.user().call("PUT", name)
    options = server.options if backend == "s3" else server.swift_options
    world.use(backend, options(create_in=f"{name}/images"))
    return backend


@pytest.mark.parametrize("verb", VERBS if SLOW else ["download", "create"])
def test_without_a_descriptor(verb: str, store: str, world: World) -> None:
    check(world.ended("files", verb, store), "ulimit -n")


@pytest.mark.parametrize("verb", ["download", "create", "delete"] if SLOW else ["create"])
def test_without_a_thread(verb: str, store: str, world: World) -> None:
    check(world.ended("threads", verb, store, *as_nobody(world)), "ulimit -u")
