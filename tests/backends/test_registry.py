"""Finding, loading and refusing plugins."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, MatchesAll, MatchesStructure, Not

import imagebroker
from imagebroker.config.settings import Settings
from imagebroker.exceptions import BackendLoadError, ConfigError, SchemeNotEnabled
from imagebroker.registry import Registry
from tests.distributions import install, simple

MakeBroker = Callable[..., imagebroker.Broker]


def enabled(*schemes: str) -> str:
    return f"[imagebroker]\nenabled_schemes = {', '.join(schemes)}\n"


@pytest.fixture
def good(on_path: Path) -> None:
    """A plugin without any fault beside the faulty ones."""
    install(on_path, "imagebroker-good", {"good": "good_plugin:SimpleBackend"},
            good_plugin=simple("good"))  # fmt: skip


@pytest.fixture(autouse=True)
def forget_modules(on_path: Path) -> Any:
    """Modules of one test's plugins are not those of the next."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(on_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def still_works(broker: imagebroker.Broker, tmp_path: Path) -> None:
    broker.download(None, "good://h/image", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(b"the bytes of an image"))


def test_an_unknown_scheme_is_refused_at_start_by_name(make_broker: MakeBroker) -> None:
    with pytest.raises(ConfigError) as caught:
        make_broker(enabled("file", "flie"))
    assert_that(str(caught.value), Contains("flie"))
    assert_that(caught.value.hint, Contains("file"))


def test_nothing_is_enabled_by_default(make_broker: MakeBroker) -> None:
    broker = make_broker("[imagebroker]\n")
    for ref in ("file:///x", "http://h/x", "3f2504e0-4f89-11d3-9a0c-0305e82c3301"):
        with pytest.raises(SchemeNotEnabled):
            broker.resolve(ref)
    with pytest.raises(SchemeNotEnabled):
        broker.get_all(None)


@pytest.mark.promise("C1", "C2")
@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("raise RuntimeError('broken at import')", "X"),
        ("import a_module_that_does_not_exist", "X"),
        ("raise SystemExit(3)", "X"),
        ("assert False", "X"),
        ("x = 1 +", "X"),
        ("", "Missing"),
        ("X = None", "X"),
        ("X = 7", "X"),
        ("def X(host): return None", "X"),
        ("class X: pass", "X"),
        ("from imagebroker.plugin import *\nclass X(ImageBackend): pass", "X"),
        ("from imagebroker.plugin import *\nclass B(ImageBackend):\n"
         "    def open(self, context, ref): pass\nX = B.__new__(B)", "X"),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_be_loaded_is_named_and_harms_no_other(
    module: str, attribute: str, good: None, on_path: Path, make_broker: MakeBroker, tmp_path: Path
) -> None:
    install(on_path, "imagebroker-bad", {"bad": f"bad_plugin:{attribute}"}, bad_plugin=module)
    broker = make_broker(enabled("bad", "good"))
    for _ in range(2):
        with pytest.raises(BackendLoadError) as caught:
            broker.download(None, "bad://h/x", tmp_path / "x")
        assert_that(str(caught.value), Contains("imagebroker-bad 1.0"))
        assert_that(bool(caught.value.hint), Is(True))
    still_works(broker, tmp_path)
    infos = {info.scheme: info for info in broker.backends()}
    assert_that(infos["bad"].problem, Contains("imagebroker-bad"))
    assert_that(infos["good"], MatchesStructure.byEquality(problem=None, enabled=True))


@pytest.mark.promise("C3")
@pytest.mark.parametrize("version", ["", "api_version = 'one'", "api_version = True",
                                     "api_version = 99", "api_version = 0"])  # fmt: skip
def test_an_api_version_that_the_core_does_not_speak_is_named_with_its_own(
    version: str, on_path: Path, make_broker: MakeBroker
) -> None:
    source = simple("odd").replace("api_version = 1", version or "pass")
    install(on_path, "imagebroker-odd", {"odd": "odd_plugin:SimpleBackend"}, odd_plugin=source)
    with pytest.raises(BackendLoadError) as caught:
        make_broker(enabled("odd")).resolve("odd://h/x")
    named = version.partition(" = ")[2] or "None"
    assert_that(str(caught.value), MatchesAll(Contains(named), Contains("supports 1")))


