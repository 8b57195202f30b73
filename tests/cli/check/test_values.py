"""What `imagebroker check` finds in sections, options and values."""

from __future__ import annotations

from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsAll, Equals, MatchesRegex, Not, StartsWith

from imagebroker.backends.entry_points import entry_points
from imagebroker.registry import ENTRY_POINTS
from tests import distributions
from tests.cli.check.findings import Findings
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
    assert_that(done.stderr, MatchesRegex("imagebroker: no problems found in .*conf\n"))


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
        "[DEFAULT] enabled_schemes": "move it to [imagebroker]",
        "[imagebroker] defualt_backend": "did you mean default_backend?",
        "[backend:file] allowed_path": "did you mean allowed_paths?",
        "[backend:fiel]": "did you mean [backend:file]?",
        "[backend:https]": "move its options to [backend:http]",
        "[imagebrokers]": "did you mean [imagebroker]?",
        "[something else]": "remove it, or correct the name; list all options with: "
        "imagebroker config sample",
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
    assert_that(found.at("[imagebroker] enabled_schemes")[1], Contains("every image is refused"))


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
    schemes = {point.name for point in entry_points(ENTRY_POINTS)}
    assert_that((listed.status, {row["scheme"] for row in listed.record}), Equals((2, schemes)))


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


@pytest.mark.promise("tls")
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
