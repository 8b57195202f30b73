"""What `imagebroker check` finds at paths and servers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from imagebroker.cli.check import paths
from imagebroker.plugin import BackendHost, Options
from tests import distributions
from tests.bounds import in_time
from tests.cli.check.findings import Findings
from tests.cli.conftest import Inside


def test_directories_that_must_be_ones_own_are_looked_at_and_not_made(
    imagebroker: Inside, tmp_path: Path
) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "file").write_text("")
    (tmp_path / "good").mkdir(mode=0o700)

    def found(state: str, cache: str) -> Findings:
        return Findings(
            imagebroker,
            f"[imagebroker]\nenabled_schemes = file\nstate_dir = {state}\ncache_dir = {cache}\n",
        )

    wrong = found(f"{tmp_path}/open", f"{tmp_path}/file/below")
    assert_that(wrong.at("[imagebroker] state_dir")[:2], Contains("failure"))
    assert_that(wrong.at("[imagebroker] state_dir")[1], Contains("0755"))
    assert_that(wrong.at("[imagebroker] cache_dir")[1], Contains("not a directory"))
    assert_that(found("relative", f"{tmp_path}/good").at("[imagebroker] state_dir")[1],
                Contains("absolute"))  # fmt: skip
    fine = found(f"{tmp_path}/good", f"{tmp_path}/not/yet/there")
    assert_that([row["where"] for row in fine.found if "imagebroker" in row["where"]], Equals([]))
    assert_that((tmp_path / "not").exists(), Equals(False))


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_an_instance_with_a_server_that_cannot_be_reached_is_asked_nothing(
    imagebroker: Inside, silent_port: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        found = Findings(
            imagebroker,
            f"""
            [imagebroker]
            enabled_schemes = https
            [backend:http]
            endpoint = http://127.0.0.1:{port}/, http://127.0.0.1:{silent_port}/images/
            """,
        )
        listening.settimeout(5)
        connection, _ = listening.accept()
        with connection:
            assert_that(connection.recv(10), Equals(b""))
    level, what, _ = found.at("[backend:http] endpoint")
    assert_that((found.status, level, len(found.found)), Equals((2, "failure", 1)))
    assert_that(what, Equals(f"cannot connect to 127.0.0.1 port {silent_port}: Connection refused"))


#: A backend of somebody else, which looks for nothing itself.
DEPOT = """
from oslo_config import cfg
from imagebroker.plugin import ImageBackend, RefForm


class DepotBackend(ImageBackend):
    api_version = 1
    name = "depot"
    ref_form = RefForm(authority=True, path=True)
    options = [cfg.StrOpt("server")]
    servers = ("server",)

    def open(self, context, ref):
        raise NotImplementedError
