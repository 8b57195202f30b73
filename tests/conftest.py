"""What every test may ask for."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import imagebroker
from imagebroker.config.settings import Settings
from imagebroker.config.tuning import DEFAULT, Tuning
from tests import canaries
from tests.distributions import install
from tests.scripted import IMAGES, Script

pytest_plugins = ["tests.servers.fixtures", "tests.workers"]

# What these assert holds under `python -O` too, as in the tests themselves.
pytest.register_assert_rewrite(
    "tests.compat.nova_process", "tests.docs.snippets", "tests.fuzz.targets", "tests.servers.raw",
    "tests.service.programs", "tests.verify.differential", "tests.verify.judging",
)  # fmt: skip
canaries.install()


@pytest.fixture(autouse=True)
def no_secret_shows() -> Iterator[None]:
    """Fails the test in which a secret was logged, or put into an error."""
    yield
    if found := canaries.found():
        pytest.fail("a secret shows: " + "\n".join(found), pytrace=False)


#: What is decided after 64 MiB and 50 ms is decided here after 1 MiB and 20 ms.
SMALL_AND_QUICK = Tuning(
    parallel_from=1 << 20, observe=0.02, measure=0.02, smallest_range=256 * 1024
)


@pytest.fixture
def tuning(request: pytest.FixtureRequest) -> Tuning:
    """What brokers are tuned to; a test or a module of tests may have its own."""
    found: Tuning = getattr(request, "param", DEFAULT)
    return found


@pytest.fixture
def make_broker(tmp_path: Path, tuning: Tuning) -> Iterator[Callable[..., imagebroker.Broker]]:
    """A broker from the text of a config file; closed when the test ends."""
    brokers: list[imagebroker.Broker] = []

    def make(config: str, tuning: Tuning = tuning) -> imagebroker.Broker:
        path = tmp_path / f"imagebroker-{len(brokers)}.conf"
        path.write_text(textwrap.dedent(config))
        brokers.append(imagebroker.Broker(Settings.from_file(path, tuning=tuning)))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.close()


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path; `tests.distributions.install` puts plugins there."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def scripted(on_path: Path, make_broker: Callable[..., imagebroker.Broker]) -> Scripted:
    """A broker with the scripted backend, without pauses between attempts."""
    install(on_path, "imagebroker-scripted", {"scripted": "tests.scripted:ScriptedBackend"})
    IMAGES.clear()
    return Scripted(make_broker)


class Scripted:
    def __init__(self, make_broker: Callable[..., imagebroker.Broker]) -> None:
        self.make_broker = make_broker
        self.broker = self.configured()

    def configured(self, core: str = "", backend: str = "", **tuned: Any) -> imagebroker.Broker:
        """A broker with further options; `tuned`: how, if not as the other brokers of the test."""
        self.broker = self.make_broker(
            "[imagebroker]\nenabled_schemes = scripted\nretry_backoff = 0\n"
            f"{core}\n[backend:scripted]\n{backend}\n",
            **tuned,
        )
        return self.broker

    def image(self, data: bytes, path: str = "/image", **how: Any) -> tuple[str, Script]:
        """Publish an image; its ref and its script."""
        IMAGES[path] = Script(data, **how)
        return f"scripted://host{path}", IMAGES[path]
