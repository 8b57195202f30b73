"""Servers that list images for ever: each list ends, soon, with little memory, and says why."""

from __future__ import annotations

import itertools
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan

import imagebroker
from imagebroker.exceptions import ImageBrokerError, TooLarge, TransferError
from tests.cli.conftest import Shell
from tests.plugins import hostile_sftp
from tests.plugins.glance_stub import Request, Stub, answer, caller, json_answer, record
from tests.servers.openstack import OpenStack
from tests.servers.sshd import Sshd

MakeBroker = Callable[[str], imagebroker.Broker]
CORE = "[imagebroker]\nenabled_schemes = {0}\ndefault_backend = {0}\nlist_max_records = 1000\n"


def taken(images: Iterator[Any]) -> tuple[int, ImageBrokerError]:
    """How many came, and what ended them."""
    count = 0
    with pytest.raises(ImageBrokerError) as caught:
        for _ in images:
            count += 1
    return count, caught.value


# Glance


def some_page(index: int, size: int = 100, **fields: Any) -> dict[str, Any]:
    images = [
        {**record(), "id": str(uuid.UUID(int=index * 1000 + n)), **fields} for n in range(size)
    ]
    return {"images": images, "next": f"/v2/images?marker={uuid.UUID(int=index)}"}


def glance(stub: Stub, core: str = "") -> str:
    return (
        f"{CORE.format('glance')}{core}\n[backend:glance]\nendpoint = {stub.endpoint}\n"
        "allowed_networks = 127.0.0.0/8\nauth_type = admin_token\ntoken = a-token\n"
    )


PAGES: dict[str, tuple[Callable[[int], dict[str, Any]], type[ImageBrokerError], int]] = {
    "fresh for ever": (some_page, TooLarge, 1000),
    "the same for ever": (lambda index: some_page(1), TransferError, 100),
    "two in turns": (lambda index: some_page(index % 2), TransferError, 200),
    "empty and never the last": (lambda index: some_page(index, 0), TransferError, 0),
    "huge names": (lambda index: some_page(index, 20, name="x" * 250_000), TooLarge, 10),
}


@pytest.mark.promise("security-33")
@pytest.mark.parametrize("kind", PAGES)
def test_pages_of_glance_without_end(make_broker: MakeBroker, kind: str) -> None:
    page, error, least = PAGES[kind]
    numbers = itertools.count(1)

    def answering(request: Request, connection: Any) -> bytes:
        return json_answer(page(next(numbers)))

    with Stub(answering) as stub:
        broker = make_broker(glance(stub, "list_max_size = 3M"))
        count, caught = taken(broker.get_all(None))
    assert_that((type(caught), least <= count < least + 10), Equals((error, True)))


def test_one_record_of_100_mb_is_not_read_into_memory(make_broker: MakeBroker) -> None:
    import resource

    body = json.dumps(some_page(1, 1, name="x" * 100_000_000)).encode()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def answering(request: Request, connection: Any) -> bytes:
        return answer(200, body, "Content-Type: application/json")

    with Stub(answering) as stub:
        count, caught = taken(make_broker(glance(stub)).get_all(None))
    assert_that((count, type(caught)), Equals((0, TransferError)))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_that(after - before, LessThan(250_000))  # KiB; the server's own copies are in here


def test_the_command_shows_what_came_and_says_that_it_is_not_all(shell: Shell) -> None:
    numbers = itertools.count(1)

    def answering(request: Request, connection: Any) -> bytes:
        return json_answer(some_page(next(numbers)))

    with Stub(answering) as stub:
        shell.config(glance(stub))
        done = shell.run("list", "-f", "value", "-c", "id")
    assert_that((done.status, len(done.stdout.splitlines())), Equals((4, 1000)))
    assert_that(done.stderr, Contains("list_max_records"))


def test_the_drop_in_for_nova_raises_too_and_again(make_broker: MakeBroker) -> None:
    from imagebroker.compat.nova import API

    numbers = itertools.count(1)

    def answering(request: Request, connection: Any) -> bytes:
        return json_answer(some_page(next(numbers)))

    with Stub(answering) as stub:
        images = API(make_broker(glance(stub))).get_all(caller())
        for _ in range(2):  # a list that broke off does not pass for a short one
            with pytest.raises(Exception, match="1000"):
                len(images)


