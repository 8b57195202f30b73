"""The same between processes: what they share, what a death leaves, whom they trust."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, HasLength, LessThan

from tests.bounds import HANGS
from tests.servers.nginx import Nginx
from tests.sharing.narrow import Narrow

MIB = 1 << 20
DATA = random.Random(5).randbytes(MIB) * 12
DIGEST = hashlib.sha256(DATA).hexdigest()


class Station:
    """A home in which the command runs, and a server that sends so much in all."""

    def __init__(self, folder: Path, narrow: Narrow) -> None:
        self.folder, self.narrow = folder, narrow
        self.state = folder / "run" / "imagebroker"
        (folder / "run").mkdir(mode=0o700)
        self.environment = {
            **os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run"),
        }  # fmt: skip
        self.url = f"http://127.0.0.1:{narrow.port}/shared.raw"
        self.processes: list[subprocess.Popen[bytes]] = []

    def dest(self, number: int) -> Path:
        return self.folder / f"image-{number}"

    def start(self, *options: str, ref: str | None = None) -> subprocess.Popen[bytes]:
        number = len(self.processes)
        self.processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "imagebroker",
                    *options,
                    "download",
                    ref or self.url,
                    self.dest(number),
                    "--no-keep-partial",
                ],
                env=self.environment,
                stderr=subprocess.PIPE,
            )
        )
        return self.processes[-1]

    def wait_for_part(self, number: int, size: int) -> None:
        """Until that process has stored so much."""
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            for part in self.folder.glob(f".image-{number}.*.imagebroker-part"):
                if part.stat().st_blocks * 512 >= size:
                    return
            time.sleep(0.01)
        raise AssertionError(f"process {number} stored nothing")

    def ended(self, number: int) -> tuple[int, str]:
        process = self.processes[number]
        _, errors = process.communicate(timeout=HANGS)
        return process.returncode, errors.decode()

    def check(self, number: int) -> None:
        status, errors = self.ended(number)
        assert_that(status, Equals(0), errors)
        assert_that(self.dest(number).read_bytes() == DATA, Equals(True))


@pytest.fixture
def station(tmp_path: Path, nginx: Nginx) -> Iterator[Station]:
    (nginx.root / "shared.raw").write_bytes(DATA)
    with Narrow(("127.0.0.1", nginx.ports["http"]), 6 * MIB) as narrow:
        made = Station(tmp_path, narrow)
        yield made
        for process in made.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.mark.promise("bytes-move-once")
def test_six_processes_have_the_bytes_sent_once(station: Station) -> None:
    for _ in range(6):
        station.start()
    for number in range(6):
        station.check(number)
    assert_that(station.narrow.sent, LessThan(int(1.1 * len(DATA))))
    assert_that(list(station.state.iterdir()), HasLength(0))
    assert_that(station.state.stat().st_mode & 0o777, Equals(0o700))


@pytest.mark.promise("independent-calls")
@pytest.mark.parametrize("seed", range(3))
def test_whoever_is_killed_the_others_end_with_the_right_bytes(station: Station, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(5):
        station.start()
    station.wait_for_part(0, MIB)
    victims = rng.sample(range(5), 2)
    for victim in victims:
        time.sleep(rng.random() / 2)
        station.processes[victim].send_signal(signal.SIGKILL)
    for number in range(5):
        if number in victims and station.processes[number].wait(HANGS) == -signal.SIGKILL:
            assert_that(station.dest(number).exists(), Equals(False))
        else:
            station.check(number)
    assert_that(station.narrow.sent, LessThan(int(3.2 * len(DATA))))


@pytest.mark.promise("independent-calls")
def test_one_that_is_stopped_is_not_waited_for_without_end(station: Station) -> None:
    config = station.folder / "imagebroker.conf"
    config.write_text(
        "[imagebroker]\nenabled_schemes = http\nstall_timeout = 2\n"
        f"state_dir = {station.state}\n[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    first = station.start("--config-file", str(config))
    station.wait_for_part(0, MIB)
    second = station.start("--config-file", str(config))
    station.wait_for_part(1, MIB)
    first.send_signal(signal.SIGSTOP)
    try:
        assert_that(second.wait(HANGS), Equals(0))
        station.check(1)
    finally:
        first.send_signal(signal.SIGCONT)
    station.check(0)


@pytest.mark.promise("C34")
def test_presigned_urls_that_refuse_head_are_shared(station: Station, nginx: Nginx) -> None:
    """What is asked first is a GET of one byte: the same request as the signed one."""
    station.start()
    station.wait_for_part(0, MIB)
    station.start()
    station.check(0)
    station.check(1)
    asked = [each for each in nginx.requests("/shared.raw") if "HEAD" in each.line]
    assert_that(asked, HasLength(0))


@pytest.mark.promise("sharing-between-processes")
@pytest.mark.parametrize("how", ["open to others", "a link", "a file"])
def test_a_state_dir_that_is_not_ones_own_is_refused(station: Station, how: str) -> None:
    state = station.folder / "state"
    state.mkdir(mode=0o700)
    if how == "open to others":
        state.chmod(0o777)
    elif how == "a link":
        state.rename(station.folder / "elsewhere")
        state.symlink_to(station.folder / "elsewhere")
    else:
        state.rmdir()
        state.write_text("")
    config = station.folder / "imagebroker.conf"
    config.write_text(
        f"[imagebroker]\nenabled_schemes = http\nstate_dir = {state}\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    station.start("--config-file", str(config))
    status, errors = station.ended(0)
    assert_that(status, Equals(2))
    assert_that(errors, Contains("state_dir"))
    assert_that(station.dest(0).exists(), Equals(False))


@pytest.mark.promise("sharing-between-processes")
@pytest.mark.parametrize("how", ["cannot be made", "full"])
def test_a_state_dir_that_cannot_be_used_costs_the_sharing_only(station: Station, how: str) -> None:
    state = Path("/proc/imagebroker-state")
    if how == "full":
        if os.geteuid() != 0:
            pytest.skip("only root can mount a file system")
        state = station.folder / "full"
        state.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4k,mode=0700", "tmpfs", state], check=True
        )
        (state / "filler").write_bytes(bytes(4096))
    config = station.folder / "imagebroker.conf"
    config.write_text(
        f"[imagebroker]\nenabled_schemes = http\nstate_dir = {state}\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    try:
        for _ in range(2):
            station.start("--config-file", str(config))
        station.check(0)
        station.check(1)
    finally:
        if how == "full":
            subprocess.run(["umount", state], check=True)


@pytest.mark.promise("sharing-between-processes")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")
def test_two_users_do_not_share(station: Station) -> None:
    """The second may not even look into the directory of the first."""
    station.folder.chmod(0o777)
    for parent in station.folder.parents:
        if parent != Path("/") and parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    config = station.folder / "imagebroker.conf"
    config.write_text(
        f"[imagebroker]\nenabled_schemes = http\nstate_dir = {station.folder}/state\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    program = textwrap.dedent(
        """
        import codecs, os, sys
        import imagebroker
        from imagebroker.exceptions import ImageBrokerError
        user, config, url, dest = sys.argv[1:]
        broker = imagebroker.Broker.from_config(config)
        broker.get(None, url)  # what is imported is read by root
        codecs.lookup("ascii")
        os.setgid(int(user)); os.setuid(int(user))
        try:
            print(broker.download(None, url, dest).attempts)
        except ImageBrokerError as error:
            print(type(error).__name__, error)
        """
    )

    def run(user: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", program, str(user), config, station.url,
             station.folder / f"of-{user}"],
            stdout=subprocess.PIPE,
        )  # fmt: skip

    first = run(65533)
    ends = time.monotonic() + 60
    while not (station.folder / "state").exists() and time.monotonic() < ends:
        time.sleep(0.01)
    second = run(65534)
    outputs = [each.communicate(timeout=HANGS)[0].decode() for each in (first, second)]
    assert_that(outputs[0], Equals("1\n"))
    assert_that(outputs[1], Equals("1\n"), "it must not fail, nor share")


def test_what_a_killed_process_left_is_swept_after_a_day(station: Station) -> None:
    station.state.mkdir(mode=0o700)
    old, young = station.state / ("0" * 64 + ".0"), station.state / ("1" * 64 + ".0")
    for path in (old, young):
        path.write_text("left")
    os.utime(old, (1, 1))
    station.start()
    station.check(0)
    assert_that([path.name[0] for path in station.state.iterdir()], Equals(["1"]))


def test_the_bytes_that_are_missing_are_read_by_one_when_the_first_is_killed(
    station: Station,
) -> None:
    station.start()
    station.wait_for_part(0, 2 * MIB)
    for _ in range(3):
        station.start()
    for number in (1, 2, 3):
        station.wait_for_part(number, 2 * MIB)
    before = station.narrow.sent
    station.processes[0].send_signal(signal.SIGKILL)
    for number in (1, 2, 3):
        station.check(number)
    assert_that(station.narrow.sent - before, GreaterThan(0))
    assert_that(station.narrow.sent, LessThan(int(2.2 * len(DATA))))
