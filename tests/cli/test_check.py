"""What `imagebroker check` finds, and that `backends` works with what it finds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    ContainsAll,
    Equals,
    LessThan,
    MatchesRegex,
    Not,
    StartsWith,
)

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


def test_core_values_that_no_broker_could_use_are_failures(imagebroker: Inside) -> None:
    found = Findings(
        imagebroker,
        """
        [imagebroker]
        enabled_schemes = file
        allowed_formats = exe
        trusted_certificate_ids = ../x
        checksum_keyring = /nowhere/keys
        [backend:file]
        store_dir = /nowhere/store
        """,
    )
    assert_that(found.status, Equals(2))
    options = ("allowed_formats", "trusted_certificate_ids", "checksum_keyring")
    where = {row["where"] for row in found.found if row["level"] == "failure"}
    assert_that(where, Equals({f"[imagebroker] {name}" for name in options}))


def test_an_insecure_backend_is_a_warning(imagebroker: Inside) -> None:
    found = Findings(
        imagebroker,
        """
        [imagebroker]
        enabled_schemes = https
        [backend:http]
        insecure = true
        allow_insecure = true
        """,
    )
    assert_that(found.status, Equals(1))
    [row] = found.found
    assert_that((row["level"], row["where"]), Equals(("warning", "[backend:http] insecure")))


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
    what = found.at("[imagebroker] enabled_schemes")[1]
    assert_that(what, Contains("has the options 7, not a list of oslo.config options"))


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
        assert_that(
            time.monotonic() - began, LessThan(15)
        )  # the kernel alone would wait two minutes
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


def test_each_finding_names_the_line_of_the_file(imagebroker: Inside) -> None:
    found = Findings(
        imagebroker,
        """\
        [imagebroker]
        enabled_schemes = file, htps
        default_backnd = file
        [backend:fiel]
        """,
    )
    path = imagebroker.folder / "config" / "imagebroker" / "imagebroker.conf"
    assert_that(
        {row["where"]: row["file"] for row in found.found},
        Equals({
            "[imagebroker] enabled_schemes": f"{path}:2",
            "[imagebroker] default_backnd": f"{path}:3",
            "[backend:fiel]": f"{path}:4",
        }),
    )  # fmt: skip
    assert_that(found.at("[imagebroker] enabled_schemes")[2], StartsWith("did you mean https?"))


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


def test_two_distributions_with_one_package_are_a_failure_where_a_plugin_needs_it(
    imagebroker: Inside,
) -> None:
    """As urllib3-future, which comes with niquests, is with urllib3."""
    folder = imagebroker.plugins
    info = distributions.install(folder, "needy", {"needy": "needy:SimpleBackend"},
                                 needy=distributions.simple("needy"))  # fmt: skip
    with open(info / "METADATA", "a") as metadata:
        metadata.write('Requires-Dist: wire-lib>=2; extra == "wire"\n')
    for name, package in (
        ("wire_lib", "wire"), ("wire-lib-future", "wire"), ("one", "other"), ("two", "other"),
    ):  # fmt: skip
        record = distributions.install(folder, name, {}) / "RECORD"
        record.write_text(f"{package}/__init__.py,,\n{package}/core.py,,\n")
    found = Findings(imagebroker, "[imagebroker]\nenabled_schemes = needy\n")
    (fight,) = [row for row in found.found if "overwrites" in row["what"]]
    assert_that(
        (fight["level"], fight["where"], fight["remedy"]),
        Equals((
            "failure", "wire_lib",
            "pip uninstall wire-lib-future && pip install --force-reinstall wire_lib",
        )),
    )  # fmt: skip
    quiet = Findings(imagebroker, "[imagebroker]\nenabled_schemes = https\n")
    assert_that(quiet.found, Equals([]))


@pytest.mark.parametrize("name", ["file", "http", "scp", "glance"])
def test_every_backend_may_have_named_instances_with_values_of_their_own(
    name: str, imagebroker: Inside
) -> None:
    imagebroker.config(
        f"""
        [imagebroker]
        enabled_schemes = {name}
        [backend:{name}]
        allowed_ports = 81
        [backend:{name}:east]
        allowed_ports = 82
        require_checksum = true
        """
    )
    shown = imagebroker("config", "show", "-f", "json").record
    values = {(row["section"], row["option"]): row for row in shown}
    assert_that(values[f"backend:{name}", "allowed_ports"]["value"], Equals([81]))
    assert_that(values[f"backend:{name}:east", "allowed_ports"]["value"], Equals([82]))
    assert_that(values[f"backend:{name}:east", "require_checksum"]["value"], Equals(True))
    default = values[f"backend:{name}", "require_checksum"]
    assert_that((default["value"], default["source"]), Equals((name == "glance", "default")))
    options = [sorted(o for s, o in values if s == f"backend:{name}{i}") for i in ("", ":east")]
    assert_that(options[0], Equals(options[1]))


class TestConfigShow:
    """Every value with its source, and no secret."""

    CONFIG = """\
        [imagebroker]
        enabled_schemes = https, glance, missing
        deadline = 60

        [backend:http]
        endpoint = https://127.0.0.1/
        username = me
        password = s3cret
        min_tls = SSLv3
        [backend:glance:west]
        auth_type = password
        password = s3cret
        proxy = http://me:s3cret@proxy:3128
        """

    def rows(self, imagebroker: Inside, *argv: str) -> dict[tuple[str, str], tuple[Any, str]]:
        path = imagebroker.config(self.CONFIG)
        done = imagebroker("config", "show", "-f", "json", *argv)
        assert_that(done.status, Equals(0))
        assert_that(done.stdout.decode() + done.stderr, Not(Contains("s3cret")))
        return {
            (row["section"], row["option"]): (row["value"], row["source"].replace(f"{path}:", ""))
            for row in done.record
        }

    def test_a_line_or_the_default(self, imagebroker: Inside) -> None:
        rows = self.rows(imagebroker)
        assert_that(rows["imagebroker", "deadline"], Equals((60, "3")))
        assert_that(rows["imagebroker", "retries"], Equals((4, "default")))
        assert_that(rows["backend:http", "password"], Equals(("***", "8")))
        assert_that(rows["backend:http", "cert_file"], Equals((None, "default")))
        assert_that(rows["backend:glance:west", "password"], Equals(("***", "12")))
        assert_that(rows["backend:glance:west", "auth_url"], Equals((None, "default")))
        assert_that(rows["backend:http", "min_tls"][0], Contains("cannot be used"))

    def test_only_what_is_written(self, imagebroker: Inside) -> None:
        rows = self.rows(imagebroker, "--written")
        assert_that({source for _, source in rows.values()}, Not(Contains("default")))
        assert_that(len(rows), Equals(9))

    def test_one_section(self, imagebroker: Inside) -> None:
        rows = self.rows(imagebroker, "[backend:glance:west]")
        assert_that({section for section, _ in rows}, Equals({"backend:glance:west"}))
        done = imagebroker("config", "show", "backend:scp")
        assert_that(done.status, Equals(2))
        assert_that(done.stderr, Contains("hint: one of imagebroker, backend:glance:west"))

    def test_the_environment_is_no_source(
        self, imagebroker: Inside, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OS_IMAGEBROKER__RETRIES", "9")
        assert_that(self.rows(imagebroker)["imagebroker", "retries"], Equals((4, "default")))

    def test_without_a_config_file_everything_installed_is_enabled(
        self, imagebroker: Inside
    ) -> None:
        rows = imagebroker("config", "show", "-f", "json", "imagebroker").record
        values = {row["option"]: row["value"] for row in rows}
        assert_that(values["enabled_schemes"], ContainsAll(["file", "http", "https"]))

    def test_a_file_that_is_none_is_an_error(self, imagebroker: Inside) -> None:
        imagebroker.config("nonsense")
        assert_that(imagebroker("config", "show").status, Equals(2))
