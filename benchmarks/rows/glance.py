"""From the real Glance on this host, with its file store."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import peers
from benchmarks.bench import GIB, MIB, Bench, Image
from benchmarks.contest import Contender, Goal, Row
from tests.servers.certificates import write_certificates
from tests.servers.haproxy import HAProxy
from tests.servers.openstack import OpenStack


@contextmanager
def glance(bench: Bench) -> Iterator[Row]:
    dest, openstack = bench.dest(), bench.openstack()
    endpoint = openstack.endpoint.rstrip("/")
    with uploaded(bench, GIB) as (image, image_id):
        auth = _auth(openstack)
        given = json.dumps(auth), endpoint, image_id, dest
        others = [
            peers.library("glanceclient", "glanceclient_data", *given),
            peers.library("openstacksdk", "openstacksdk_download", *given),
            _client(auth, endpoint, "image-download", "--file", dest, image_id),
            _image_save(auth, image_id, str(dest)),
        ]
        contenders = [
            peers.ours(_config(bench, endpoint), "download", f"glance:{image_id}", dest),
            *(peers.synced(each, dest) for each in others),
        ]
        goals = [
            Goal(0.5, "glanceclient"), Goal(0.6, "openstacksdk"),
            Goal(0.75, "glance image-download"), Goal(0.25, "openstack image save"),
        ]  # fmt: skip
        title = f"Glance, file store, {bench.size_text(GIB)}, sha512 verified"
        yield Row(title, contenders, goals, dest, image.checker(dest))


@contextmanager
def https(bench: Bench) -> Iterator[Row]:
    """The same behind HAProxy, which ends TLS, as in front of most Glances."""
    dest, openstack = bench.dest(), bench.openstack()
    port = urlsplit(openstack.endpoint).port or 0
    files = bench.folder / "glance-tls"
    cafile = write_certificates(files)
    with (
        uploaded(bench, GIB) as (image, image_id),
        HAProxy([port], tls=files / "good.pem") as proxy,
    ):
        endpoint = proxy.url("").rstrip("/")
        config = _config(bench, endpoint, f"cafile = {cafile}\n")
        theirs = _client(
            _auth(openstack), endpoint, "image-download", "--file", dest, image_id, cafile=cafile
        )
        contenders = [
            peers.ours(config, "download", f"glance:{image_id}", dest),
            peers.synced(theirs, dest),
        ]
        title = f"Glance by https, {bench.size_text(GIB)}, sha512 verified"
        yield Row(
            title, contenders, [Goal(0.75, "glance image-download")], dest, image.checker(dest)
        )


@contextmanager
def show(bench: Bench) -> Iterator[Row]:
    """One record: little else than starting, a token and two requests."""
    openstack = bench.openstack()
    endpoint = openstack.endpoint.rstrip("/")
    with uploaded(bench, MIB) as (_, image_id):
        contenders = [
            peers.ours(_config(bench, endpoint), "show", f"glance:{image_id}"),
            _client(_auth(openstack), endpoint, "image-show", image_id),
        ]
        yield Row("`show` of an image in Glance", contenders, [Goal(1.1, "glance image-show")])


def _auth(openstack: OpenStack) -> dict[str, str]:
    options = openstack.auth_options("red")
    return {key: value for key, value in options.items() if key != "auth_type"}


def _config(bench: Bench, endpoint: str, more: str = "") -> Path:
    options = bench.openstack().auth_options("red")
    lines = "".join(f"{key} = {value}\n" for key, value in options.items())
    return bench.config("glance", glance=f"endpoint = {endpoint}/\n{lines}{more}")


def _words(auth: Mapping[str, str]) -> list[str]:
    return [f"--os-{key.replace('_', '-')}={value}" for key, value in auth.items()]


def _client(
    auth: Mapping[str, str], endpoint: str, *words: object, cafile: Path | None = None
) -> Contender:
    """glanceclient's own command."""
    program = peers.environment() / "bin" / "glance"
    missing = None if program.exists() else "not installed: run benchmarks/install-peers"
    trust = [] if cafile is None else [f"--os-cacert={cafile}"]
    command = [str(program), *_words(auth), f"--os-image-url={endpoint}", *trust]
    return Contender(f"glance {words[0]}", [[[*command, *map(str, words)]]], missing=missing)


def _image_save(auth: Mapping[str, str], image_id: str, dest: str) -> Contender:
    program = peers.environment() / "bin" / "openstack"
    save = [str(program), *_words(auth), "image", "save", "--file", dest, image_id]
    missing = None if program.exists() else "not installed: run benchmarks/install-peers"
    return Contender("openstack image save", [[save]], missing=missing)


@contextmanager
def uploaded(bench: Bench, size: int) -> Iterator[tuple[Image, str]]:
    """An image of so many bytes that is also in Glance, and its id there."""
    openstack = bench.openstack()
    with bench.image(size) as image:
        image_id = openstack.create_image(None)
        try:
            url = f"{openstack.endpoint}/v2/images/{image_id}/file"
            curl = [
                shutil.which("curl") or "curl", "-sSf", "-T", str(image.path), url,
                "-H", f"X-Auth-Token: {openstack.token('red')}",
                "-H", "Content-Type: application/octet-stream",
            ]  # fmt: skip
            subprocess.run(curl, check=True, stdout=subprocess.DEVNULL)
            yield image, image_id
        finally:
            openstack.call("red", "DELETE", f"/images/{image_id}")