def test_a_keyboard_interrupt_while_importing_a_plugin_propagates(
    on_path: Path, make_broker: MakeBroker
) -> None:
    install(on_path, "imagebroker-slow", {"slow": "slow_plugin:X"},
            slow_plugin="raise KeyboardInterrupt")  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        make_broker(enabled("slow")).resolve("slow://h/x")


def test_a_slow_import_is_logged_happens_once_and_holds_up_no_other_scheme(
    good: None, on_path: Path, make_broker: MakeBroker, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    gate = threading.Event()
    monkeypatch.setattr(threading, "import_gate", gate, raising=False)
    source = "import threading\nthreading.import_gate.wait(30)\n" + simple("slow")
    source += "\nthreading.import_gate.count = getattr(threading.import_gate, 'count', 0) + 1\n"
    install(on_path, "imagebroker-slow", {"slow": "slow_plugin:SimpleBackend"}, slow_plugin=source)
    config = tmp_path / "slow.conf"
    config.write_text(enabled("slow", "good"))
    found = Registry(Settings.from_file(config), slow_import=0.01)
    threads = [threading.Thread(target=found.declaration, args=("slow",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert_that(found.declaration("good").name, Equals("good"))
    still_works(make_broker(enabled("slow", "good")), tmp_path)
    while "is slow" not in caplog.text:
        threads[0].join(0.01)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert_that(gate.count, Equals(1))  # type: ignore[attr-defined]


@pytest.mark.promise("C1")
def test_two_distributions_for_one_scheme_are_refused_at_start_and_both_are_named(
    on_path: Path, make_broker: MakeBroker, tmp_path: Path
) -> None:
    for name in ("imagebroker-one", "imagebroker-two"):
        install(on_path, name, {"both": f"{name[-3:]}_plugin:SimpleBackend"})
    with pytest.raises(ConfigError) as caught:
        make_broker(enabled("both"))
    assert_that(
        str(caught.value), MatchesAll(Contains("imagebroker-one"), Contains("imagebroker-two"))
    )
    (tmp_path / "c.conf").write_text(enabled("both"))
    described = Registry(Settings.from_file(tmp_path / "c.conf")).describe()
    found = {info.scheme: info for info in described}["both"]
    assert_that(found.problem, Contains("imagebroker-one"))
    make_broker(enabled("file"))  # a scheme that nobody enabled disturbs nobody


@pytest.mark.promise("C4")
def test_a_plugin_that_claims_anothers_name_is_refused(
    on_path: Path, make_broker: MakeBroker
) -> None:
    install(on_path, "imagebroker-liar", {"liar": "liar_plugin:SimpleBackend"},
            liar_plugin=simple("file"))  # fmt: skip
    with pytest.raises(BackendLoadError) as caught:
        make_broker(enabled("liar")).resolve("liar://h/x")
    assert_that(str(caught.value), Contains("'file'"))


@pytest.mark.promise("C7")
@pytest.mark.parametrize(
    "constructor",
    [
        "def __init__(self, host): raise ValueError('no')",
        "def __init__(self): pass",
        "def __new__(cls, host): return 7",
    ],
)
def test_a_constructor_that_fails_is_a_load_error(
    constructor: str, good: None, on_path: Path, make_broker: MakeBroker, tmp_path: Path
) -> None:
    source = simple("bad").replace("    api_version = 1", f"    api_version = 1\n    {constructor}")
    install(on_path, "imagebroker-bad", {"bad": "bad_plugin:SimpleBackend"}, bad_plugin=source)
    broker = make_broker(enabled("bad", "good"))
    with pytest.raises(BackendLoadError) as caught:
        broker.resolve("bad://h/x")
    assert_that(str(caught.value), Contains("imagebroker-bad 1.0"))
    still_works(broker, tmp_path)


@pytest.mark.promise("C1")
def test_a_plugin_that_is_not_enabled_is_not_even_imported(
    good: None, on_path: Path, make_broker: MakeBroker
) -> None:
    install(on_path, "imagebroker-off", {"off": "off_plugin:SimpleBackend"},
            off_plugin=simple("off"))  # fmt: skip
    broker = make_broker(enabled("good"))
    found = {info.scheme: info for info in broker.backends()}["off"]
    assert_that(
        found,
        MatchesStructure.byEquality(
            distribution="imagebroker-off", version="1.0", enabled=False, capabilities=None
        ),
    )
    assert_that(sys.modules, Not(Contains("off_plugin")))


def test_an_instance_that_is_not_configured_is_refused(good: None, make_broker: MakeBroker) -> None:
    broker = make_broker(enabled("good"))
    with pytest.raises(SchemeNotEnabled) as caught:
        broker.create(None, {}, backend="good:east")
    assert_that(caught.value.hint, Contains("[backend:good:east]"))


@pytest.mark.parametrize(
    "line",
    ["max_size = -1", "max_size = 0", "max_size = much", "deadline = 0", "retries = -1",
     "stall_timeout = 0", "connect_timeout = fast", "fsync = perhaps"],
)  # fmt: skip
def test_a_bad_core_value_is_refused_at_start_and_named(line: str, make_broker: MakeBroker) -> None:
    with pytest.raises(ConfigError) as caught:
        make_broker(f"[imagebroker]\n{line}\n")
    assert_that(str(caught.value), Contains(line.partition(" ")[0]))


@pytest.mark.promise("C6")
@pytest.mark.parametrize(
    "line", ["allowed_networks = 10.0.0.0/33", "allowed_ports = 70000", "endpoint = nonsense",
             "require_checksum = perhaps", "proxy = ::"],
)  # fmt: skip
def test_a_bad_backend_value_is_refused_when_the_backend_is_used_and_only_then(
    line: str, good: None, on_path: Path, make_broker: MakeBroker, tmp_path: Path
) -> None:
    install(on_path, "imagebroker-two", {"two": "two_plugin:SimpleBackend"},
            two_plugin=simple("two"))  # fmt: skip
    broker = make_broker(enabled("good", "two") + f"[backend:two]\n{line}\n"
                         "[backend:off]\nendpoint = nonsense\n")  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        broker.get(None, "two://h/image")
    assert_that(str(caught.value), Contains(line.partition(" ")[0]))


@pytest.mark.promise("C26")
def test_a_reload_of_the_configuration_leaves_a_broker_as_it_is(good: None, tmp_path: Path) -> None:
    from oslo_config import cfg

    path = tmp_path / "c.conf"
    path.write_text(enabled("good"))
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)], use_env=False)
    with imagebroker.Broker(conf) as broker:
        path.write_text("[imagebroker]\nenabled_schemes =\nmax_size = 1\n")
        conf.mutate_config_files()
        still_works(broker, tmp_path)


@pytest.mark.promise("security-19")
def test_the_environment_is_not_read(
    good: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_IMAGEBROKER__MAX_SIZE", "1")
    path = tmp_path / "c.conf"
    path.write_text(enabled("good"))
    with imagebroker.Broker.from_config(path) as broker:
        still_works(broker, tmp_path)


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        imagebroker.Broker.from_config(tmp_path / "missing.conf")
    assert_that(str(caught.value), Contains("missing.conf"))


@pytest.mark.parametrize(
    ("written", "right"),
    [("good file", "good, file"), ('["good"]', "good"), ("good # mine", "good"),
     ("file; good", "file, good"), ("?", "file, https")],
)  # fmt: skip
def test_what_is_no_list_of_schemes_is_refused_with_the_right_line(
    written: str, right: str, good: None, make_broker: MakeBroker
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_broker(enabled(written))
    assert_that(str(caught.value), Contains("which is not a scheme"))
    line = (caught.value.hint or "").rpartition(": ")[2]
    assert_that(line, Equals(f"enabled_schemes = {right}"))
    make_broker(f"[imagebroker]\n{line}\n")
