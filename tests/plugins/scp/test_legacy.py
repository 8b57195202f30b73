"""The scp backend where a server has no SFTP: the old scp protocol, if the deployer wants it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from imagebroker_scp.legacy import command_for
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan, Not

import imagebroker
from imagebroker.model.reference import parse
from imagebroker.plugin import (
    ConfigError,
    ImageBrokerError,
    ImageNotFound,
    NotAuthorized,
    PolicyViolation,
    RangeIgnored,
    TransferError,
    TransferTimeout,
)
from tests.bounds import in_time
from tests.plugins import ssh_peer
from tests.plugins.scp_peers import STALL, fetched, make_backend, opened, ssh_threads
from tests.servers.images import random_file
from tests.servers.sshd import Sshd

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def old_sshd() -> Iterator[Sshd]:
    """A real sshd without SFTP, whose users may run scp."""
    with Sshd(sftp=False, settings=["LogLevel DEBUG1"]) as server:
        yield server


@contextmanager
def old_peer(folder: Path, *turns: bytes, **how: Any) -> Iterator[tuple[type, str, dict[str, Any]]]:
    """An scp of our own: its class, its URL, and the options that make it known."""
    kind = type("Scripted", (ssh_peer.OldScp,), {"turns": turns, "commands": [], **how})
    with ssh_peer.ssh_server(kind, folder) as (url, known):
        yield kind, url, {**known, "legacy_scp": True}


def answered(sshd: Sshd, folder: Path, *turns: bytes, stall: float = 10, **how: Any) -> bytes:
    """What is made of an scp that takes these turns."""
    with old_peer(folder, *turns, **how) as (_, url, options):
        backend = make_backend(stall=stall, identity_file=str(sshd.key), **options)
        return fetched(f"{url}/images/x.raw", backend)


# OpenSSH's own scp


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 17])
def test_a_file_comes_from_openssh_without_sftp(old_sshd: Sshd, tmp_path: Path, size: int) -> None:
    image = random_file(tmp_path / "image", size)
    with opened(old_sshd.url(image), make_backend(old_sshd, legacy_scp=True)) as source:
        assert_that(source.image.size, Equals(size))
        assert_that(source.image.version, Is(None))
        assert_that(source.seekable, Is(False))
        data = b"".join(map(bytes, source.read()))
        again = b"".join(map(bytes, source.read()))
        start = b"".join(map(bytes, source.read(0, size // 2)))
    assert_that(data == image.read_bytes(), Is(True))
    assert_that(again == data, Is(True))
    assert_that(start == data[: size // 2], Is(True))
    assert_that(ssh_threads(), Equals([]))


def test_the_broker_downloads_with_the_scp_protocol(
    make_broker: Callable[..., imagebroker.Broker], old_sshd: Sshd, tmp_path: Path
) -> None:
    image = random_file(tmp_path / "image", MIB)
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = scp\n[backend:scp]\nallowed_networks = 127.0.0.0/8\n"
        f"known_hosts = {old_sshd.known_hosts}\nidentity_file = {old_sshd.key}\n"
        "legacy_scp = true\n"
    )
    broker.download(None, old_sshd.url(image), tmp_path / "copy")
    assert_that((tmp_path / "copy").read_bytes() == image.read_bytes(), Is(True))


@pytest.mark.promise("security-24")
def test_no_command_is_run_unless_the_deployer_enabled_it(old_sshd: Sshd, tmp_path: Path) -> None:
    image = random_file(tmp_path / "image", 1)
    log = old_sshd.log.stat().st_size
    with pytest.raises(TransferError):
        fetched(old_sshd.url(image), make_backend(old_sshd))
    assert_that(old_sshd.log.read_text()[log:], Not(Contains("req exec")))


def test_sftp_is_used_where_there_is_any(sshd: Sshd, tmp_path: Path) -> None:
    image = random_file(tmp_path / "it's", 1)
    with opened(
        sshd.url("") + str(image).replace("'", "%27"), make_backend(sshd, legacy_scp=True)
    ) as source:
        assert_that(source.seekable, Is(True))


@pytest.mark.parametrize(
    ("kind", "error"),
    [("missing", ImageNotFound), ("directory", PolicyViolation), ("fifo", PolicyViolation),
     ("device", PolicyViolation), ("dangling", ImageNotFound)],
)  # fmt: skip
def test_what_openssh_refuses_is_an_error_of_the_right_kind(
    old_sshd: Sshd, tmp_path: Path, kind: str, error: type[ImageBrokerError]
) -> None:
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    with pytest.raises(error) as caught:
        fetched(old_sshd.url(path), make_backend(old_sshd, legacy_scp=True))
    assert_that(caught.value.hint, Not(Equals("")))


def escaped(path: Path) -> str:
    return "".join(chr(b) if b == 0x2F else f"%{b:02X}" for b in os.fsencode(path))


@pytest.mark.promise("security-24")
@pytest.mark.parametrize("name", ["it's", "$(touch marker)", "`touch marker`;touch marker"])
def test_a_path_that_a_shell_could_interpret_is_refused_and_nothing_is_run(
    old_sshd: Sshd, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    log = old_sshd.log.stat().st_size
    url = old_sshd.url("") + escaped(tmp_path / name)
    with pytest.raises(PolicyViolation) as caught:
        fetched(url, make_backend(old_sshd, legacy_scp=True))
    assert_that(caught.value.hint, Contains("rename"))
    assert_that(old_sshd.log.read_text()[log:], Not(Contains("req exec")))
    assert_that(os.listdir(tmp_path), Equals([name]))


@pytest.mark.promise("security-24")
@pytest.mark.parametrize("character", [*"'\"`$ *?~;|&><(){}[]\\!#%^=,@:\t\x1b\x7fé"])
def test_no_character_that_means_something_to_some_shell_gets_to_a_command(
    character: str,
) -> None:
    for path in (f"/images/{character}", f"/{character}x/y", f"/x{character}"):
        with pytest.raises(PolicyViolation):
            command_for(parse("scp://u@h" + escaped(Path(path))))
    assert_that(command_for(parse("scp://u@h/Ab9/_.x/+y/-f-")), Equals(b"scp -f /Ab9/_.x/+y/-f-"))


def test_beneath_an_endpoint_it_is_refused_because_links_cannot_be_seen() -> None:
    with pytest.raises(ConfigError):
        make_backend(legacy_scp=True, endpoint=["scp://u@h/x/"])


@pytest.mark.parametrize("start", [1, 100])
def test_it_cannot_begin_in_the_middle(old_sshd: Sshd, tmp_path: Path, start: int) -> None:
    image = random_file(tmp_path / "image", 100)
    with opened(old_sshd.url(image), make_backend(old_sshd, legacy_scp=True)) as source:
        with pytest.raises(RangeIgnored):
            next(source.read(start))


def test_closing_ends_it_for_good(old_sshd: Sshd, tmp_path: Path) -> None:
    image = random_file(tmp_path / "image", 20 * MIB)
    with opened(old_sshd.url(image), make_backend(old_sshd, legacy_scp=True)) as source:
        reading = source.read()
        next(reading)
        source.close()
        with pytest.raises(TransferError):
            for _ in reading:
                pass
        with pytest.raises(TransferError):
            next(source.read())
    assert_that(ssh_threads(), Equals([]))


# An scp that lies


def test_what_is_run_is_scp_with_the_path_and_nothing_else(sshd: Sshd, tmp_path: Path) -> None:
    with old_peer(tmp_path, b"C0644 2 x\n", b"ab\0") as (kind, url, options):
        backend = make_backend(identity_file=str(sshd.key), **options)
        assert_that(fetched(f"{url}/images/x.raw", backend), Equals(b"ab"))
    assert_that(kind.commands, Equals([b"scp -f /images/x.raw"]))  # type: ignore[attr-defined]


@pytest.mark.promise("security-23")
@pytest.mark.parametrize(
    "name",
    [b"../x", b"/etc/passwd", b"", b".", b"..", b"x" * 1_000_000, b"\x1b[31m", b"\xff\0", b"a b"],
    ids=lambda name: repr(name[:12]),
)
def test_the_name_and_the_mode_that_a_server_sends_are_ignored(
    sshd: Sshd, tmp_path: Path, name: bytes
) -> None:
    data = answered(sshd, tmp_path, b"C6755 2 %s\n" % name, b"ab\0")
    assert_that(data, Equals(b"ab"))


@pytest.mark.promise("security-23")
@pytest.mark.parametrize(
    "record",
    [
        b"D0755 0 x\n", b"E\n", b"T1700000000 0 1700000000 0\n", b"garbage\n", b"\n", b"\0",
        b"C0644 -1 x\n", b"C0644 18446744073709551616 x\n", b"C0644 9223372036854775808 x\n",
        b"C0644 abc x\n", b"C0644  x\n", b"C0644 2\n", b"C 2 x\n", b"C0644 +2 x\n", b"C0644 2x\n",
        b"C0999 2 x\n", b"C06440 2 x\n", b"C0644 2 x", b"C0644 1_0 x\n", b" C0644 2 x\n",
        b"C0644 2 new\nline\n", b"C0644 2 x" + b"y" * 10_000_000, b"Welcome!\nC0644 2 x\n",
        "C0644 ٢ x\n".encode(),
    ],
    ids=lambda record: repr(record[:24]),
)  # fmt: skip
def test_anything_but_one_record_of_a_file_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path, record: bytes
) -> None:
    with pytest.raises(TransferError) as caught:
        answered(sshd, tmp_path, record, b"ab\0", stall=STALL)
    assert_that(str(caught.value).isprintable(), Is(True))
    assert_that(len(str(caught.value)), LessThan(600))
    assert_that(caught.value.hint, Not(Equals("")))
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.promise("security-23")
@pytest.mark.parametrize(
    "turn",
    [
        b"ab", b"a", b"", b"abc\0", b"ab\1it broke\n", b"ab\2it broke\n", b"ab\1", b"abX",
        b"ab\0C0644 2 y\ncd\0", b"ab\0\0", b"ab\0E\n", b"ab\0T1 0 1 0\n",
    ],
    ids=repr,
)  # fmt: skip
def test_more_or_less_than_the_file_and_its_status_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path, turn: bytes
) -> None:
    with pytest.raises(TransferError):
        answered(sshd, tmp_path, b"C0644 2 x\n", turn, stall=STALL)


@pytest.mark.parametrize("status", [1, 127, None, "TERM"])
@pytest.mark.parametrize(
    "turns", [(), (b"C0644 2 x\n", b"ab\0")], ids=["no record", "a whole file"]
)
def test_a_command_that_fails_is_never_a_success(
    sshd: Sshd, tmp_path: Path, turns: tuple[bytes, ...], status: int | str | None
) -> None:
    with pytest.raises(TransferError):
        answered(sshd, tmp_path, *turns, status=status)


def test_a_command_that_succeeds_without_a_record_is_no_success(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="before the record of a file"):
        answered(sshd, tmp_path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"scp: /x: No such file or directory", ImageNotFound),
        (b"scp: /x: Permission denied", NotAuthorized),
        (b"scp: /x: not a regular file", PolicyViolation),
        (b"\x1b[31mred\r " + b"long " * 100_000, TransferError),
    ],
    ids=["missing", "denied", "irregular", "nasty"],
)
@pytest.mark.parametrize("kind", [b"\1", b"\2"], ids=["warning", "fatal"])
def test_what_scp_complains_of_is_an_error_on_one_short_line(
    sshd: Sshd, tmp_path: Path, kind: bytes, text: bytes, error: type[ImageBrokerError]
) -> None:
    with pytest.raises(error) as caught:
        answered(sshd, tmp_path, kind + text + b"\n", status=1)
    assert_that(str(caught.value).isprintable(), Is(True))
    assert_that(len(str(caught.value)), LessThan(600))


def test_what_is_written_to_the_standard_error_is_told_in_short(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="command not found") as caught:
        answered(sshd, tmp_path, complaint=b"sh: scp:\x1b[31m command not found\n", status=127)
    assert_that(str(caught.value).isprintable(), Is(True))


def test_an_endless_standard_error_ends_the_transfer(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="wrote too much to standard error") as caught:
        answered(sshd, tmp_path, complaint=b"blah " * 20_000_000)
    assert_that(len(str(caught.value)), LessThan(600))
    assert_that(ssh_threads(), Equals([]))


def test_a_server_that_runs_no_commands_either_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path
) -> None:
    with pytest.raises(TransferError) as caught:
        answered(sshd, tmp_path, runs_commands=False)
    assert_that(caught.value.retryable, Is(False))


@pytest.mark.parametrize("place", [0, 1])
def test_an_scp_that_stalls_ends_within_the_limit(sshd: Sshd, tmp_path: Path, place: int) -> None:
    began = time.monotonic()
    with pytest.raises(TransferTimeout):
        answered(sshd, tmp_path, b"C0644 2 x\n", b"ab\0", stall_at=place, stall=STALL)
    assert_that(time.monotonic() - began, in_time(STALL + 1))
    assert_that(ssh_threads(), Equals([]))
