"""An image of 0 bytes is made only where its size is given as 0, and else leaves nothing behind."""

from __future__ import annotations

import io
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is

import imagebroker
from imagebroker.exceptions import UploadFailed
from tests import distributions
from tests.bounds import HANGS
from tests.cli.conftest import Shell
from tests.servers.openstack import OpenStack
from tests.servers.sshd import Sshd

MakeBroker = Callable[[str], imagebroker.Broker]


@contextmanager
def nothing(kind: str) -> Iterator[Any]:
    """A source that turns out to have nothing, before or after it is begun."""
    if kind == "pipe":
        read_end, write_end = os.pipe()
        os.close(write_end)
        with open(read_end, "rb") as pipe:
            yield pipe
    else:
        yield {"bytes": b"", "file": io.BytesIO(b""), "iterator": iter([b"", b""])}[kind]


SOURCES = ("bytes", "file", "iterator", "pipe")
FIELDS = {"disk_format": "raw", "container_format": "bare"}


def file_config(tmp_path: Path) -> str:
    return f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nstore_dir = {tmp_path}/store\n"


def glance_config(openstack: OpenStack) -> str:
    options = "\n".join(f"{name} = {v}" for name, v in openstack.auth_options("red").items())
    return (
        "[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\n"
        f"[backend:glance]\n{options}\nallowed_networks = 127.0.0.0/8\n"
    )


def scp_config(sshd: Sshd, folder: Path) -> str:
    folder.mkdir()
    return (
        "[imagebroker]\nenabled_schemes = scp\ndefault_backend = scp\n"
        f"[backend:scp]\nendpoint = {sshd.url(folder)}/\nallowed_networks = 127.0.0.0/8\n"
        f"allowed_ports = {sshd.port}\nidentity_file = {sshd.key}\n"
        f"known_hosts = {sshd.known_hosts}\n"
    )


@pytest.mark.promise("security-31", "upload-waits-for-its-data")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("where", ["file", "glance", "scp"])
def test_data_without_a_byte_is_no_image_and_leaves_no_record(
    where: str,
    source: str,
    make_broker: MakeBroker,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if where == "file":
        config = file_config(tmp_path)
    elif where == "glance":
        config = glance_config(request.getfixturevalue("openstack"))
    else:
        config = scp_config(request.getfixturevalue("sshd"), tmp_path / "remote")
    broker = make_broker(config)
    name = uuid.uuid4().hex
    fields = {"name": name} if where == "scp" else {"name": name, **FIELDS}
    with nothing(source) as data, pytest.raises(UploadFailed) as caught:
        broker.create(None, fields, data)
    assert_that(str(caught.value), Contains("empty"))
    assert_that(caught.value.hint, Contains("--size 0"))
    filters = None if where == "scp" else {"name": name, "status": list(STATUSES)}
    assert_that(list(broker.get_all(None, filters=filters)), HasLength(0))
    with nothing(source) as data:
        made = broker.create(None, {**fields, "size": 0}, data)
    assert_that((made.size, made.status), Equals((0, "active")))
    if where != "scp":
        broker.delete(None, made.ref)


STATUSES = ("queued", "saving", "active", "killed")

#: A plugin that makes a record first, and looks at the data afterwards.
PLUGIN = """
from imagebroker.plugin import *

RECORDS = {}


class ThirdBackend(ImageBackend):
    api_version = 1
    name = "third"
    ref_form = RefForm(id=True)

    def open(self, context, ref):
        raise ImageNotFound(f"{ref}: none")

    def create(self, context, image, data):
        RECORDS[image.name] = b""
        if len(RECORDS) != 1:
            raise RuntimeError("a record was left behind")
        try:
            RECORDS[image.name] = b"".join(data)
        except UploadFailed:
            del RECORDS[image.name]
            raise
        return Image(ref=self.host.ref("1"), name=image.name, size=data.sent)
"""


@pytest.mark.parametrize("source", SOURCES)
def test_it_holds_for_a_plugin_that_knows_nothing_of_it(
    source: str, make_broker: MakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributions.install(
        tmp_path / "plugins", "third", {"third": "third:ThirdBackend"}, third=PLUGIN
    )
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    broker = make_broker("[imagebroker]\nenabled_schemes = third\ndefault_backend = third\n")
    with nothing(source) as data, pytest.raises(UploadFailed):
        broker.create(None, {"name": "nothing"}, data)
    with nothing(source) as data:
        made = broker.create(None, {"name": "nothing", "size": 0}, data)
    assert_that(made.size, Equals(0))
    sys.modules.pop("third")


def test_a_file_that_only_says_it_has_no_bytes_is_read(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker(file_config(tmp_path))
    made = broker.create(None, {"name": "nothing", **FIELDS}, Path("/proc/version"))
    assert_that(made.size, Equals(len(Path("/proc/version").read_bytes())))


@pytest.mark.parametrize("blocking", [True, False])
def test_the_command_reads_standard_input_to_its_end(
    shell: Shell, tmp_path: Path, blocking: bool
) -> None:
    shell.config(file_config(tmp_path))
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, blocking)
    with shell.start(
        "create", "--disk-format", "raw", "--file", "-", "-f", "json", stdin=read_end
    ) as process:
        os.close(read_end)
        with open(write_end, "wb") as pipe:
            for _ in range(200):
                pipe.write(b"\0" * 1000)
                pipe.flush()
        stdout, stderr = process.communicate(timeout=HANGS)
    assert_that(stderr, Equals(b""))
    assert_that(stdout, Contains(b'"size": 200000'))


def test_the_command_says_how_an_empty_image_is_made(shell: Shell, tmp_path: Path) -> None:
    shell.config(file_config(tmp_path))
    done = shell.run("create", "--disk-format", "raw", "--file", "-")
    assert_that((done.status, "--size 0" in done.stderr), Equals((1, True)))
    done = shell.run("create", "--disk-format", "raw", "--file", "-", "--size", "0", "-f", "json")
    assert_that((done.status, done.record["size"]), Equals((0, 0)))


def test_a_terminal_is_no_data(shell: Shell, tmp_path: Path) -> None:
    shell.config(file_config(tmp_path))
    ours, theirs = os.openpty()
    os.set_blocking(theirs, False)
    try:
        with shell.start("create", "--file", "-", stdin=theirs) as process:
            _, stderr = process.communicate(timeout=HANGS)
    finally:
        os.close(ours), os.close(theirs)
    assert_that(process.returncode, Equals(2))
    assert_that(stderr, Contains(b"terminal"))
    assert_that((tmp_path / "store" / "data").exists(), Is(False))
