"""Standard streams that are closed, full or broken: no text where bytes belong, the right status."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from tests import distributions
from tests.bounds import HANGS
from tests.cli.conftest import Shell

#: What faulty://host/good holds.
DATA = bytes(range(256)) * 1024
_CLOSED = [
    closed for count in (1, 2, 3) for closed in itertools.combinations(("<&-", ">&-", "2>&-"), count)
]  # fmt: skip
#: Says something in each way there is, then hands out a good image.
TALKATIVE = """
import logging, sys, warnings
from imagebroker.plugin import *

DATA = bytes(range(256)) * 1024


class TalkativeBackend(ImageBackend):
    api_version = 1
    name = "talkative"
    ref_form = RefForm(host=True, path=True)

    def open(self, context, ref):
        logging.getLogger("talk").warning("a warning of the log")
        warnings.warn("a warning of Python")
        print("printed", file=sys.stderr)
        return TalkativeSource(ref.text)


class TalkativeSource(ImageSource):
    def __init__(self, text):
        self.image = Image(ref=text, size=len(DATA))

    def read(self, start=0, stop=None):
        print("and printed", file=sys.stderr)
        yield DATA[start:stop]
"""


def _run(shell: Shell, redirections: str, *argv: str) -> subprocess.CompletedProcess[bytes]:
    """The command with what a shell makes of `redirections`."""
    program = f'exec "$0" -m imagebroker "$@" {redirections}'
    return subprocess.run(
        ["sh", "-c", program, sys.executable, *argv],
        cwd=shell.work, env=shell.environment, capture_output=True, timeout=HANGS, check=False,
    )  # fmt: skip


def _talkative(shell: Shell) -> None:
    backends = {"talkative": "talkative:TalkativeBackend"}
    distributions.install(shell.plugins, "talkative", backends, talkative=TALKATIVE)
    shell.config("[imagebroker]\nenabled_schemes = talkative\n")


@pytest.mark.parametrize("closed", _CLOSED, ids=" ".join)
def test_whatever_is_closed_a_file_holds_the_image_and_nothing_else(
    closed: tuple[str, ...], shell: Shell
) -> None:
    _talkative(shell)
    done = _run(shell, " ".join(closed), "-v", "download", "talkative://host/x", "dest")
    assert_that(done.returncode, Equals(0))
    assert_that((shell.work / "dest").read_bytes(), Equals(DATA))
    assert_that(os.listdir(shell.work), Equals(["dest"]))


@pytest.mark.parametrize("closed", [c for c in _CLOSED if ">&-" not in c], ids=" ".join)
def test_whatever_else_is_closed_standard_output_gets_the_image_and_nothing_else(
    closed: tuple[str, ...], shell: Shell
) -> None:
    _talkative(shell)
    for flags in ((), ("-f", "json"), ("--progress", "json")):
        done = _run(shell, " ".join(closed), "download", "talkative://host/x", "-", *flags)
        assert_that(done.returncode, Equals(0))
        assert_that(done.stdout, Equals(DATA))


@pytest.mark.parametrize("closed", [c for c in _CLOSED if ">&-" in c], ids=" ".join)
def test_an_image_for_a_closed_standard_output_is_an_error(
    closed: tuple[str, ...], shell: Shell
) -> None:
    _talkative(shell)
    done = _run(shell, " ".join(closed), "download", "talkative://host/x", "-")
    assert_that(done.returncode, Equals(9))
    said = b"" if "2>&-" in closed else b"standard output is closed"
    assert_that(done.stderr, Contains(said))


@pytest.mark.parametrize("words", [("--version",), ("backends",), ("list", "-f", "json")])
@pytest.mark.parametrize("closed", [c for c in _CLOSED if ">&-" in c], ids=" ".join)
def test_text_for_a_closed_standard_output_is_an_error(
    closed: tuple[str, ...], words: tuple[str, ...], shell: Shell
) -> None:
    done = _run(shell, " ".join(closed), *words)
    assert_that(done.returncode, Equals(9))
    said = b"" if "2>&-" in closed else b"cannot write to standard output: Bad file descriptor"
    assert_that(done.stderr, Contains(said))


@pytest.mark.parametrize("flags", [(), ("-f", "json"), ("--progress", "json")])
@pytest.mark.parametrize("where", [">out 2>&1", "2>&1 >out", "2>&1 | cat >out"])
def test_an_image_and_text_in_one_place_is_the_image_alone(
    where: str, flags: tuple[str, ...], shell: Shell
) -> None:
    _talkative(shell)
    program = f'"$0" -m imagebroker -v download talkative://host/x - "$@" {where}'
    subprocess.run(
        ["sh", "-c", program, sys.executable, *flags],
        cwd=shell.work, env=shell.environment, capture_output=True, timeout=HANGS, check=True,
    )  # fmt: skip
    assert_that((shell.work / "out").read_bytes(), Equals(DATA))


def test_an_error_is_said_even_where_the_image_would_have_gone(shell: Shell) -> None:
    shell.faulty()
    done = _run(shell, "2>&1", "download", "faulty://host/ImageNotFound", "-")
    assert_that(done.returncode, Equals(3))
    assert_that(done.stdout, Contains(b"[image-not-found]"))


@pytest.mark.parametrize("ref", ["faulty://host/ImageNotFound", "faulty://host/bug"])
def test_an_error_that_nobody_can_read_has_its_status_all_the_same(ref: str, shell: Shell) -> None:
    shell.faulty()
    expected = _run(shell, "", "download", ref, "-").returncode
    for redirections in ("2>&-", "2>/dev/full", "<&- 2>&-"):
        done = _run(shell, redirections, "download", ref, "-")
        assert_that(done.returncode, Equals(expected))
        assert_that(done.stdout, Equals(b""))


def test_a_full_standard_error_ends_no_download(shell: Shell) -> None:
    shell.faulty()
    for flags in ((), ("-f", "json"), ("-f", "table", "--progress", "json")):
        done = _run(shell, "2>/dev/full", "download", "faulty://host/good", "-", *flags)
        assert_that(done.returncode, Equals(0))
        assert_that(done.stdout, Equals(DATA))


@pytest.mark.parametrize("argv", [("--version",), ("--help",), ("backends",)])
def test_text_for_a_full_standard_output_is_an_error_without_a_traceback(
    argv: tuple[str, ...], shell: Shell
) -> None:
    shell.faulty()
    done = _run(shell, ">/dev/full", *argv)
    assert_that(done.returncode, Equals(9))
    assert_that(done.stderr, Contains(b"No space left on device"))
    assert_that(b"Traceback" in done.stderr, Is(False))


@pytest.mark.parametrize("redirection", [">/dev/full", "1</dev/null"])
def test_an_image_that_standard_output_cannot_take_is_an_error(
    redirection: str, shell: Shell
) -> None:
    shell.faulty()
    done = _run(shell, redirection, "download", "faulty://host/good", "-")
    assert_that(done.returncode, Equals(9))
    assert_that(done.stderr, Contains(b"cannot write to standard output"))


def test_without_a_standard_input_nothing_is_created(shell: Shell) -> None:
    shell.config("[imagebroker]\nenabled_schemes = file\n")
    done = _run(shell, "<&-", "create", "--file", "-")
    assert_that(done.returncode, Equals(2))
    assert_that(done.stderr, Contains(b"standard input is a terminal, or closed"))


def test_a_service_that_closed_its_streams_itself_stores_what_it_should(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(DATA)
    config = tmp_path / "conf"
    config.write_text(
        f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nallowed_paths = {tmp_path}\n"
    )
    program = """
        import os, sys, imagebroker
        os.closerange(0, 3)
        broker = imagebroker.Broker.from_config(sys.argv[1])

        def talk(progress):
            for fd in (0, 1, 2):
                try:
                    os.write(fd, b"text")
                except OSError:
                    pass

        broker.download(None, "file://" + sys.argv[2], sys.argv[3], progress=talk)
    """
    argv = [config, tmp_path / "image", tmp_path / "dest"]
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, argv)], check=True, timeout=HANGS
    )
    assert_that((tmp_path / "dest").read_bytes(), Equals(DATA))
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
