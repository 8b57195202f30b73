"""Mistakes of a plugin, wherever the core looks at it, stay its own: named, and nobody else's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

import imagebroker
from imagebroker.exceptions import BackendError, BackendLoadError, TransferError
from tests.distributions import install, simple

MakeBroker = Callable[..., imagebroker.Broker]

CONFIG = "[imagebroker]\nenabled_schemes = good, bad\nretries = 0\n"
DECLARED = "    api_version = 1\n"
#: What stands in place of the plugin's `api_version = 1`.
CLASSES = {
    "options that are None": DECLARED + "    options = None",
    "options that are a number": DECLARED + "    options = 7",
    "options that are text": DECLARED + "    options = 'timeout'",
    "options that are names": DECLARED + "    options = ['timeout']",
    "one option in two forms": DECLARED + "    from oslo_config import cfg\n"
    "    options = [cfg.StrOpt('colour'), cfg.IntOpt('colour')]",
    "one option spelled in two ways": DECLARED + "    from oslo_config import cfg\n"
    "    options = [cfg.StrOpt('ca-file'), cfg.IntOpt('ca_file')]",
    "an option of the core in another form": DECLARED + "    from oslo_config import cfg\n"
    "    options = [cfg.IntOpt('endpoint')]",
    "options that raise": DECLARED + "    class Raising:\n"
    "        def __get__(self, *of): raise RuntimeError('no options today')\n"
    "    options = Raising()",
    "options that end the process": DECLARED + "    class Ending:\n"
    "        def __iter__(self): raise SystemExit(3)\n"
    "    options = Ending()",
    "a ref_form that raises": DECLARED + "    class Raising:\n"
    "        def __get__(self, *of): raise LookupError\n"
    "    ref_form = Raising()",
    "no ref_form": DECLARED + "    ref_form = None",
    "a verb that raises when it is looked at": DECLARED + "    class Raising:\n"
    "        def __get__(self, *of): raise OSError('no verb')\n"
    "    create = Raising()",
    "a version that is no number": "    api_version = '1'",
    "a name that is none": DECLARED + "    name = None",
    "a constructor that ends the process": DECLARED + "    def __init__(self, host): raise SystemExit",
    "a constructor that raises what is no Exception": DECLARED
    + "    def __init__(self, host): raise type('Odd', (BaseException,), {})('odd')",
    "an error without a text": DECLARED + "    class Mute(Exception):\n"
    "        def __str__(self): raise ValueError\n"
    "    def __init__(self, host): raise self.Mute()",
}  # fmt: skip
#: What stands before the class.
MODULES = {
    "SystemExit": "raise SystemExit(1)",
    "GeneratorExit": "raise GeneratorExit",
    "a BaseException of its own": "class Odd(BaseException): pass\nraise Odd('odd')",
    "an error that cannot be shown": "class Mute(Exception):\n"
    "    def __str__(self): raise ValueError\n"
    "    __repr__ = __str__\nraise Mute",
}  # fmt: skip
METACLASS = """
class Meta(type(ImageBackend)):
    def __getattribute__(cls, name):
        if name == "ref_form":
            raise SystemExit("not this one")
        return super().__getattribute__(name)
    def __repr__(cls):
        raise RuntimeError
    def __instancecheck__(cls, made):
        raise RuntimeError