"""


@pytest.mark.parametrize("address", ["http://127.0.0.1:{}/v1", "http://127.0.0.1:{}", "127.0.0.1"])
def test_a_server_that_a_plugin_declares_is_connected_to(
    address: str, imagebroker: Inside, silent_port: int
) -> None:
    distributions.install(
        imagebroker.plugins, "depot", {"depot": "depot:DepotBackend"}, depot=DEPOT
    )
    server = address.format(silent_port)
    config = f"[imagebroker]\nenabled_schemes = depot\n[backend:depot]\nserver = {server}\n"
    level, what, remedy = Findings(imagebroker, config).at("[backend:depot] server")
    said = "Connection refused" if "http" in address else "is not a URL"
    assert_that((level, remedy != ""), Equals(("failure", True)))
    assert_that(what, Contains(said))


def test_a_server_that_drops_everything_holds_up_nobody(imagebroker: Inside) -> None:
    # A listener whose queue is full answers no handshake.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        began = time.monotonic()
        found = Findings(
            imagebroker,
            "[imagebroker]\nenabled_schemes = https\nconnect_timeout = 0.5\n"
            f"[backend:http]\nendpoint = http://127.0.0.1:{port}/\n",
        )
        # The kernel alone would wait two minutes.
        assert_that(time.monotonic() - began, in_time(6))
        for each in waiting:
            each.close()
    assert_that(found.at("[backend:http] endpoint")[1], Contains("timed out"))


def test_paths_that_are_not_there_or_no_directories_are_found(
    imagebroker: Inside, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    found = Findings(
        imagebroker,
        f"""
        [imagebroker]
        enabled_schemes = file
        [backend:file]
        store_dir = {tmp_path}/file/store
        allowed_paths = {tmp_path}, {tmp_path}/missing
        """,
    )
    level, what, _ = found.at("[backend:file] store_dir")
    assert_that((level, what), Equals(("failure", f"{tmp_path}/file is not a directory")))
    level, what, _ = found.at("[backend:file] allowed_paths")
    assert_that((level, what), Equals(("warning", f"{tmp_path}/missing does not exist")))


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that nobody may look into, in one that everybody may."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "closed")
        path.mkdir(mode=0)
        yield path


def test_paths_that_this_user_may_not_use_are_found(closed: Path) -> None:
    values = Options(
        {"own_dir": f"{closed}/own", "ca_file": f"{closed}/ca.pem", "password": "/secret"}
    )
    options = [cfg.StrOpt("own_dir"), cfg.StrOpt("ca_file"), cfg.StrOpt("password", secret=True)]
    host = BackendHost(name="file", options=values)
    whats = _as_nobody(lambda: [found.what for found in paths.check(host, options)])
    expected = [f"this user cannot write to {closed}", f"this user cannot read {closed}/ca.pem"]
    assert_that(whats, Equals(expected))


def _as_nobody(call: Callable[[], list[str]]) -> list[str]:
    """What `call` returns to a user without privileges."""
    if os.geteuid() != 0:
        return call()
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, json.dumps(call()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        found: list[str] = json.load(answer)
    os.waitpid(child, 0)
    return found


def test_a_server_whose_name_does_not_exist_is_a_failure(imagebroker: Inside) -> None:
    found = Findings(
        imagebroker,
        "[imagebroker]\nenabled_schemes = https\n"
        "[backend:http]\nendpoint = https://no-such-host.invalid/\n",
    )
    assert_that(found.at("[backend:http] endpoint")[1], Contains("cannot resolve the host name"))


def test_a_secret_in_a_file_that_everybody_may_read_is_a_warning_whose_remedy_helps(
    imagebroker: Inside,
) -> None:
    config = (
        "[imagebroker]\nenabled_schemes = https\n[backend:http]\n"
        "endpoint = https://127.0.0.1:9/\nusername = me\npassword = s3cret\n"
    )
    path = imagebroker.config(config)
    path.chmod(0o644)
    level, what, remedy = Findings(imagebroker, config).at("[backend:http] password")
    assert_that((level, remedy), Equals(("warning", f"chmod o= {path}")))
    assert_that(what, Not(Contains("s3cret")))
    subprocess.run(remedy, shell=True, check=True)
    assert_that(str(Findings(imagebroker, config).found), Not(Contains("password")))


@pytest.mark.parametrize(
    ("section", "option"), [("backend:scp", "identity_file"), ("backend:http", "key_file")]
)
def test_a_key_that_everybody_may_read_is_a_failure_whose_remedy_helps(
    section: str, option: str, imagebroker: Inside, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("no key")
    key.chmod(0o644)
    config = f"[imagebroker]\nenabled_schemes = scp, http\n[{section}]\n{option} = {key}\n" + (
        f"cert_file = {key}\n" if option == "key_file" else ""
    )
    found = Findings(imagebroker, config)
    assert_that(found.status, Equals(2))
    open_to_all = [row for row in found.found if "every user" in row["what"]]
    assert_that(len(open_to_all), Equals(1))
    subprocess.run(open_to_all[0]["remedy"].partition(",")[0], shell=True, check=True)
    assert_that(str(Findings(imagebroker, config).found), Not(Contains("every user")))
