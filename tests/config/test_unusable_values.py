"""Values that oslo.config takes and nobody can use are refused by name, where they stand."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, MatchesListwise, Not

import imagebroker
from imagebroker.cli.main import main
from imagebroker.config.options import CORE_OPTIONS
from imagebroker.exceptions import ConfigError, InvalidImageRef
from tests.distributions import install, simple

MakeBroker = Callable[..., imagebroker.Broker]

NUMBERS = [option.name for option in CORE_OPTIONS if type(option).__name__ == "FloatOpt"]
#: A plugin with each kind of option that can hold a number, and secrets.
OPTIONS = """    api_version = 1
    from oslo_config import cfg, types
    options = [
        cfg.FloatOpt("ratio"), cfg.IntOpt("count"), cfg.StrOpt("password", secret=True),
        cfg.ListOpt("weights", item_type=types.Float()), cfg.StrOpt("first"), cfg.StrOpt("second"),
        cfg.DictOpt("shares"), cfg.IntOpt("pin", secret=True),
    ]"""


def checked(path: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    main(["--config-file", str(path), "check", "-f", "json"])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def numbers(on_path: Path) -> None:
    install(on_path, "imagebroker-nums", {"nums": "nums_plugin:SimpleBackend"},
            nums_plugin=simple("nums").replace("    api_version = 1", OPTIONS))  # fmt: skip


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300", "Infinity"])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_of_seconds_is_refused_at_start_and_by_check(
    name: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "imagebroker.conf"
    path.write_text(f"[imagebroker]\nenabled_schemes = file\n{name} = {value}\n")
    with pytest.raises(ConfigError) as caught:
        imagebroker.Broker.from_config(path)
    assert_that((caught.value.option, caught.value.where),
                Equals((f"[imagebroker] {name}", f"{path}:3: [imagebroker] {name}")))  # fmt: skip
    found = [each for each in checked(path, capsys) if each["where"] == f"[imagebroker] {name}"]
    assert_that([each["level"] for each in found], Equals(["failure"]))


@pytest.mark.parametrize("line", [
    "ratio = nan", "ratio = inf", "weights = 1, nan, 2", "count = 1" + 400 * "0", "first = $first",
    "first = $second\nsecond = $first", "first = ${second}\nsecond = x$first",
])  # fmt: skip
def test_a_plugins_values_are_held_to_the_same(
    line: str, numbers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "imagebroker.conf"
    path.write_text(f"[imagebroker]\nenabled_schemes = nums\n[backend:nums]\n{line}\n")
    name = line.partition(" ")[0]
    with imagebroker.Broker.from_config(path) as broker:
        with pytest.raises(ConfigError) as caught:
            broker.resolve("nums://h/image")
    assert_that(caught.value.where, Equals(f"{path}:4: [backend:nums] {name}"))
    found = {each["where"]: each["level"] for each in checked(path, capsys)}
    assert_that(found[f"[backend:nums] {name}"], Equals("failure"))


def test_a_circle_of_the_cores_own_options_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "imagebroker.conf"
    path.write_text("[imagebroker]\nenabled_schemes = file\nstate_dir = $cache_dir\n"
                    "cache_dir = $state_dir\n")  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        imagebroker.Broker.from_config(path)
    assert_that(caught.value.where, Equals(f"{path}:3: [imagebroker] state_dir"))
    assert_that(caught.value.hint, Contains("$$"))
    found = {each["where"]: each["level"] for each in checked(path, capsys)}
    assert_that(found["[imagebroker] state_dir"], Equals("failure"))


@pytest.mark.parametrize(("name", "value"), [
    ("password", "hun$ter2canary"), ("password", "hun${ter2canary}"),
    ("password", "$ter2canary.hunter"), ("first", "hun$ter2canary"), ("pin", "ter2canary"),
])  # fmt: skip
def test_no_part_of_a_value_with_a_dollar_or_of_a_secret_is_shown_anywhere(
    name: str, value: str, numbers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "imagebroker.conf"
    path.write_text(f"[imagebroker]\nenabled_schemes = nums\n[backend:nums]\n{name} = {value}\n")
    with imagebroker.Broker.from_config(path) as broker:
        with pytest.raises(ConfigError) as caught:
            broker.resolve("nums://h/image")
        problem = {each.scheme: each for each in broker.backends()}["nums"]
    shown = "".join(traceback.format_exception(caught.value)) + repr(problem)
    assert_that((caught.value.__cause__, caught.value.__context__), Equals((None, None)))
    for command in (["check"], ["backends"], ["config", "show"], ["--debug", "list"]):
        main(["--config-file", str(path), *command])
    out, err = capsys.readouterr()
    assert_that(shown + out + err, Not(Contains("ter2canary")))
    if "$" in value:
        assert_that(caught.value.hint, Contains("$$"))


def test_a_dollar_that_is_written_twice_is_a_dollar(numbers: None, make_broker: MakeBroker) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = nums\n[backend:nums]\nfirst = hun$$ter2\n"
    )
    broker.resolve("nums://h/image")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "5", 1e400, [5]])
@pytest.mark.parametrize("name", ["deadline", "stall_timeout", "max_size", "retries", "rate_limit"])
def test_an_argument_that_can_be_no_limit_is_refused_before_anything_is_done(
    name: str, value: Any, numbers: None, make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker("[imagebroker]\nenabled_schemes = nums\n")
    with pytest.raises(InvalidImageRef, match=name):
        broker.download(None, "nums://h/image", tmp_path / "x", **{name: value})
    assert_that(list(tmp_path.glob("x*")), Equals([]))


@pytest.mark.parametrize("flag", ["--deadline", "--stall-timeout", "--max-size", "--min-rate"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_flag_that_can_be_no_limit_is_wrong_usage(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_that(main(["download", "file:///x", "x", f"{flag}={value}"]), Equals(2))
    assert_that("Traceback" in capsys.readouterr().err, Is(False))


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"\xef\xbb\xbf[imagebroker]\n", "byte order mark", "save it as plain UTF-8"),
        ("[imagebroker]\n".encode("utf-16"), "not UTF-8", "save it as plain UTF-8"),
        ("# Schl\u00fcssel\n".encode("latin-1"), "not UTF-8", "save it as plain UTF-8"),
        (b"[imagebroker]\nretries\n", "No ':' or '='", "lines option = value"),
    ],
)
def test_a_file_that_cannot_be_parsed_says_why(
    content: bytes, what: str, remedy: str, tmp_path: Path
) -> None:
    path = tmp_path / "imagebroker.conf"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        imagebroker.Broker.from_config(path)
    assert_that((str(caught.value), caught.value.hint), MatchesListwise(
        [Contains(what), Contains(remedy)]
    ))  # fmt: skip


def test_a_value_that_is_meant_to_come_from_the_environment_says_that_it_does_not(
    make_broker: MakeBroker,
) -> None:
    for written in ("$HOME/images", "${HOME}"):
        with pytest.raises(ConfigError) as caught:
            make_broker(f"[imagebroker]\nenabled_schemes = file\ncache_dir = {written}\n")
        assert_that(caught.value.hint, Contains("of an environment variable, write the value"))
