"""Images that the real Glance fetches itself, and what is made of a Glance that fails at it."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, MatchesStructure

import imagebroker
from imagebroker.exceptions import (
    Cancelled,
    Conflict,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    TransferError,
    TransferTimeout,
    UnsupportedOperation,
    UploadFailed,
)
from tests.plugins.glance_stub import ID, Request, Stub, answer, caller, json_answer, record
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack

MakeBroker = Callable[[str], imagebroker.Broker]
SIZE = 5 * 1024 * 1024


@pytest.fixture
def broker(openstack: OpenStack, make_broker: MakeBroker, tmp_path: Path) -> imagebroker.Broker:
    """For the service itself, which is an admin."""
    options = "".join(
        f"{key} = {value}\n" for key, value in openstack.auth_options("admin").items()
    )
    return make_broker(
        "[imagebroker]\nenabled_schemes = glance, file\ndefault_backend = glance\n"
        f"[backend:glance]\nendpoint = {openstack.endpoint}/\n{options}"
        f"[backend:file]\nstore_dir = {tmp_path}/store\n"
    )


@pytest.fixture
def published(nginx: Nginx) -> tuple[str, bytes]:
    """A URL of a web server, and the bytes there."""
    name, data = f"import-{uuid.uuid4().hex}", os.urandom(SIZE)
    (nginx.root / name).write_bytes(data)
    return nginx.url(name), data


def queued(broker: imagebroker.Broker, **info: Any) -> str:
    info = {"name": "imported", "disk_format": "raw", "container_format": "bare", **info}
    return broker.create(None, info).ref


@pytest.mark.promise("glance-alone")
def test_glance_fetches_the_data_from_a_url(
    broker: imagebroker.Broker, published: tuple[str, bytes], tmp_path: Path
) -> None:
    url, data = published
    told: list[Any] = []
    image = broker.import_image(None, queued(broker), url=url, progress=told.append)
    assert_that(image, MatchesStructure.byEquality(status="active", size=SIZE, stores=("fast",)))
    broker.download(None, image.ref, tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == data, Is(True))
    assert_that(told[-1], MatchesStructure.byEquality(
        phase="done", done=SIZE, total=SIZE, location=url))  # fmt: skip
    counts = [each.done for each in told]
    assert_that(counts, Equals(sorted(counts)))
    assert_that([name for name in image.properties if name.startswith("os_glance")], Equals([]))


def test_the_data_goes_into_the_stores_that_are_named(
    broker: imagebroker.Broker, openstack: OpenStack, published: tuple[str, bytes]
) -> None:
    url, data = published
    image = broker.import_image(None, queued(broker), url=url, stores=["fast", "slow"])
    assert_that(sorted(image.stores or ()), Equals(["fast", "slow"]))
    for store in ("fast", "slow"):
        assert_that(openstack.stored_file(str(image.id), store).read_bytes() == data, Is(True))


@pytest.mark.promise("glance-alone")
def test_an_active_image_is_copied_into_another_store(
    broker: imagebroker.Broker, openstack: OpenStack
) -> None:
    data = os.urandom(SIZE)
    image = broker.create(None, {"name": "x", "disk_format": "raw"}, data)
    assert_that(image.stores, Equals(("fast",)))
    told: list[Any] = []
    image = broker.import_image(None, image.ref, stores=["slow"], progress=told.append)
    assert_that(sorted(image.stores or ()), Equals(["fast", "slow"]))
    assert_that(openstack.stored_file(str(image.id), "slow").read_bytes() == data, Is(True))
    assert_that(told[-1].total, Equals(SIZE))
    with pytest.raises(InvalidImageRef):  # it already exists
        broker.import_image(None, image.ref, stores=["slow"])


def test_an_imported_image_can_be_copied_and_changed(
    broker: imagebroker.Broker, published: tuple[str, bytes]
) -> None:
    """Glance leaves notes of its own in such a record; they are nobody's properties."""
    image = broker.import_image(None, queued(broker, properties={"mine": "1"}), url=published[0])
    assert_that(dict(image.properties), Equals({"mine": "1"}))
    for backend in ("glance", "file"):
        copied = broker.copy(None, image.ref, backend=backend)
        assert_that(copied.size, Equals(SIZE))
        assert_that(dict(copied.properties), Equals({"mine": "1"}))
    changed = broker.update(None, image.ref, {"properties": {"mine": "2"}}, purge_props=True)
    assert_that(dict(changed.properties), Equals({"mine": "2"}))


def test_data_that_cannot_be_fetched_leaves_the_image_queued(
    broker: imagebroker.Broker, nginx: Nginx
) -> None:
    ref = queued(broker)
    with pytest.raises(UploadFailed) as caught:
        broker.import_image(None, ref, url=nginx.url("not-there"))
    assert_that(caught.value.image_id, Equals(ref.removeprefix("glance:")))
    assert_that(str(caught.value), Contains("failed"))
    assert_that(broker.get(None, ref).status, Equals("queued"))
    broker.update(None, ref, {}, b"instead")
    assert_that(broker.get(None, ref).size, Equals(7))


