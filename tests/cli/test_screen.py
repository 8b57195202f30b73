"""What a person sees on a real terminal while an image is transferred."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, LessThan, MatchesRegex

from tests.cli.conftest import Inside, Shell
from tests.cli.terminal import on_a_terminal
from tests.servers.raw import Connection, RawServer

SIZE = 8 << 20
DATA = os.urandom(SIZE)


@contextmanager
def slow_web(rate: int = 4 << 20, held_at: int = SIZE) -> Iterator[RawServer]:
    """A server that sends `rate` bytes a second, and can go on anywhere.

    `held_at`: the first answer goes no further than this byte, until its client ends.
    """

    def serve(connection: Connection, number: int) -> None:
        head = connection.read_head().decode("latin-1")
        asked = re.search(r"(?im)^range: bytes=(\d+)-(\d*)", head)
        start = int(asked[1]) if asked else 0
        stop = int(asked[2]) + 1 if asked and asked[2] else SIZE
        status = "206 Partial Content" if asked else "200 OK"
        more = f"Content-Range: bytes {start}-{stop - 1}/{SIZE}\r\n" if asked else ""
        connection.sendall(
            f"HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\n{more}"
            f'ETag: "1"\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n'.encode()
        )
        step = rate // 20
        for at in range(start, stop, step):
            if number == 0 and at >= held_at:
                connection.wait_for_close()
                return
            connection.sendall(DATA[at : min(at + step, stop)])
            time.sleep(1 / 20)

    with RawServer(serve) as server:
        yield server


NAMES = {
    "long": "debian-12-generic-amd64-daily-20260101-1999-with-a-very-long-name-indeed.qcow2",
    "longer than a line": "x" * 200 + ".qcow2",
    "wide": "映像" * 30 + ".qcow2",
}


@pytest.mark.parametrize(
    ("name", "columns"),
    [("long", 30), ("long", 60), ("longer than a line", 40), ("longer than a line", 132),
     ("wide", 30), ("wide", 80)],
)  # fmt: skip
def test_the_bar_stays_on_one_line(name: str, columns: int, shell: Shell) -> None:
    with slow_web(16 << 20) as server:
        screens, status = on_a_terminal(
            shell, "download", f"{server.url}/disk", NAMES[name], columns=columns,
            enough=lambda screen: "/8.0 MiB" in " ".join(screen),
        )  # fmt: skip
    assert_that(status, Equals(143))
    bars = [screen for screen in screens if "/8.0 MiB" in " ".join(screen)]
    assert_that(bars[0], HasLength(1))
    assert_that(bars[0][0], Contains("…"))


@pytest.mark.parametrize("columns", range(20, 140))
def test_each_column_of_the_bar_is_shown_as_a_whole_or_not_at_all(columns: int) -> None:
    from rich.cells import cell_len
    from rich.console import Console

    from imagebroker.cli.progress_bar import OneLine

    terminal = Console(file=io.StringIO(), width=columns, color_system=None, force_terminal=True)
    bar = OneLine(terminal)
    task = bar.add_task("debian-12.qcow2", total=None, rate="")
    bar.update(task, total=1023 << 20, completed=1000 << 20, rate="1023.4 MiB/s")
    Console(file=(out := io.StringIO()), width=columns, color_system=None).print(
        *bar.get_renderables()
    )
    [line] = out.getvalue().splitlines()
    for name in NAMES.values():
        bar.update(task, description=name)
        Console(file=(named := io.StringIO()), width=columns, color_system=None).print(
            *bar.get_renderables()
        )
        [of_it] = named.getvalue().splitlines()
        assert_that(cell_len(of_it), LessThan(columns + 1))
    title = r"((debian-12\.qcow2|debian[-\d.qcow]*…) +)?"
    rest = r"([━╸]+ +)?1,000\.0/1,023\.0 MiB( 1023\.4 MiB/s)?( -:--:--)?"
    assert_that(line.rstrip(), MatchesRegex(f"{title}{rest}$"))


def test_while_a_connection_is_refused_the_reason_is_shown(shell: Shell) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{holder.getsockname()[1]}/disk.qcow2"
        screens, _ = on_a_terminal(
            shell, "download", url, "x",
            enough=lambda screen: any("trying again (2)" in line for line in screen),
        )  # fmt: skip
    shown = [line for screen in screens for line in screen if line.startswith("x: ")]
    reasons = [line for line in shown if "trying again" in line]
    assert_that(len(reasons) > 0, Equals(True), str(shown))
    for line in reasons:
        assert_that(line.lower(), Contains("refused"))
        assert_that(len(line), LessThan(81))
    assert_that([line for screen in screens for line in screen if "0/?" in line], Equals([]))


def test_while_nothing_has_been_answered_it_says_that_it_connects(shell: Shell) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/disk.qcow2"
        screens, _ = on_a_terminal(
            shell, "download", url, "x",
            enough=lambda screen: "x: connecting" in screen,
        )  # fmt: skip
    assert_that(screens[-1], Equals(["x: connecting"]))


def resumed_rates(shell: Shell, tmp_path: Path) -> tuple[float, float]:
    """The highest rate that is shown, and the one of the summary, of a run that resumes most."""
    import json

    with slow_web(4 << 20, held_at=SIZE * 3 // 4) as server:
        url = f"{server.url}/disk.raw"
        half = [
            "download", url, "x", "--progress", "json"
        ]  # fmt: skip
        with shell.start(*half) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith(b"{") and json.loads(line)["done"] > SIZE * 0.6:
                    process.terminate()
                    break
            process.stderr.read()
        done = shell.run(*half, "-f", "json")
    assert_that(done.status, Equals(0), done.stderr)
    assert_that(done.record["resumed_from"] > SIZE // 2, Equals(True))
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return max(each["rate"] for each in told), done.record["rate"]


def test_rates_count_what_arrived_in_this_run(shell: Shell, tmp_path: Path) -> None:
    """At four MiB a second, what is left takes half a second or more: all of it would be faster."""
    shown, final = resumed_rates(shell, tmp_path)
    left = SIZE * 0.4
    assert_that(final < left / (left / (6 << 20)), Equals(True), f"{final / (1 << 20)} MiB/s")
    assert_that(shown < 12 << 20, Equals(True), f"{shown / (1 << 20)} MiB/s")


class TestLists:
    """An empty list says that there is nothing, on standard error."""

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (("list",), "no images in the default backend"),
            (("list", "--backend", "file"), "no images in file"),
            (("list", "--name", "x"), "no image matches in the default backend"),
        ],
    )
    def test_it_says_so(self, argv: tuple[str, ...], said: str, imagebroker: Inside) -> None:
        done = imagebroker(*argv)
        assert_that((done.status, done.stdout), Equals((0, b"")))
        assert_that(done.stderr, Equals(f"imagebroker: {said}\n"))

    @pytest.mark.parametrize("argv", [("list", "-f", "json"), ("list", "-f", "value"),
                                      ("list", "-f", "csv"), ("-q", "list")])  # fmt: skip
    def test_programs_are_told_nothing(self, argv: tuple[str, ...], imagebroker: Inside) -> None:
        assert_that(imagebroker(*argv).stderr, Equals(""))


@pytest.fixture(scope="module")
def made_disks(tmp_path_factory: pytest.TempPathFactory, qemu_img: None) -> Path:
    """A folder with the same disk in several formats."""
    folder = tmp_path_factory.mktemp("disks")
    (folder / "plain.img").write_bytes(DATA)
    for kind in ("qcow2", "vhdx", "vdi"):
        subprocess.run(
            ["qemu-img", "convert", "-q", "-O", kind, "plain.img", f"disk.{kind}"],
            cwd=folder, check=True,
        )  # fmt: skip
    return folder


class TestCreate:
    """An upload has the name of its file, and the format of its bytes, unless told otherwise."""

    @pytest.fixture
    def disks(self, made_disks: Path, imagebroker: Inside) -> Inside:
        for disk in made_disks.iterdir():
            shutil.copy(disk, imagebroker.work)
        return imagebroker

    def created(self, imagebroker: Inside, *argv: str) -> tuple[str, str]:
        done = imagebroker("create", *argv, "-f", "json")
        assert_that(done.status, Equals(0), done.stderr)
        return done.record["name"], done.record["disk_format"]

    @pytest.mark.parametrize(
        ("file", "found"),
        [("disk.qcow2", "qcow2"), ("disk.vhdx", "vhdx"), ("disk.vdi", "vdi"), ("plain.img", "raw")],
    )
    def test_from_the_file(self, file: str, found: str, disks: Inside) -> None:
        assert_that(self.created(disks, "--file", file), Equals((file, found)))
        assert_that(self.created(disks, "--file", f"{disks.work}/./{file}"), Equals((file, found)))

    def test_the_ending_is_not_believed(self, disks: Inside) -> None:
        (disks.work / "disk.qcow2").rename(disks.work / "disk.raw")
        assert_that(self.created(disks, "--file", "disk.raw"), Equals(("disk.raw", "qcow2")))

    def test_unless_told_otherwise(self, disks: Inside) -> None:
        told = self.created(disks, "--file", "disk.qcow2", "--name", "mine", "--disk-format",
                            "qcow2")  # fmt: skip
        assert_that(told, Equals(("mine", "qcow2")))
        wrong = disks("create", "--file", "disk.qcow2", "--disk-format", "raw")
        assert_that(wrong.status, Equals(6))

    def test_standard_input_has_neither(self, shell: Shell) -> None:
        done = shell.run("create", "--file", "-", "-f", "json", data=DATA)
        assert_that((done.record["name"], done.record["disk_format"]), Equals((None, None)))

    def test_a_pipe_is_read_once(self, shell: Shell) -> None:
        os.mkfifo(shell.work / "pipe")
        import threading

        writer = threading.Thread(target=(shell.work / "pipe").write_bytes, args=(DATA,))
        writer.start()
        done = shell.run("create", "--file", "pipe", "--size", str(SIZE), "-f", "json")
        writer.join()
        assert_that(done.status, Equals(0), done.stderr)
        assert_that((done.record["name"], done.record["size"]), Equals(("pipe", SIZE)))
