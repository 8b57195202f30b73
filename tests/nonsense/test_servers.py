"""Servers that say nonsense, over Glance, Keystone, http and SFTP: it is their fault, and is bounded.

No error says "bug of the plugin", none is a traceback, and one bad record of a list costs itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan, Not

import imagebroker
from imagebroker.exceptions import ImageBrokerError, MalformedAnswer, TransferError
from tests.bounds import HANGS
from tests.plugins import hostile_sftp
from tests.plugins.glance_stub import ID, OneImage, Stub, answer, json_answer, record
from tests.servers.sshd import Sshd

MakeBroker = Callable[[str], imagebroker.Broker]
GOOD = [str(uuid.UUID(int=number)) for number in (1, 2)]


def glance(stub: Stub) -> str:
    return (
        "[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\nretries = 0\n"
        f"[backend:glance]\nendpoint = {stub.endpoint}\nallowed_networks = 127.0.0.0/8\n"
        "auth_type = admin_token\ntoken = a-token\n"
    )


def check_blame(error: ImageBrokerError) -> None:
    """The server has the blame, in few words."""
    assert_that(str(error) + error.hint, Not(Contains("bug")))
    assert_that((len(str(error)) < 1200, bool(error.hint)), Equals((True, True)))


HUGE = 10**400
#: Fields of a record of Glance, each with values that make no sense.
RECORDS: dict[str, list[Any]] = {
    "size": [HUGE, -1, 2**63, "5", True, [], 1e300],
    "virtual_size": [HUGE, -1, {}],
    "min_disk": [HUGE, "5"],
    "min_ram": [-5, False],
    "name": [5, {}, []],
    "status": [["active"], 1],
    "visibility": [7],
    "owner": [HUGE],
    "os_hidden": ["no", 0],
    "protected": ["false"],
    "tags": ["a", [1], {}, [["a"]]],
    "disk_format": [1],
    "container_format": [["bare"]],
    "checksum": [5, {}],
    "os_hash_algo": [5, []],
    "os_hash_value": [5, {}],
    "stores": [["fast"], 5],
}
#: Those that change nothing: they are unknown.
HARMLESS: dict[str, list[Any]] = {
    "created_at": ["10000-01-01T00:00:00Z", "-1", 5, {}, "9999-12-31T23:59:59-23:59"],
    "updated_at": ["0000-00-00", HUGE],
    "deleted_at": [[]],
    "locations": [5, ["x"], [{"url": {}}], {}],
    "direct_url": [7],
    "members": [5],
}


@pytest.mark.promise("security-33")
@pytest.mark.parametrize("field", [*RECORDS, *HARMLESS])
def test_a_record_of_glance(
    make_broker: MakeBroker, field: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    one = OneImage()
    listed: list[Any] = []

    def answering(request: Any, connection: Any) -> bytes | None:
        if request.path == "/v2/images":
            return json_answer({"images": listed})
        return one(request, connection)

    with Stub(answering) as stub:
        broker = make_broker(glance(stub))
        for value in [*RECORDS.get(field, ()), *HARMLESS.get(field, ())]:
            one.record = record(**{field: value})
            good = [{**record(), "id": each} for each in GOOD]
            listed[:] = [good[0], one.record, good[1]]
            caplog.clear()
            images = [each.id for each in broker.get_all(None)]
            if field in HARMLESS:
                assert_that(images, Equals([GOOD[0], ID, GOOD[1]]))
                broker.get(None, ID)
                continue
            assert_that(images, Equals(GOOD))
            assert_that(caplog.text, Contains(ID))
            for call in (
                lambda: broker.get(None, ID),
                lambda: broker.download(None, ID, tmp_path / "image"),
                lambda: broker.update(None, ID, {"name": "x"}),
            ):
                with pytest.raises(MalformedAnswer) as caught:
                    call()
                check_blame(caught.value)


@pytest.mark.parametrize(
    "listed",
    [None, 5, "record", [], {}, {"id": 5}, {"id": "not a UUID"}, {"id": HUGE}],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_record_of_glance_at_all(make_broker: MakeBroker, listed: Any) -> None:
    good = [{**record(), "id": each} for each in GOOD]

    def answering(request: Any, connection: Any) -> bytes:
        return json_answer({"images": [good[0], listed, good[1]]})

    with Stub(answering) as stub:
        images = [each.id for each in make_broker(glance(stub)).get_all(None)]
    assert_that(images, Equals(GOOD))


@pytest.mark.parametrize(
    "following",
    ["http://[bad", "http://h:99999999/?marker=x", 5, {}, ["a"], True, "?" + "a=b&" * 1000],
)
def test_a_link_to_the_next_page(make_broker: MakeBroker, following: Any) -> None:
    """The next page begins behind the last image that came."""

    def answering(request: Any, connection: Any) -> bytes:
        if dict(request.query).get("marker") == GOOD[0]:
            return json_answer({"images": [{**record(), "id": GOOD[1]}]})
        return json_answer({"images": [{**record(), "id": GOOD[0]}], "next": following})

    with Stub(answering) as stub:
        images = [each.id for each in make_broker(glance(stub)).get_all(None)]
    assert_that(images, Equals(GOOD))


@pytest.mark.parametrize(
    "members", [5, "a", [5], [{"member_id": ["a"]}], [{"member_id": HUGE}], {}]
)
def test_the_members_of_an_image(make_broker: MakeBroker, members: Any) -> None:
    one = OneImage()

    def answering(request: Any, connection: Any) -> bytes | None:
        if request.path.endswith("/members"):
            return json_answer({"members": members})
        return one(request, connection)

    with Stub(answering) as stub:
        broker = make_broker(glance(stub))
        try:
            broker.update(None, ID, {"members": ["red"]})
        except ImageBrokerError as error:
            check_blame(error)


# Keystone

#: Asks for a token, and says what that took; a process of its own, for its memory.
KEYSTONE = """
import sys, imagebroker
with imagebroker.Broker.from_config(sys.argv[1]) as broker:
    try:
        broker.get(None, "3f2504e0-4f89-41d3-9a0c-0305e82c3301")
    except imagebroker.ImageBrokerError as error:
        # Not ru_maxrss: that begins with what the process had before it became this program.
        [peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
        print(type(error).__name__, peak)
        print(error, error.hint)
"""
TOKEN = {
    "token": {
        "expires_at": "2030-01-01T00:00:00Z", "issued_at": "2020-01-01T00:00:00Z", "catalog": [],
        "methods": ["password"], "user": {"id": "u", "name": "u", "domain": {"id": "d"}},
    }
}  # fmt: skip


def token(**changes: Any) -> bytes:
    return json.dumps({"token": TOKEN["token"] | changes}).encode()


ANSWERS: dict[str, bytes] = {
    "8 MiB of lists": b'{"token": {"catalog": [' + b"[]," * 2_700_000 + b"[]]}}",
    "8 MiB of text": b'{"token": {"catalog": "' + b"x" * 8_300_000 + b'"}}',
    "nothing": b"",
    "a page": b"<html>login</html>",
    "deep": b'{"token":' * 100_000,
    "a number of 5000 digits": b'{"token": ' + b"9" * 5000 + b"}",
    "a year": token(expires_at="10000-01-01T00:00:00Z"),
    "a number for a time": token(expires_at=HUGE),
    "a list for the token": b'{"token": [1]}',
    "a catalogue of numbers": token(catalog=[1, 2]),
    "a catalogue that is text": token(catalog="x"),
    "an endpoint with a port": token(
        catalog=[{"type": "image", "name": "g", "endpoints": [
            {"interface": "public", "url": "http://[bad:1/", "region": "r"}]}]
    ),
    "an endpoint that is a list": token(
        catalog=[{"type": "image", "name": "g", "endpoints": [
            {"interface": "public", "url": ["x"], "region": "r"}]}]
    ),
}  # fmt: skip


@pytest.mark.promise("security-33")
@pytest.mark.parametrize("kind", ANSWERS)
def test_what_keystone_answers(kind: str, tmp_path: Path) -> None:
    def answering(request: Any, connection: Any) -> bytes:
        return answer(201, ANSWERS[kind], "Content-Type: application/json", "X-Subject-Token: abc")

    with Stub(answering) as stub:
        config = tmp_path / "config"
        config.write_text(
            "[imagebroker]\nenabled_schemes = glance\n[backend:glance]\n"
            f"auth_type = v3password\nauth_url = {stub.url}/v3\nusername = u\npassword = p\n"
            "user_domain_name = d\nproject_name = p\nproject_domain_name = d\n"
            "allowed_networks = 127.0.0.0/8\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", KEYSTONE, config],
            check=True, capture_output=True, text=True, timeout=HANGS,
        )  # fmt: skip
    assert_that(done.stderr, Equals(""))
    assert_that(done.stdout, Not(Contains("bug")))
    assert_that(int(done.stdout.split()[1]), LessThan(110_000))  # KiB


# http

HEADS: dict[str, tuple[int, list[str]]] = {
    "a length of 400 digits": (200, [f"Content-Length: {HUGE}"]),
    "a negative length": (200, ["Content-Length: -5"]),
    "a length that is no number": (200, ["Content-Length: nan"]),
    "a range of 400 digits": (206, [f"Content-Range: bytes 0-{HUGE}/{HUGE}", "Content-Length: 1"]),
    "a time that no calendar has": (
        200, ["Last-Modified: Fri, 31 Dec 10000 23:59:59 GMT", "Content-Length: 1"],
    ),
    "a wish for the year 10000": (503, ["Retry-After: Fri, 31 Dec 10000 23:59:59 GMT"]),
    "a wish of 400 digits": (503, [f"Retry-After: {HUGE}"]),
    "a wish before all times": (429, ["Retry-After: -1"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_of_an_answer_over_http(
    make_broker: MakeBroker, kind: str, tmp_path: Path
) -> None:
    status, headers = HEADS[kind]

    def answering(request: Any, connection: Any) -> bytes:
        return answer(status, b"", *headers, length=False) + b"x"

    with Stub(answering) as stub:
        broker = make_broker(
            "[imagebroker]\nenabled_schemes = http\nretries = 0\n"
            "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
        )
        try:
            broker.download(None, f"{stub.url}/image", tmp_path / "image")
        except ImageBrokerError as error:
            check_blame(error)
            assert_that((error.retry_after or 0) <= 86400, Is(True))
            assert_that((tmp_path / "image").exists(), Is(False))
        else:
            assert_that(kind, Equals("a time that no calendar has"))


# SFTP


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sshd, Path]]:
    scenario = tmp_path_factory.mktemp("scenario") / "scenario.json"
    program = f"{sys.executable} -S -E {hostile_sftp.__file__} {scenario}"
    with Sshd(sftp=False, settings=[f"Subsystem sftp {program}"]) as server:
        yield server, scenario


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_the_attributes_of_files_over_sftp(
    hostile: tuple[Sshd, Path],
    make_broker: MakeBroker,
    size: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sshd, scenario = hostile
    scenario.write_text(
        json.dumps({"listing": "fresh", "parts": 3, "size": 5, "sizes": {"2": size}})
    )
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = scp\ndefault_backend = scp\nretries = 0\n"
        f"[backend:scp]\nendpoint = {sshd.url('/folder')}/\nallowed_networks = 127.0.0.0/8\n"
        f"allowed_ports = {sshd.port}\nidentity_file = {sshd.key}\n"
        f"known_hosts = {sshd.known_hosts}\n"
    )
    images = sorted(str(each.name) for each in broker.get_all(None))
    assert_that(images, Equals(["file-1", "file-3"]))
    assert_that(caplog.text, Contains("file-2"))
    scenario.write_text(json.dumps({"size": size}))
    with pytest.raises(TransferError) as caught:
        broker.download(None, f"{sshd.url('/folder')}/image", tmp_path / "image")
    check_blame(caught.value)