def test_what_cannot_be_imported_is_said_at_once(
    broker: imagebroker.Broker, openstack: OpenStack, published: tuple[str, bytes]
) -> None:
    url, _ = published
    active = broker.create(None, {"disk_format": "raw"}, b"x").ref
    waiting = queued(broker)
    with pytest.raises(Conflict):
        broker.import_image(None, active, url=url)
    with pytest.raises(Conflict):
        broker.import_image(None, waiting, stores=["slow"])
    with pytest.raises((Conflict, InvalidImageRef)):
        broker.import_image(None, waiting, url=url, stores=["no-such-store"])
    with pytest.raises(ImageNotFound):
        broker.import_image(None, str(uuid.uuid4()), stores=["slow"])
    stored = broker.create(None, {"disk_format": "raw"}, b"x", backend="file").ref
    with pytest.raises(UnsupportedOperation):
        broker.import_image(None, stored, stores=["slow"])
    for wrong in ({}, {"url": "file:///etc/passwd"}, {"url": "http://u:p@h/x"}, {"url": "x"},
                  {"stores": "slow"}, {"stores": [""]}):  # fmt: skip
        with pytest.raises(imagebroker.ImageBrokerError):
            broker.import_image(None, waiting, **wrong)
    assert_that(broker.get(None, waiting).status, Equals("queued"))


def test_another_projects_image_is_not_imported_into(
    broker: imagebroker.Broker, openstack: OpenStack, published: tuple[str, bytes]
) -> None:
    from oslo_context.context import RequestContext

    blue = RequestContext(auth_token=openstack.token("blue"))
    community = openstack.create_image(None, visibility="community")
    with pytest.raises(NotAuthorized):
        broker.import_image(blue, community, url=published[0])


def test_to_end_the_waiting_does_not_end_the_import(
    broker: imagebroker.Broker, published: tuple[str, bytes]
) -> None:
    ref, stop = queued(broker), threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        broker.import_image(None, ref, url=published[0], cancel=stop)
    ends = time.monotonic() + 30
    while broker.get(None, ref).status != "active" and time.monotonic() < ends:
        time.sleep(0.1)
    assert_that(broker.get(None, ref).size, Equals(SIZE))


# -- a stub for what the real one does not do on request -------------------------------------------


class Importing:
    """Answers about one image that is being imported, step by step."""

    def __init__(
        self, *steps: dict[str, Any], post: bytes | None = b"", tasks: bool = True
    ) -> None:
        self._steps = list(steps)
        self._post = post
        self._tasks = tasks
        self._begun = False
        self._now: dict[str, Any] = {}

    def __call__(self, request: Request, connection: Any) -> bytes | None:
        if request.path.endswith("/import"):
            self._begun = True
            if self._post is None:
                return None  # the connection ends without an answer
            return self._post or answer(202)
        if request.path.endswith("/tasks"):
            if not self._tasks:
                return answer(404)
            task = {"id": "new", "created_at": "2026", **self._now.get("task", {})}
            return json_answer({"tasks": [task] if self._begun else []})
        if self._begun and self._steps:
            self._now = self._steps.pop(0)
        if self._now.get("answer"):
            return bytes(self._now["answer"])
        image = {name: value for name, value in self._now.items() if name != "task"}
        return json_answer(record(**{"status": "queued", "size": None, **image}))


def imported(make_broker: MakeBroker, importing: Importing, **limits: Any) -> list[int]:
    """What `progress` was told of an import from a URL."""
    told: list[int] = []
    with Stub(importing) as stub:
        broker = make_broker(
            "[imagebroker]\nenabled_schemes = glance\nstall_timeout = 0.5\n"
            f"[backend:glance]\nendpoint = {stub.endpoint}\n"
        )
        broker.import_image(
            caller(), f"glance:{ID}", url="https://host/image",
            progress=lambda each: told.append(each.done), **limits,
        )  # fmt: skip
    return told


DONE = {"status": "active", "size": 1000, "task": {"status": "success"}}


def mib(count: int) -> dict[str, Any]:
    task = {"status": "processing", "message": f"Copied {count} MiB"}
    return {"status": "importing", "task": task}


def test_progress_is_what_the_task_says(make_broker: MakeBroker) -> None:
    told = imported(make_broker, Importing(*[mib(n) for n in range(1, 9)], DONE))
    assert_that(told[-1], Equals(1000))
    assert_that(set(told) & {2**20, 3 * 2**20, 5 * 2**20, 8 * 2**20} != set(), Is(True))


def test_a_glance_that_shows_no_tasks_is_waited_for_by_status(make_broker: MakeBroker) -> None:
    importing = Importing({"status": "importing"}, {"status": "active", "size": 5}, tasks=False)
    assert_that(imported(make_broker, importing)[-1], Equals(5))


def test_a_server_that_is_away_for_a_moment_ends_no_import(make_broker: MakeBroker) -> None:
    told = imported(make_broker, Importing(mib(1), {"answer": answer(503)}, mib(2), DONE))
    assert_that(told[-1], Equals(1000))


def test_a_server_that_stays_away_does(make_broker: MakeBroker) -> None:
    with pytest.raises(imagebroker.BackendError):
        imported(make_broker, Importing(mib(1), *[{"answer": answer(503)}] * 50))


def test_a_lost_answer_to_the_request_is_found_out_by_its_task(make_broker: MakeBroker) -> None:
    assert_that(imported(make_broker, Importing(mib(1), DONE, post=None))[-1], Equals(1000))


def test_an_answer_that_never_came_and_no_task_is_an_error(make_broker: MakeBroker) -> None:
    with pytest.raises(TransferError):
        imported(make_broker, Importing(post=None, tasks=False))


def test_the_waiting_has_a_deadline(make_broker: MakeBroker) -> None:
    with pytest.raises(TransferTimeout):
        imported(make_broker, Importing(*[mib(1)] * 100), deadline=0.5)


def test_the_reason_of_a_failure_is_told_in_one_line(make_broker: MakeBroker) -> None:
    task = {"status": "failure", "message": "no\nroute\x1b[31m to host"}
    with pytest.raises(UploadFailed) as caught:
        imported(make_broker, Importing(mib(1), {"status": "queued", "task": task}))
    assert_that(str(caught.value), Contains("route"))
    assert_that([c for c in str(caught.value) if ord(c) < 32], Equals([]))
