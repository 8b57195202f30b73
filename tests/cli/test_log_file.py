"""`--log-file`: what a service's log says of a run, and what it leaves out."""

from __future__ import annotations

import socket
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesRegex, Not

from tests.cli.conftest import Inside
from tests.servers.process import HOST


def lines(path: Path) -> list[str]:
    """The lines, without their time."""
    return [line.partition("] ")[2] for line in path.read_text().splitlines()]


def stored(imagebroker: Inside) -> str:
    (imagebroker.work / "disk.raw").write_bytes(bytes(range(256)) * 40)
    done = imagebroker("create", "--file", "disk.raw", "-f", "json")
    ref: str = done.record["ref"]
    return ref


def test_a_download_is_one_line(imagebroker: Inside, tmp_path: Path) -> None:
    ref = stored(imagebroker)
    imagebroker("--log-file", str(tmp_path / "log"), "download", ref, "dest")
    [line] = lines(tmp_path / "log")
    assert_that(line, MatchesRegex(rf"INFO +imagebroker\.calls download: ref={ref} .*outcome=ok$"))


def test_libraries_are_in_it_for_debugging_only(imagebroker: Inside, tmp_path: Path) -> None:
    ref = stored(imagebroker)
    for options in (["--debug"], ["-vv"]):
        log = tmp_path / options[0].strip("-")
        imagebroker("--log-file", str(log), *options, "download", ref, "dest")
        assert_that(log.read_text(), MatchesRegex(r"(?s).*DEBUG +stevedore"))
    imagebroker("--log-file", str(tmp_path / "info"), "-v", "download", ref, "dest")
    assert_that((tmp_path / "info").read_text(), Not(Contains("stevedore")))


def test_the_error_that_ends_the_command_is_in_it(imagebroker: Inside, tmp_path: Path) -> None:
    """Also one that no backend was asked for: an unknown scheme, a config file with a mistake."""
    log = tmp_path / "log"
    done = imagebroker("--log-file", str(log), "download", "nfs://host/x", "dest")
    assert_that(lines(log)[-1], MatchesRegex(r"ERROR +imagebroker .*\[.+\]; hint: .+"))
    assert_that(done.status, Equals(7))
    imagebroker.config("[imagebroker]\nretries = many\n")
    imagebroker("--log-file", str(log), "download", "file:///x", "dest")
    assert_that(lines(log)[-1], MatchesRegex(r"ERROR +imagebroker .*retries.*"))


def test_a_call_that_no_backend_was_asked_for_is_one_line_too(
    imagebroker: Inside, tmp_path: Path
) -> None:
    refused = [
        ("nfs://host/x?token=secret", "SchemeNotEnabled"),
        ("file:///x/../y", "PolicyViolation"),
    ]
    for ref, outcome in refused:
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        imagebroker("--log-file", str(log), "download", ref, "dest")
        calls = [line for line in lines(log) if "imagebroker.calls" in line]
        assert_that(len(calls), Equals(1))
        assert_that(calls[0], Contains(f"download: ref={ref.partition(':')[0]}:"))
        assert_that(calls[0], Contains(f" outcome={outcome} "))
        assert_that(log.read_text(), Not(Contains("secret")))


def test_each_retry_is_in_it_with_its_reason(imagebroker: Inside, tmp_path: Path) -> None:
    imagebroker.config(
        "[imagebroker]\nenabled_schemes = http\nretries = 2\nretry_backoff = 0\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    log = tmp_path / "log"
    with socket.socket() as holder:  # bound, but nobody listens
        holder.bind((HOST, 0))
        url = f"http://{HOST}:{holder.getsockname()[1]}/x"
        imagebroker("--log-file", str(log), "download", url, "dest")
    found = [line for line in lines(log) if line.startswith("WARNING")]
    assert_that(len(found), Equals(2))
    for line in found:
        assert_that(line, Contains("trying again: "))
        assert_that(line, Contains("Connection refused"))


def test_a_log_file_that_cannot_be_written_is_an_error_like_any_other(
    imagebroker: Inside, tmp_path: Path
) -> None:
    done = imagebroker("--log-file", str(tmp_path / "missing" / "log"), "list")
    assert_that(done.status, Equals(9))
    assert_that(done.stderr, Contains("cannot write to the log file"))
    assert_that(done.stderr, Contains("[destination-error]"))
