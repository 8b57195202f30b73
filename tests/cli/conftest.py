"""The command, as a process of its own and inside this one, in a home that is empty at first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imagebroker.cli.main import main
from tests import distributions

#: A backend whose refs say what is to happen: faulty://host/NameOfAnError, or one of the others.
FAULTY = """
import threading
from pathlib import Path
import imagebroker.plugin
from imagebroker.plugin import *

DATA = bytes(range(256)) * 1024


class FaultyBackend(ImageBackend):
    api_version = 1
    name = "faulty"
    ref_form = RefForm(host=True, path=True, query=True)

    def open(self, context, ref):
        what = ref.path[1:]
        if what == "bug":
            raise ValueError("token=s3cret")
        error = getattr(imagebroker.plugin, what, None)
        if error is not None:
            raise error(f"{ref}: so it is", hint="do it otherwise")
        return FaultySource(ref.text, stalls=what == "stall")


class FaultySource(ImageSource):
    seekable = True

    def __init__(self, text, stalls):
        self.image = Image(ref=text, size=len(DATA))
        self.stalls, self.closed = stalls, threading.Event()

    def read(self, start=0, stop=None):
        half = len(DATA) // 2
        if start < half:
            yield DATA[start:half]
        stalled = Path(__file__).with_name("stalled")
        if self.stalls and not stalled.exists():  # the first time
            stalled.touch()
            self.closed.wait(60)
        yield DATA[max(half, start) : stop]

    def close(self):
        self.closed.set()
"""


@dataclass
class Done:
    """How a run ended, and what it said."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def record(self) -> Any:
        """What `-f json` printed."""
        return json.loads(self.stdout)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Shell:
    """Where the command is run: its home, its config file, and the plugins beside ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugins = folder / "plugins"
        self.environment = {
            "HOME": str(folder / "home"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
            "PYTHONPATH": str(self.plugins),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
        }
        for name in ("home", "config", "data", "plugins", "work"):
            (folder / name).mkdir()
        self.work = folder / "work"

    def config(self, text: str) -> Path:
        """Make `text` the user's config file."""
        path = self.folder / "config" / "imagebroker" / "imagebroker.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def faulty(self) -> None:
        """Install the backend above, and enable it."""
        distributions.install(
            self.plugins, "faulty", {"faulty": "faulty:FaultyBackend"}, faulty=FAULTY
        )
        self.config("[imagebroker]\nenabled_schemes = faulty, file\nretries = 0\n")

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """A process of its own."""
        settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, "-m", "imagebroker", *argv],
            cwd=self.work,
            env=self.environment,
            # A suite in the background ignores it, and its children would, too.
            preexec_fn=_heed_interrupts,
            **(settings | options),
        )

    def run(self, *argv: str, data: bytes = b"", **options: Any) -> Done:
        """A process of its own, to its end."""
        with self.start(*argv, stdin=subprocess.PIPE, **options) as process:
            stdout, stderr = process.communicate(data, timeout=300)
        return Done(process.returncode, stdout or b"", (stderr or b"").decode())


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


class Inside(Shell):
    """The same inside this process: faster, and all that most tests need."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[bytes]) -> None:
        super().__init__(folder)
        self._capture = capture
        #: Named with `--config-file`, as for a service: what it does not allow is denied.
        self.config_file: Path | None = None

    def config(self, text: str) -> Path:
        self.config_file = super().config(text)
        return self.config_file

    def __call__(self, *argv: str) -> Done:
        self._capture.readouterr()
        if self.config_file is not None and "--config-file" not in argv:
            argv = ("--config-file", str(self.config_file), *argv)
        status = main(argv)
        output = self._capture.readouterr()
        return Done(status, output.out, output.err.decode())


@pytest.fixture
def imagebroker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Inside]:
    inside = Inside(tmp_path, capfdbinary)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, inside.environment[name])
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(inside.work)
    monkeypatch.syspath_prepend(inside.plugins)
    yield inside
    for path in inside.plugins.glob("*.py"):
        sys.modules.pop(path.stem, None)
