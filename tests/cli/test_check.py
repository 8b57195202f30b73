"""What `imagebroker check` finds, and that `backends` works with what it finds."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsAll, Equals, LessThan, MatchesRegex, Not

from imagebroker.cli import reach
from imagebroker.plugin import BackendHost, Options
from tests import distributions
from tests.cli.conftest import Inside

#: A plugin that wants a library which is not installed.
LACKING = """
from imagebroker.plugin import *

class LackingBackend(ImageBackend):
    api_version = 1
    name = "lacking"
    ref_form = RefForm(host=True, path=True)

    def __init__(self, host):
        raise BackendLoadError("the lacking backend needs x", hint="pip install 'imagebroker[x]'")

    def open(self, context, ref):
        raise AssertionError
"""


class Findings:
    """What one run of `check` found."""

    def __init__(self, imagebroker: Inside, config: str) -> None:
        imagebroker.config(config)
        done = imagebroker("check", "-f", "json")
        self.status = done.status
        self.found = [{name: row[name] or "" for name in row} for row in done.record]

    def at(self, where: str) -> Any:
        """The one finding there: its level, what, remedy."""
        (found,) = (row for row in self.found if row["where"] == where)
        return found["level"], found["what"], found["remedy"]


def test_a_good_configuration_has_nothing_to_be_found(imagebroker: Inside, tmp_path: Path) -> None:
    imagebroker.config(
        f"""
        [imagebroker]
        enabled_schemes = file, https
        default_backend = file:east
        direct_url_schemes = https
        [backend:file]
        store_dir = {tmp_path}/not/yet/there
        allowed_paths = {tmp_path}
        [backend:file:east]
        store_dir = {tmp_path}
        [backend:glance]
        any_option = of a backend that is not enabled
        """
    )
    done = imagebroker("check")
    assert_that((done.status, done.stdout), Equals((0, b"")))
    assert_that(done.stderr, MatchesRegex("imagebroker: no mistake is found in .*conf\n"))


def test_a_person_without_a_config_file_has_made_no_mistake(imagebroker: Inside) -> None:
    distributions.install(
        imagebroker.plugins, "lacking", {"lacking": "lacking:LackingBackend"}, lacking=LACKING
    )
    done = imagebroker("check", "-f", "json")
    assert_that((done.status, done.record), Equals((0, [])))
    shown = {row["scheme"]: row for row in imagebroker("backends", "-f", "json").record}
    assert_that(shown["lacking"]["remedy"], Equals("pip install 'imagebroker[x]'"))
    assert_that(shown["http"]["problem"], Equals(None))


def test_misspelt_options_and_sections_are_warnings_that_name_the_nearest(
    imagebroker: Inside,
) -> None:
    found = Findings(
        imagebroker,
        """
        [DEFAULT]
        enabled_schemes = file
        [imagebroker]
        enabled_schemes = file, https
        defualt_backend = file
        [backend:file]
        allowed_path = /tmp
        [backend:fiel]
        [backend:https]
        ca_file = /etc/ssl/ca.pem
        [imagebrokers]
        [something else]
        """,
    )
    assert_that(found.status, Equals(1))
    expected = {
        "[DEFAULT] enabled_schemes": "write it into [imagebroker]",
        "[imagebroker] defualt_backend": "did you mean default_backend?",
        "[backend:file] allowed_path": "did you mean allowed_paths?",
        "[backend:fiel]": "did you mean [backend:file]?",
        "[backend:https]": "write the options into [backend:http]",
        "[imagebrokers]": "did you mean [imagebroker]?",
        "[something else]": "remove it, or correct its name; `imagebroker config sample` shows all "
        "there are",
    }
    assert_that({row["where"]: row["remedy"] for row in found.found}, Equals(expected))
    assert_that({row["level"] for row in found.found}, Equals({"warning"}))


def test_the_sections_of_castellan_are_read(imagebroker: Inside) -> None:
    config = "[key_manager]\nbackend = vault\n[vault]\nuse_ssl = true\n[barbican]\n"
    found = Findings(imagebroker, f"[imagebroker]\nenabled_schemes = https\n{config}")
    assert_that([row["where"] for row in found.found if "key" in row["where"]], Equals([]))
    assert_that([row["where"] for row in found.found if "vault" in row["where"]], Equals([]))


def test_the_other_sections_of_a_whole_service_are_its_own(imagebroker: Inside) -> None:
    found = Findings(
        imagebroker,
        """
        [DEFAULT]
        debug = true
        [api]
        [imagebroker]
        enabled_schemes = https
        [imagebrokr]
        """,
    )
    assert_that([row["where"] for row in found.found], Equals(["[imagebrokr]"]))


def test_a_configuration_that_enables_nothing_is_a_warning(imagebroker: Inside) -> None:
    found = Findings(imagebroker, "[imagebroker]\n")
    assert_that(found.status, Equals(1))
    assert_that(found.at("[imagebroker] enabled_schemes")[1], Contains("nothing works"))


def test_a_default_backend_that_is_not_enabled_is_a_warning_where_it_is_written(
    imagebroker: Inside,
) -> None:
    unwritten = Findings(imagebroker, "[imagebroker]\nenabled_schemes = https\n")
    assert_that((unwritten.status, unwritten.found), Equals((0, [])))
    written = Findings(
        imagebroker, "[imagebroker]\nenabled_schemes = https\ndefault_backend = file\n"
    )
    assert_that(written.at("[imagebroker] default_backend")[0], Equals("warning"))
    instance = Findings(
        imagebroker, "[imagebroker]\nenabled_schemes = https\ndefault_backend = http:east\n"
    )
    level, _, remedy = instance.at("[imagebroker] default_backend")
    assert_that((level, remedy), Equals(("warning", "add a section [backend:http:east]")))


def test_a_file_that_is_no_config_file_is_a_failure_and_backends_still_lists(
    imagebroker: Inside,
) -> None:
    path = imagebroker.config("")
    for content in (b"nonsense\n", b"\xff\xfe\x00"):
        path.write_bytes(content)
        done = imagebroker("check", "-f", "json")
        assert_that((done.status, done.record[0]["where"]), Equals((2, str(path))))
        listed = imagebroker("backends", "-f", "value", "-c", "scheme")
        assert_that(listed.stdout.split(), ContainsAll([b"file", b"http"]))
        assert_that(listed.status, Equals(2))
        assert_that(listed.stderr, Contains("cannot be read"))


def test_every_bad_value_is_found_at_once(imagebroker: Inside) -> None:
    found = Findings(
        imagebroker,
        """
        [imagebroker]
        enabled_schemes = file, https
        deadline = soon
        max_size = huge
        [backend:http]
        allowed_networks = 10.0.0.0/33
        insecure = perhaps
        min_tls = SSLv3
        [backend:file:east]
        store_dir = relative
        """,
    )
    assert_that(found.status, Equals(2))
    where = [
        "[imagebroker] max_size", "[imagebroker] deadline", "[backend:file:east] store_dir",
        "[backend:http] allowed_networks", "[backend:http] insecure", "[backend:http] min_tls",
    ]  # fmt: skip
    assert_that({row["where"] for row in found.found}, Equals(set(where)))
    assert_that({row["level"] for row in found.found}, Equals({"failure"}))
    assert_that(str(found.found), Not(Contains("LocationInfo")))
    listed = imagebroker("backends", "-f", "json")
    assert_that((listed.status, len(listed.record)), Equals((2, 5)))


def test_schemes_without_a_plugin_with_two_or_with_a_broken_one_are_failures(
    imagebroker: Inside,
) -> None:
    folder = imagebroker.plugins
    distributions.install(folder, "one", {"twice": "one:A"}, one="")
    distributions.install(folder, "two", {"twice": "two:B"}, two="")
    distributions.install(folder, "broken", {"broken": "broken:C"}, broken="1 / 0")
    distributions.install(folder, "lacking", {"lacking": "lacking:LackingBackend"}, lacking=LACKING)
    found = Findings(
        imagebroker, "[imagebroker]\nenabled_schemes = file, absent, twice, broken, lacking\n"
    )
    assert_that(found.status, Equals(2))
    assert_that({row["level"] for row in found.found}, Equals({"failure"}))
    whats = " / ".join(row["what"] for row in found.found)
    assert_that(whats, ContainsAll(["'absent'", "one 1.0", "two 1.0", "ZeroDivisionError"]))
    assert_that(found.at("[backend:lacking]")[2], Equals("pip install 'imagebroker[x]'"))

    listed = imagebroker("backends", "-f", "json")
    assert_that(listed.status, Equals(0))
    problems = {row["scheme"]: row["problem"] for row in listed.record}
    enabled = ("absent", "broken", "lacking", "twice")
    assert_that([problems[name] for name in enabled], Not(Contains(None)))
    assert_that([problems[name] for name in ("file", "http")], Equals([None, None]))
    assert_that(imagebroker("list").status, Equals(2))


def test_a_plugin_whose_options_are_none_is_a_failure(imagebroker: Inside) -> None:
    source = distributions.simple("odd").replace("api_version = 1", "api_version = 1; options = 7")
    distributions.install(imagebroker.plugins, "odd", {"odd": "odd:SimpleBackend"}, odd=source)
    found = Findings(imagebroker, "[imagebroker]\nenabled_schemes = odd, file\n")
    assert_that(found.at("[backend:odd]")[1], Contains("the plugin fails with TypeError"))


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_servers_that_do_not_answer_are_failures_and_the_others_are_sent_nothing(
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
            [backend:http:proxied]
            endpoint = http://127.0.0.1:{silent_port}/other/
            proxy = http://127.0.0.1:{port}
            """,
        )
        listening.settimeout(5)
        connection, _ = listening.accept()
        with connection:
            assert_that(connection.recv(10), Equals(b""))
    level, what, _ = found.at("[backend:http] endpoint")
    assert_that((found.status, level, len(found.found)), Equals((2, "failure", 1)))
    assert_that(what, Equals(f"cannot connect to 127.0.0.1 port {silent_port}: Connection refused"))


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
        assert_that(time.monotonic() - began, LessThan(3))
        for each in waiting:
            each.close()
    assert_that(found.at("[backend:http] endpoint")[1], Contains("did not answer in time"))


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
    whats = _as_nobody(lambda: [found.what for found in reach.check_paths(host, options)])
    expected = [f"this user may not write to {closed}", f"this user may not read {closed}/ca.pem"]
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
    assert_that(found.at("[backend:http] endpoint")[1], Contains("cannot be resolved"))
