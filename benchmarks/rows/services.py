"""Nova and Cinder with images in Glance: their own code, and the drop-in in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import GIB, Bench
from benchmarks.contest import OURS, Contender, Goal, Row
from benchmarks.records import IMAGES_IN_GLANCE, fill
from benchmarks.rows.glance import uploaded
from tests.compat.nova_process import nova_environment, working_tree
from tests.compat.service_process import environment_of
from tests.servers.openstack import OpenStack

_PROGRAM = Path(__file__).parents[1] / "programs" / "service_images.py"
_ENVIRONMENTS = {"nova": nova_environment, "cinder": partial(environment_of, "cinder")}
#: The one option that the config file of each has here.
_CONFIGS = {
    "nova": "[glance]\napi_servers = {endpoint}\n",
    "cinder": "[DEFAULT]\nglance_api_servers = {endpoint}\n",
}


@contextmanager
def upload(service: str, bench: Bench) -> Iterator[Row]:
    with uploaded(bench, GIB) as (image, image_id):
        jobs = {"verb": "upload", "image": image_id, "path": str(image.path)}
        title = f"upload to Glance, {bench.size_text(GIB)}"
        yield _row(bench, bench.openstack(), service, title, jobs)


@contextmanager
def download(service: str, bench: Bench) -> Iterator[Row]:
    dest = bench.dest()
    with uploaded(bench, GIB) as (image, image_id):
        job = {"verb": "download", "image": image_id, "path": str(dest)}
        title = f"download from Glance, {bench.size_text(GIB)}"
        row = _row(bench, bench.openstack(), service, title, job)
        yield Row(row.title, row.contenders, row.goals, dest, image.checker(dest))


@contextmanager
def listing(service: str, bench: Bench) -> Iterator[Row]:
    """On a Glance of its own: so many records make it slow for others."""
    images = max(2, round(IMAGES_IN_GLANCE * bench.scale))
    with OpenStack() as openstack:
        fill(openstack, images)
        image_id = openstack.create_image(None)
        job = {"verb": "list", "image": image_id, "images": images + 1}
        row = _row(bench, openstack, service, f"list {images:,} images of Glance", job)
        yield Row(row.title, row.contenders, row.goals, limit=300, rounds=3)


def _row(bench: Bench, openstack: OpenStack, service: str, title: str, job: dict[str, Any]) -> Row:
    config = bench.home / f"{service}-{len([*bench.home.iterdir()])}.conf"
    config.write_text(_CONFIGS[service].format(endpoint=openstack.endpoint))
    site = bench.home / "site"
    if not site.exists():
        working_tree(site)
    who = openstack.user_ids["red"], openstack.project_ids["red"], openstack.token("red")
    clock = bench.home / "clock"
    given = {**job, "service": service, "config": str(config), "context": who, "clock": str(clock)}
    theirs = f"{service.title()}'s own"
    contenders = [
        _contender(OURS, service, site, clock, {**given, "ours": True}),
        _contender(theirs, service, site, clock, {**given, "ours": False}),
    ]
    return Row(f"{service.title()}, {title}", contenders, [Goal(1.0, theirs)])


def _contender(name: str, service: str, site: Path, clock: Path, job: dict[str, Any]) -> Contender:
    environment = _ENVIRONMENTS[service]()
    missing = None if (environment / "versions").exists() else "run tests/install-servers"
    words = [
        "env", f"PYTHONPATH={site}", environment / "bin" / "python", "-W", "ignore", _PROGRAM,
        json.dumps(job),
    ]  # fmt: skip
    return Contender(
        name, [[[str(word) for word in words]]], missing=missing, made=[clock],
        clock=lambda: float(clock.read_text()),
    )  # fmt: skip