def test_purge_of_a_glance_without_end(make_broker: MakeBroker) -> None:
    numbers = itertools.count(1)

    def answering(request: Request, connection: Any) -> bytes:
        return json_answer(some_page(next(numbers), status="queued"))

    with Stub(answering) as stub:
        broker = make_broker(glance(stub))
        with pytest.raises(TooLarge):
            broker.purge(None, older_than=0, dry_run=True)


def test_the_real_glance_lists_up_to_the_limit(
    openstack: OpenStack, make_broker: MakeBroker
) -> None:
    tag = uuid.uuid4().hex
    for _ in range(4):
        openstack.create_image(b"x", tags=[tag])
    options = "\n".join(f"{name} = {v}" for name, v in openstack.auth_options("red").items())
    for most, complete in ((3, False), (4, True)):
        broker = make_broker(
            f"[imagebroker]\nenabled_schemes = glance\nlist_max_records = {most}\n"
            f"[backend:glance]\n{options}\nallowed_networks = 127.0.0.0/8\n"
        )
        images = broker.get_all(None, backend="glance", filters={"tag": tag}, page_size=2)
        if complete:
            assert_that(len(list(images)), Equals(4))
        else:
            count, caught = taken(images)
            assert_that((count, type(caught)), Equals((3, TooLarge)))
            assert_that(caught.where, Contains("list_max_records"))


# SFTP


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sshd, Path]]:
    scenario = tmp_path_factory.mktemp("scenario") / "scenario.json"
    program = f"{sys.executable} -S -E {hostile_sftp.__file__} {scenario}"
    with Sshd(sftp=False, settings=[f"Subsystem sftp {program}"]) as server:
        yield server, scenario


def scp(sshd: Sshd, folder: str) -> str:
    return (
        f"{CORE.format('scp')}[backend:scp]\nendpoint = {sshd.url(folder)}/\n"
        f"allowed_networks = 127.0.0.0/8\nallowed_ports = {sshd.port}\n"
        f"identity_file = {sshd.key}\nknown_hosts = {sshd.known_hosts}\n"
    )


@pytest.mark.promise("security-33")
@pytest.mark.parametrize(
    ("kind", "mode", "error"),
    [
        ("dots", 0o100644, TransferError),
        ("fresh", 0o100644, TooLarge),
        ("same", 0o100644, TooLarge),
        ("long", 0o100644, TooLarge),
        ("folders", 0o040755, TooLarge),
    ],
)
def test_a_directory_without_end(
    hostile: tuple[Sshd, Path],
    make_broker: MakeBroker,
    kind: str,
    mode: int,
    error: type[ImageBrokerError],
) -> None:
    sshd, scenario = hostile
    scenario.write_text(json.dumps({"listing": kind, "mode": mode}))
    _, caught = taken(make_broker(scp(sshd, "/folder")).get_all(None))
    assert_that(isinstance(caught, error), Is(True))


def test_one_name_that_no_file_can_have_costs_itself_only(
    hostile: tuple[Sshd, Path], make_broker: MakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    sshd, scenario = hostile
    scenario.write_text(json.dumps({"listing": "one long", "parts": 3}))
    images = list(make_broker(scp(sshd, "/folder")).get_all(None))
    assert_that(sorted(str(each.name) for each in images), Equals(["file-1", "file-3"]))
    assert_that(caplog.text, Contains("250000 bytes"))


def test_the_real_sshd_lists_up_to_the_limit(
    sshd: Sshd, make_broker: MakeBroker, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        (folder / f"image-{number}").touch()
    config = scp(sshd, str(folder))
    many = make_broker(config.replace("list_max_records = 1000", "list_max_records = 50"))
    assert_that(len(list(many.get_all(None))), Equals(5))
    few = make_broker(config.replace("list_max_records = 1000", "list_max_records = 4"))
    with pytest.raises(TooLarge):
        list(few.get_all(None))