class SimpleBackend(ImageBackend, metaclass=Meta):"""


@pytest.fixture(autouse=True)
def forget_modules(on_path: Path) -> Iterator[None]:
    install(on_path, "imagebroker-good", {"good": "good_plugin:SimpleBackend"},
            good_plugin=simple("good"))  # fmt: skip
    yield
    sys.modules.pop("bad_plugin", None)
    sys.modules.pop("good_plugin", None)


def bad(on_path: Path, source: str) -> None:
    install(on_path, "imagebroker-bad", {"bad": "bad_plugin:SimpleBackend"}, bad_plugin="pass")
    (on_path / "bad_plugin.py").write_text(source)


def written(kind: str) -> str:
    if kind in MODULES:
        return MODULES[kind] + "\n" + simple("bad")
    if kind == "a metaclass with tricks":
        return simple("bad").replace("\nclass SimpleBackend(ImageBackend):", METACLASS)
    changed = simple("bad")
    for line in CLASSES[kind].splitlines():
        name = line.strip().partition(" =")[0]
        if name in ("name", "ref_form"):
            changed = "\n".join(
                x for x in changed.splitlines() if not x.startswith(f"    {name} =")
            )
    return changed.replace("    api_version = 1", CLASSES[kind])


@pytest.mark.parametrize("kind", [*CLASSES, *MODULES, "a metaclass with tricks"])
def test_a_class_with_mistakes_is_a_load_error_that_names_it_and_others_work(
    kind: str, on_path: Path, make_broker: MakeBroker, tmp_path: Path
) -> None:
    bad(on_path, written(kind))
    broker = make_broker(CONFIG)
    with pytest.raises(BackendLoadError) as caught:
        broker.resolve("bad://h/image")
    assert_that(str(caught.value), Contains("imagebroker-bad 1.0"))
    broker.download(None, "good://h/image", tmp_path / "image")
    problems = {each.scheme: each.problem for each in broker.backends()}
    assert_that(problems["good"], Is(None))
    assert_that(problems["bad"], Equals(str(caught.value)))


@pytest.mark.parametrize("kind", ["options that raise", "a ref_form that raises", "SystemExit"])
def test_check_and_config_show_and_completion_survive_it_too(
    kind: str, on_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from imagebroker.cli.main import main

    bad(on_path, written(kind))
    config = tmp_path / "imagebroker.conf"
    config.write_text(CONFIG)
    for command in (
        [
            "check",
            "--",
        ],
        ["config", "show"],
        ["complete"],
    ):
        main(["--config-file", str(config), *[word for word in command if word != "--"]])
        shown = capsys.readouterr()
        assert_that(shown.err, Equals("") if command[0] != "complete" else Contains("bad"))
        assert_that("Traceback" in shown.out + shown.err, Is(False))
        if command[0] == "check":
            assert_that(shown.out, Contains("imagebroker-bad 1.0"))


#: What stands in place of the source's `seekable = True`.
SOURCES = {
    "an image that raises": "    image = property(lambda self: 1 / 0, lambda self, image: None)",
    "parallel_reads that raises": "    parallel_reads = property(lambda self: {}['x'])",
    "parallel_reads that is text": "    parallel_reads = 'two'",
    "local_path that raises": "    local_path = property(lambda self: None.nothing)",
    "local_path that is a number": "    local_path = 7",
    "a close that ends the process": "    def read(self, start=0, stop=None): yield b'x'\n"
    "    def close(self): raise SystemExit",
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_with_mistakes_is_an_error_that_names_its_plugin(
    kind: str, on_path: Path, make_broker: MakeBroker, tmp_path: Path
) -> None:
    source = simple("bad").replace("    seekable = True", SOURCES[kind])
    if "def read" in SOURCES[kind]:
        source = source[: source.rindex("    def read(self")]
    bad(on_path, source)
    broker = make_broker(CONFIG)
    with pytest.raises((BackendError, TransferError)) as caught:
        broker.download(None, "bad://h/image", tmp_path / "image")
    if kind != "a close that ends the process":
        assert_that(str(caught.value), Contains("imagebroker-bad 1.0"))
    assert_that((tmp_path / "image").exists(), Is(False))


def test_an_option_of_the_core_that_a_plugin_repeats_word_for_word_is_the_cores(
    on_path: Path, make_broker: MakeBroker
) -> None:
    bad(on_path, written("no ref_form").replace(
        "    ref_form = None", "    ref_form = RefForm(host=True, path=True)\n"
        "    from imagebroker.config.options import backend_options\n"
        "    options = [o for o in backend_options() if o.name == 'proxy'] * 2"))  # fmt: skip
    make_broker(CONFIG).resolve("bad://h/image")
