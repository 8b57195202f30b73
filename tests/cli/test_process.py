"""The command as a process: exit status, streams, signals, terminals."""

from __future__ import annotations

import errno
import hashlib
import os
import pty
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    HasLength,
    LessThan,
    MatchesRegex,
    Not,
    StartsWith,
)

from imagebroker._version import VERSION
from imagebroker.cli import progress
from imagebroker.cli.console import Console
from imagebroker.transfer.limits import Progress
from tests.bounds import HANGS
from tests.cli.conftest import Shell

#: What faulty://host/good holds.
DATA = bytes(range(256)) * 1024


def test_the_version_is_there_in_less_than_a_third_of_a_second(shell: Shell) -> None:
    """Of processor time, which is not that of others on a busy machine; 0.04 s alone."""
    seconds = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = shell.run("--version")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert_that(done.stdout.decode(), Equals(f"imagebroker {VERSION}\n"))
    assert_that(min(seconds), LessThan(0.33))


@pytest.mark.parametrize(
    ("status", "ref"),
    [
        (0, "faulty://host/good"),
        (1, "faulty://host/Conflict"),
        (2, "no ref"),
        (3, "faulty://host/ImageNotFound"),
        (4, "faulty://host/PolicyViolation"),
        (5, "faulty://host/TransferError"),
        (6, "faulty://host/VerificationError"),
        (7, "other://host/path"),
    ],
)
def test_the_exit_status_says_what_went_wrong(status: int, ref: str, shell: Shell) -> None:
    shell.faulty()
    done = shell.run("download", ref, "dest")
    assert_that(done.status, Equals(status))
    lines = done.stderr.splitlines()
    assert_that(lines[0], StartsWith("imagebroker: "))
    assert_that(os.listdir(shell.work), Equals(["dest"] if status == 0 else []))
    if status:
        assert_that(lines[0], MatchesRegex(r".* \[[a-z-]+\]"))
        kinds = [line.partition(": ")[0] for line in lines[1:]]
        assert_that(kinds, Equals(["  where", "  hint"] if status == 7 else ["  hint"]))


def test_a_destination_that_cannot_be_written_ends_with_9(shell: Shell) -> None:
    shell.faulty()
    done = shell.run("download", "faulty://host/good", "missing/dest")
    assert_that(done.status, Equals(9))
    assert_that(done.stderr, Contains("hint: create the parent directory first"))


