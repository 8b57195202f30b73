"""A broker takes up a changed configuration, and what runs is not disturbed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker import Broker, ConfigError, PolicyViolation, SchemeNotEnabled
from tests import distributions

#: A backend that says when it is closed and hands out its bytes when it is told to.
WATCHED = """
import threading
from imagebroker.plugin import *

CLOSED, BEGUN, GO_ON = [], threading.Event(), threading.Event()


class WatchedBackend(ImageBackend):
    api_version = 1
    name = "watched"
    ref_form = RefForm(id=True, host=True, path=True)

    def open(self, context, ref):
        return WatchedSource(self, ref)

    def get_all(self, context, query):
        yield Image(ref="watched://h/a")
        yield Image(ref="watched://h/b")

    def close(self):
        CLOSED.append(self.host.options.endpoint)


class WatchedSource(ImageSource):
    def __init__(self, backend, ref):
        self.backend = backend
        self.image = Image(ref=ref.text, size=100)

    def read(self, start=0, stop=None):
        yield bytes(50)
        BEGUN.set()
        GO_ON.wait(30)
        if CLOSED:
            raise ValueError("its backend is closed")
        yield bytes(50)
"""


class Watched:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        distributions.install(
            folder, "watched", {"watched": "watched:WatchedBackend"}, watched=WATCHED
        )
        monkeypatch.syspath_prepend(folder)
        import watched

        self.module = watched
        self.path = folder / "imagebroker.conf"
        self.write("max_size = 1000")

    def write(self, core: str, schemes: str = "watched", endpoint: str = "watched://h/") -> None:
        self.path.write_text(
            f"[imagebroker]\nenabled_schemes = {schemes}\nretries = 0\n{core}\n"
            f"[backend:watched]\nendpoint = {endpoint}\n"
        )

    def closed_soon(self) -> list[list[str]]:
        for thread in threading.enumerate():
            if thread.name == "imagebroker-close":
                thread.join(10)
        return list(self.module.CLOSED)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.delitem(__import__("sys").modules, "watched", raising=False)
    return Watched(tmp_path, monkeypatch)


def test_the_file_is_read_again(watched: Watched, tmp_path: Path) -> None:
    with Broker.from_config(watched.path) as broker:
        with pytest.raises(SchemeNotEnabled):
            broker.resolve("http://example.org/x")
        watched.write("", schemes="watched, http")
        broker.reload()
        assert_that(broker.resolve("http://example.org/x").backend, Equals("http"))


def test_a_file_that_cannot_be_used_changes_nothing(watched: Watched) -> None:
    with Broker.from_config(watched.path) as broker:
        for core in ("deadline = soon", "nonsense", "allowed_formats = qcow3"):
            watched.write(core)
            with pytest.raises(ConfigError):
                broker.reload()
        watched.write("", schemes="absent")
        with pytest.raises(ConfigError):
            broker.reload()
        assert_that(broker.resolve("watched://h/x").backend, Equals("watched"))


def test_a_download_keeps_the_values_and_the_backend_that_it_began_with(
    watched: Watched, tmp_path: Path
) -> None:
    with Broker.from_config(watched.path) as broker:
        done: list[object] = []

        def download() -> None:
            try:
                done.append(broker.download(None, "watched://h/x", tmp_path / "x").size)
            except Exception as error:
                done.append(error)

        running = threading.Thread(target=download)
        running.start()
        assert watched.module.BEGUN.wait(30)
        watched.write("max_size = 10", endpoint="watched://other/")
        broker.reload()
        assert_that(watched.module.CLOSED, Equals([]))
        with pytest.raises(PolicyViolation):  # too large by now
            broker.download(None, "watched://h/x", tmp_path / "y")
        watched.module.GO_ON.set()
        running.join(30)
        assert_that(done, Equals([100]))
        assert_that(watched.closed_soon(), Equals([["watched://h/"]]))


def test_an_open_reader_keeps_its_backend_until_it_is_gone(watched: Watched) -> None:
    watched.module.GO_ON.set()
    with Broker.from_config(watched.path) as broker:
        reader = broker.open(None, "watched://h/x")
        assert_that(len(reader.read(10)), Equals(10))
        broker.reload()
        assert_that(len(reader.read()), Equals(90))
        reader.close()
        del reader
        assert_that(watched.closed_soon(), Equals([["watched://h/"]]))


def test_a_list_keeps_its_backend_until_it_is_gone(watched: Watched) -> None:
    with Broker.from_config(watched.path) as broker:
        images = broker.get_all(None, backend="watched")
        next(images)
        broker.reload()
        assert_that(watched.closed_soon(), Equals([]))
        assert_that(next(images).ref, Equals("watched://h/b"))
        del images
        assert_that(watched.closed_soon(), Equals([["watched://h/"]]))


def test_what_nobody_uses_is_closed_at_once(watched: Watched) -> None:
    with Broker.from_config(watched.path) as broker:
        broker.get(None, "watched://h/x")
        broker.reload()
        assert_that(watched.module.CLOSED, Equals([["watched://h/"]]))
        broker.reload()
        broker.get(None, "watched://h/x")
    assert_that(watched.module.CLOSED, Equals([["watched://h/"]] * 2))


def test_a_service_reloads_in_the_hook_of_its_own_configuration(watched: Watched) -> None:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(watched.path)])
    with Broker(conf) as broker:
        conf.register_mutate_hook(lambda conf, changed: broker.reload())
        broker.get(None, "watched://h/x")
        watched.write("max_size = 10", schemes="watched, http", endpoint="watched://other/")
        conf.mutate_config_files()
        assert_that(broker.resolve("http://example.org/x").backend, Equals("http"))
        assert_that(broker.resolve("watched://other/x").reason, Contains("watched://other/"))
        with pytest.raises(PolicyViolation):
            broker.open(None, "watched://other/x")


def test_every_call_holds_the_configuration_that_it_begins_with() -> None:
    """A verb that forgets to would mix two configurations, and lose its backend to a reload."""
    others = {"from_config", "for_person", "reload", "close", "telemetry", "cache", "fleet"}
    verbs = {name for name in vars(Broker) if not name.startswith("_")} - others
    used = {name: set(vars(Broker)[name].__code__.co_names) for name in verbs}
    assert_that({name for name in verbs if "_call" in used[name]}, Equals(verbs))
    assert_that({name for name in verbs if "_snapshot" in used[name]}, Equals(set()))
