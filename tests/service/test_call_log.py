"""The log tells of each call what was done, once, without secrets."""

from __future__ import annotations

import hashlib
import logging
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsDict, Equals, HasLength, MatchesRegex, Not

from imagebroker import ImageNotFound, TransferError
from tests.conftest import Scripted
from tests.servers.process import HOST

DATA = bytes(range(256)) * 1024
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def calls(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, str]]]:
    """The lines about calls at INFO: the verb, and its facts."""
    found = []
    for record in caplog.records:
        if record.name == "imagebroker.calls" and record.levelno == logging.INFO:
            verb, _, facts = record.getMessage().partition(": ")
            found.append((verb, dict(each.split("=", 1) for each in shlex.split(facts))))
    return found


@pytest.mark.promise("log-calls")
def test_a_download_tells_how_it_went(
    scripted: Scripted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref, script = scripted.image(DATA, version="1")
    script.breaks = [(100_000, TransferError("the cable was cut"))]
    scripted.broker.download(None, ref, tmp_path / "dest", checksum=f"sha256:{DIGEST}")
    [(verb, facts)] = calls(caplog)
    assert_that(verb, Equals("download"))
    expected = {
        "ref": ref, "backend": "scripted", "via": "backend", "attempts": "2", "retries": "1",
        "bytes": str(len(DATA)), "sha256": DIGEST, "outcome": "ok",
    }  # fmt: skip
    assert_that(facts, ContainsDict({key: Equals(value) for key, value in expected.items()}))
    assert_that(facts["seconds"], MatchesRegex(r"\d+\.\d{3}$"))
    assert_that(int(facts["resumed_from"]) > 0, Equals(True))
    assert_that(facts["verified"], Contains("sha256"))


@pytest.mark.promise("log-calls")
def test_every_retry_is_a_warning_with_its_reason(
    scripted: Scripted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref, script = scripted.image(DATA, version="1")
    script.breaks = [(100, TransferError("cut once")), (90_000, TransferError("cut twice"))]
    scripted.broker.download(None, ref, tmp_path / "dest")
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert_that(warnings, HasLength(2))
    assert_that(warnings[0], MatchesRegex("attempt 1 failed, trying again: .*cut once"))
    assert_that(warnings[1], MatchesRegex("attempt 2 failed, trying again: .*cut twice"))
    for each in warnings:
        assert_that(each, Contains(ref))


@pytest.mark.promise("log-calls")
@pytest.mark.parametrize(("asked", "waited"), [(30.0, "30 s"), (3600.0, "120 s")])
def test_a_long_wait_for_the_next_attempt_is_told_before_it_begins(
    scripted: Scripted,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    asked: float,
    waited: str,
) -> None:
    ref, script = scripted.image(DATA, version="1")
    script.breaks = [(100, TransferError("busy", retry_after=asked))]
    with pytest.raises(TransferError):
        scripted.broker.download(None, ref, tmp_path / "dest", deadline=0.5)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert_that(warnings[0], MatchesRegex(f"attempt 1 failed, trying again in {waited}: .*busy"))


@pytest.mark.promise("log-calls")
def test_a_call_that_fails_tells_the_error(
    scripted: Scripted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ImageNotFound):
        scripted.broker.download(None, "scripted://host/nothing", tmp_path / "dest")
    with pytest.raises(ImageNotFound):
        scripted.broker.get(None, "scripted://host/nothing")
    found = calls(caplog)
    assert_that([verb for verb, _ in found], Equals(["download", "get"]))
    for _, facts in found:
        assert_that(facts["outcome"], Equals("ImageNotFound"))
        assert_that(facts["error"], MatchesRegex(".+"))


@pytest.mark.promise("log-calls")
def test_what_only_looks_is_for_debugging(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    ref, _ = scripted.image(DATA)
    scripted.broker.get(None, ref)
    assert_that(calls(caplog), Equals([]))


@pytest.mark.promise("log-calls")
def test_a_reader_tells_when_it_is_closed(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    ref, _ = scripted.image(DATA)
    with scripted.broker.open(None, ref) as reader:
        reader.read()
        assert_that(calls(caplog), Equals([]))
    [(verb, facts)] = calls(caplog)
    assert_that((verb, facts["sha256"], facts["outcome"]), Equals(("read", DIGEST, "ok")))


@pytest.mark.promise("log-calls")
def test_changes_of_records_are_told_with_the_instance_and_the_ref(
    make_broker: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = file\n"
        f"[backend:file:west]\nstore_dir = {tmp_path}/store\n"
    )
    image = broker.create(None, {"name": "one"}, DATA, backend="file:west")
    broker.update(None, image.ref, {"name": "two"})
    broker.delete(None, image.ref)
    found = calls(caplog)
    assert_that([verb for verb, _ in found], Equals(["create", "update", "delete"]))
    for _, facts in found:
        assert_that(
            (facts["ref"], facts["backend"], facts["instance"]), Equals((image.ref, "file", "west"))
        )
    assert_that(found[0][1]["bytes"], Equals(str(len(DATA))))


@pytest.mark.promise("log-calls")
def test_a_copy_from_the_cache_says_so(
    make_broker: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker(
        f"[imagebroker]\nenabled_schemes = file\ncache_dir = {tmp_path}/cache\n"
        f"[backend:file]\nstore_dir = {tmp_path}/store\n"
    )
    ref = broker.create(None, {"name": "one"}, DATA).ref
    broker.load(None, ref)
    done = broker.download(None, ref, tmp_path / "dest")
    assert_that([done.via, *(f.get("via") for _, f in calls(caplog))],
                Equals(["cache", None, "backend", "cache"]))  # fmt: skip


@pytest.mark.promise("log-calls")
def test_no_secret_of_a_ref_is_told(
    make_broker: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http\nretries = 0\n"
        f"[backend:http]\nallowed_networks = {HOST}\n"
    )
    with socket.socket() as holder:  # bound, but nobody listens
        holder.bind((HOST, 0))
        url = f"http://{HOST}:{holder.getsockname()[1]}/x"
        with pytest.raises(TransferError):
            broker.download(None, f"{url}?X-Amz-Signature=0123456789abcdef", tmp_path / "d")
    assert_that(caplog.text, Not(Contains("0123456789abcdef")))
    assert_that(calls(caplog)[0][1]["ref"], Equals(f"{url}?***"))
