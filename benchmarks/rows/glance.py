"""From the real Glance on this host, with its file store."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import peers
from benchmarks.bench import GIB, Bench, Image
from benchmarks.contest import Contender, Goal, Row
from tests.servers.openstack import OpenStack


@contextmanager
def glance(bench: Bench) -> Iterator[Row]:
    dest, openstack = bench.dest(), bench.openstack()
    options = openstack.auth_options("red")
    endpoint = openstack.endpoint.rstrip("/")
    with bench.image(GIB) as image:
        image_id = _uploaded(openstack, image)
        try:
            lines = "".join(f"{key} = {value}\n" for key, value in options.items())
            config = bench.config("glance", glance=f"endpoint = {endpoint}/\n{lines}")
            auth = {key: value for key, value in options.items() if key != "auth_type"}
            given = json.dumps(auth), endpoint, image_id, dest
            others = [
                peers.library("glanceclient", "glanceclient_data", *given),
                peers.library("openstacksdk", "openstacksdk_download", *given),
                _image_save(auth, image_id, str(dest)),
            ]
            contenders = [
                peers.ours(config, "download", f"glance:{image_id}", dest),
                *(peers.synced(each, dest) for each in others),
            ]
            goals = [
                Goal(0.5, "glanceclient"), Goal(0.6, "openstacksdk"),
                Goal(0.25, "openstack image save"),
            ]  # fmt: skip
            title = f"Glance, file store, {bench.size_text(GIB)}, sha512 verified"
            yield Row(title, contenders, goals, dest, image.checker(dest))
        finally:
            openstack.call("red", "DELETE", f"/images/{image_id}")


def _image_save(auth: dict[str, str], image_id: str, dest: str) -> Contender:
    program = peers.environment() / "bin" / "openstack"
    words = [f"--os-{key.replace('_', '-')}={value}" for key, value in auth.items()]
    save = [str(program), *words, "image", "save", "--file", dest, image_id]
    missing = None if program.exists() else "not installed: run benchmarks/install-peers"
    return Contender("openstack image save", [[save]], missing=missing)


def _uploaded(openstack: OpenStack, image: Image) -> str:
    image_id = openstack.create_image(None)
    url = f"{openstack.endpoint}/v2/images/{image_id}/file"
    curl = [
        shutil.which("curl") or "curl", "-sSf", "-T", str(image.path), url,
        "-H", f"X-Auth-Token: {openstack.token('red')}",
        "-H", "Content-Type: application/octet-stream",
    ]  # fmt: skip
    subprocess.run(curl, check=True, stdout=subprocess.DEVNULL)
    return image_id
