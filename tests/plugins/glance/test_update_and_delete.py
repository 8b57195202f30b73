"""Updates say only what differs; a delete that is refused says why."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.plugin import (
    Conflict,
    Image,
    ImageData,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
)
from tests.plugins.glance.stored_uploads import Store
from tests.plugins.glance_stub import DATA, ID, REF, Stub, answer, asking, caller, record

OTHER = "6f2504e0-4f89-41d3-9a0c-0305e82c3302"


def test_a_deleted_image_cannot_be_deleted_again(store: tuple[Stub, Store]) -> None:
    stub, images = store
    images.images[ID] = record()
    backend = asking(stub)
    backend.delete(caller(), REF)
    with pytest.raises(ImageNotFound):
        backend.delete(caller(), REF)


@pytest.mark.parametrize(
    ("protected", "status", "kind"),
    [(True, 403, PolicyViolation), (False, 403, NotAuthorized), (False, 409, Conflict)],
)
def test_a_delete_that_is_refused_says_why(
    store: tuple[Stub, Store], protected: bool, status: int, kind: type[Exception]
) -> None:
    stub, images = store
    images.images[ID] = record(protected=protected)
    images.instead["DELETE", "image"] = answer(status)
    with pytest.raises(kind):
        asking(stub).delete(caller(), REF)
    assert_that(images.images, Contains(ID))


def test_an_update_says_only_what_differs(store: tuple[Stub, Store]) -> None:
    stub, images = store
    images.images[ID] = record(os_type="linux", **{"a/b~c": "1"}, os_glance_x="mine", keep="1")
    changes = {
        "name": "new",
        "min_disk": 0,
        "tags": None,
        "hidden": True,
        "id": OTHER,
        "properties": {"os_type": None, "a/b~c": "2", "keep": "1", "absent": None},
    }
    asking(stub).update(caller(), REF, changes, None, False)
    [patch] = [r.json for r in stub.requests if r.method == "PATCH"]
    assert_that(
        patch,
        Equals(
            [
                {"op": "replace", "path": "/name", "value": "new"},
                {"op": "replace", "path": "/os_hidden", "value": True},
                {"op": "add", "path": "/a~1b~0c", "value": "2"},
                {"op": "remove", "path": "/os_type"},
            ]
        ),
    )


def test_purging_removes_what_is_not_named_and_nothing_of_glances_own(
    store: tuple[Stub, Store],
) -> None:
    stub, images = store
    images.images[ID] = record(one="1", two="2", os_glance_importing_to_stores="x")
    asking(stub).update(caller(), REF, {"properties": {"one": "1"}}, None, True)
    [patch] = [r.json for r in stub.requests if r.method == "PATCH"]
    assert_that(patch, Equals([{"op": "remove", "path": "/two"}]))


def test_an_update_that_changes_nothing_sends_nothing(store: tuple[Stub, Store]) -> None:
    stub, images = store
    images.images[ID] = record()
    asking(stub).update(caller(), REF, {"name": "stub"}, None, False)
    assert_that({r.method for r in stub.requests}, Equals({"GET"}))


@pytest.mark.parametrize(
    "name", ["status", "id", "size", "location", "deleted", "checksum", "self"]
)
def test_a_property_cannot_pose_as_an_attribute(store: tuple[Stub, Store], name: str) -> None:
    stub, images = store
    images.images[ID] = record()
    posing = Image(ref="", properties={name: "x"})
    with pytest.raises(InvalidImageRef):
        asking(stub).create(caller(), posing, None)
    with pytest.raises(InvalidImageRef):
        asking(stub).update(caller(), REF, {"properties": {name: "x"}}, None, False)
    assert_that({r.method for r in stub.requests} <= {"GET"}, Is(True))


def test_data_is_never_replaced(store: tuple[Stub, Store]) -> None:
    stub, images = store
    images.images[ID] = record()
    with pytest.raises(Conflict):
        asking(stub).update(caller(), REF, {}, ImageData(b"x"), False)
    assert_that(stub.count("PUT", "/file"), Equals(0))
    images.images[ID]["status"] = "queued"
    assert_that(
        asking(stub).update(caller(), REF, {}, ImageData(DATA), False).size, Equals(len(DATA))
    )