@pytest.mark.parametrize("dest", ["dest", "/proc/dest"])
def test_a_directory_that_takes_no_file_is_not_one_to_be_created(dest: str, shell: Shell) -> None:
    shell.faulty()
    command = [sys.executable, "-m", "imagebroker", "download", "faulty://host/good", dest]
    done = subprocess.run(
        ["sh", "-c", f"mkdir deleted; cd deleted; rmdir ../deleted; exec {shlex.join(command)}"],
        cwd=shell.work, env=shell.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert_that(done.returncode, Equals(9), done.stderr)
    assert_that(done.stderr, Contains("hint: choose another directory"))


@pytest.mark.promise("nothing-left")
@pytest.mark.parametrize(
    ("signum", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_it_with_one_line_and_leaves_nothing(
    signum: signal.Signals, status: int, word: str, shell: Shell
) -> None:
    shell.faulty()
    argv = ("download", "--progress", "json", "faulty://host/stall", "dest")
    with shell.start(*argv) as process:
        assert process.stderr is not None
        while b'"done": 131072' not in process.stderr.readline():
            assert process.poll() is None
        assert_that(os.listdir(shell.work), HasLength(1))
        process.send_signal(signum)
        _, rest = process.communicate(timeout=HANGS)
    assert_that(process.returncode, Equals(status))
    assert_that(rest.decode().splitlines()[-1], Equals(f"imagebroker: {word}"))
    assert_that(rest, Not(Contains(b"Traceback")))
    assert_that(os.listdir(shell.work), Equals([]))


def test_after_ctrl_c_the_very_command_that_is_named_goes_on(shell: Shell) -> None:
    shell.faulty()
    ref = f"faulty://host/stall#sha256={hashlib.sha256(DATA).hexdigest()}"
    with shell.start("download", "--progress", "json", ref, "the dest") as process:
        assert process.stderr is not None
        while b'"done": 131072' not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=HANGS)
    assert_that(process.returncode, Equals(130))
    said, hint = rest.decode().splitlines()[-2:]
    assert_that(said, Equals("imagebroker: interrupted"))
    assert_that(hint, StartsWith("  hint: 128.0 KiB are kept; resume with: imagebroker download "))
    assert_that((shell.work / "the dest").exists(), Equals(False))

    again = shell.run(*shlex.split(hint.partition("resume with: ")[2])[1:])
    assert_that((shell.work / "the dest").read_bytes(), Equals(DATA))
    assert_that(again.stderr, Contains("resumed at 128.0 KiB"))
    assert_that(os.listdir(shell.work), Equals(["the dest"]))


def test_a_command_that_holds_a_secret_is_not_said_again() -> None:
    secret = Console(argv=["download", "https://host/disk?signature=s3cret", "disk"])
    assert_that(secret.command, Equals("the same command again"))
    assert_that(Console(argv=["show", "a b"]).command, Equals("imagebroker show 'a b'"))


def test_standard_output_gets_the_bytes_and_nothing_else(shell: Shell) -> None:
    shell.faulty()
    done = shell.run("download", "faulty://host/good", "-", "-f", "json")
    assert_that(done.stdout, Equals(DATA))
    assert_that(done.stderr, Contains('"size": 262144'))


@pytest.mark.parametrize("argv", [("download", "faulty://host/good", "-"), ("backends",)])
def test_a_reader_that_has_seen_enough_is_no_reason_to_complain(
    argv: tuple[str, ...], shell: Shell
) -> None:
    shell.faulty()
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = shell.run(*argv, stdout=writing)
    finally:
        os.close(writing)
    assert_that(done.stderr, Equals(""))
    assert_that(done.status, Equals(9))


def test_a_full_standard_output_is_an_error(shell: Shell) -> None:
    shell.faulty()
    with open("/dev/full", "wb") as full:
        done = shell.run("backends", stdout=full)
    assert_that(done.status, Equals(9))
    assert_that(done.stderr, Contains("No space left on device"))


def test_without_a_standard_output_a_file_is_stored_all_the_same(shell: Shell) -> None:
    shell.faulty()
    program = 'exec "$0" -m imagebroker download faulty://host/good "$1" >&-'
    for dest, status in (("dest", 0), ("-", 9)):
        done = subprocess.run(
            ["sh", "-c", program, sys.executable, dest],
            cwd=shell.work, env=shell.environment, capture_output=True, timeout=HANGS, check=False,
        )  # fmt: skip
        assert_that(done.returncode, Equals(status))
    assert_that((shell.work / "dest").read_bytes(), Equals(DATA))


def _on_a_terminal(shell: Shell, *argv: str) -> str:
    """What a person sees who runs the command."""
    master, slave = pty.openpty()
    shell.environment["TERM"] = "xterm"
    with shell.start(*argv, stderr=slave) as process:
        os.close(slave)
        seen = b""
        try:
            while piece := os.read(master, 65536):
                seen += piece
        except OSError as error:  # how Linux ends a terminal whose other side is closed
            assert_that(error.errno, Equals(errno.EIO))
        finally:
            os.close(master)
        process.communicate(timeout=HANGS)
    assert_that(process.returncode, Equals(0))
    return seen.decode()


def test_a_bar_is_drawn_on_a_terminal_and_gone_at_the_end(shell: Shell) -> None:
    shell.faulty()
    seen = _on_a_terminal(shell, "download", "faulty://host/good", "dest")
    assert_that(seen, MatchesRegex(r"(?s).*━.*(256\.0|262\.1)"))
    assert_that(seen.rstrip().rpartition("\x1b[2K")[2], StartsWith("imagebroker: stored dest"))


def test_quiet_says_nothing_on_a_terminal_either(shell: Shell) -> None:
    shell.faulty()
    seen = _on_a_terminal(shell, "-q", "download", "faulty://host/good", "dest")
    assert_that(seen, Equals(""))


def test_no_progress_is_reported_where_nobody_watches(shell: Shell) -> None:
    shell.faulty()
    done = shell.run("download", "faulty://host/good", "dest")
    assert_that(done.stderr.splitlines(), HasLength(1))
    assert_that(done.stderr, Not(Contains("\x1b")))


def test_where_nobody_watches_a_long_transfer_shows_now_and_then_that_it_lives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 100.0
    shown = progress.display("auto", Console(), "disk", clock=lambda: now)
    assert shown.callback is not None
    for _ in range(250):  # 25 s
        now += 0.1
        shown.callback(Progress("transfer", int(now) << 20, 200 << 20, 1 << 20, None, 0))
    shown.callback(Progress("done", 200 << 20, 200 << 20, 1 << 20, None, 0))
    said = capsys.readouterr().err.splitlines()
    assert_that(said[0], Equals("disk: transfer 110.0 MiB of 200.0 MiB (55%), 1.0 MiB/s"))
    assert_that(said, HasLength(2))


def test_a_download_pays_for_no_bar_that_is_not_drawn(shell: Shell) -> None:
    program = (
        "import sys; from imagebroker.cli.main import main; "
        "status = main(['download', 'faulty://host/good', 'dest']); "
        "print(status, *{'rich', 'cmd2', 'yaml', 'requests', 'rfc3986.misc'} & set(sys.modules))"
    )
    shell.faulty()
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=shell.work, env=shell.environment, capture_output=True, timeout=HANGS, check=True,
    )  # fmt: skip
    assert_that(done.stdout.split()[:1], Equals([b"0"]))
    seldom = {b"rich", b"cmd2", b"yaml", b"rfc3986.misc"}
    assert_that(seldom.isdisjoint(done.stdout.split()), Equals(True))


def test_what_is_imported_late_is_there_for_a_backend_whose_options_need_it() -> None:
    program = (
        "from imagebroker.cli.lazy_modules import load_lazily; load_lazily(); load_lazily(); "
        "from oslo_config import types; "
        "print(types.URI()('http://host/path'), types.HostAddress()('192.0.2.1'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=HANGS)
    assert_that(done.stdout.split(), Equals([b"http://host/path", b"192.0.2.1"]))


def test_the_bytes_of_an_image_come_from_standard_input(shell: Shell) -> None:
    done = shell.run("create", "--file", "-", "--size", str(len(DATA)), "-f", "json", data=DATA)
    assert_that((done.status, done.record["size"]), Equals((0, len(DATA))))


def test_the_sample_is_the_config_file_in_etc(shell: Shell) -> None:
    """After a change of options: `imagebroker config sample > etc/imagebroker/imagebroker.conf`."""
    sample = Path(__file__).parents[2] / "etc" / "imagebroker" / "imagebroker.conf"
    done = shell.run("config", "sample")
    assert_that(done.stdout.decode(), Equals(sample.read_text()))
