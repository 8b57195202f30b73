"""Records in the metadata of objects, and what other programs keep there."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength

from imagebroker.exceptions import Conflict, InvalidImageRef, PolicyViolation
from tests.plugins.swift.conftest import Container

DISK = bytes(4)
DATA = bytes(range(256)) * 4096 * 2


@pytest.mark.parametrize("data", [b"small", DATA])
def test_records_change_and_protected_images_stay(container: Container, data: bytes) -> None:
    broker = container.broker()
    info = {"name": "disk", "properties": {"os": "ä b", "x": "1"}, "min_disk": 3}
    created = broker.create(None, info, data)
    changed = broker.update(None, created.ref, {"protected": True, "properties": {"x": None}})
    assert_that(dict(changed.properties), Equals({"os": "ä b"}))
    assert_that((changed.min_disk, changed.checksums), Equals((3, created.checksums)))
    assert_that(changed.version, Equals(created.version))
    with pytest.raises(PolicyViolation, match="protected"):
        broker.delete(None, created.ref)
    broker.update(None, created.ref, {"protected": False})
    with broker.open(None, created.ref) as reader:
        assert_that(b"".join(reader) == data, Equals(True))
    broker.delete(None, created.ref)
    assert_that(list(broker.get_all(None)), HasLength(0))
    assert_that(container.segment_names(), HasLength(0))


def test_what_other_programs_keep_at_an_object_stays(container: Container) -> None:
    path = f"{container.name}/images/disk"
    container.user.call(
        "PUT", path, DISK, X_Object_Meta_Owner="them", X_Delete_At="4102444800",
        Content_Disposition='attachment; filename="x"',
    )  # fmt: skip
    container.broker().update(None, container.ref("images/disk"), {"tags": ["gold"]})
    head = container.head("disk")
    assert_that(head["X-Object-Meta-Owner"], Equals("them"))
    assert_that(head["X-Delete-At"], Equals("4102444800"))
    assert_that(head["Content-Disposition"], Contains("attachment"))


def test_a_dynamic_object_stays_one(container: Container) -> None:
    container.user.call("PUT", container.segments)
    container.user.call("PUT", f"{container.segments}/part/1", DISK)
    container.user.call(
        "PUT", f"{container.name}/images/disk", b"", X_Object_Manifest=f"{container.segments}/part/"
    )
    broker, ref = container.broker(), container.ref("images/disk")
    broker.update(None, ref, {"tags": ["gold"]})
    with broker.open(None, ref) as reader:
        assert_that(reader.read(), Equals(DISK))
    assert_that(reader.image.tags, Equals(("gold",)))


def test_what_another_program_stored_is_an_image_too(container: Container) -> None:
    container.user.call("PUT", f"{container.name}/images/two%20words/%C3%BC+%25.raw", bytes(6))
    container.user.call("PUT", f"{container.name}/images/folder/", b"")
    container.user.call(
        "PUT", f"{container.name}/images/dir", b"", Content_Type="application/directory"
    )
    broker = container.broker()
    [image] = broker.get_all(None)
    assert_that(image.ref, Contains("/images/two%20words/%C3%BC+%25.raw"))
    assert_that((image.name, image.size), Equals(("ü+%.raw", 6)))
    with broker.open(None, image.ref) as reader:
        assert_that(reader.read(), Equals(bytes(6)))


def test_a_record_that_s3_stored_is_read_through_swift(container: Container) -> None:
    pytest.importorskip("boto3")
    from imagebroker_s3.metadata import MAX_METADATA

    from imagebroker.plugin import Image, objects

    metadata = objects.metadata_of(Image("", name="disk", tags=("gold",)), MAX_METADATA)
    container.server.client().put_object(
        Bucket=container.name, Key="images/disk", Body=DISK, Metadata=metadata
    )
    [image] = container.broker().get_all(None)
    assert_that((image.name, image.tags), Equals(("disk", ("gold",))))


def test_a_record_that_does_not_fit_is_refused_before_anything_is_sent(
    container: Container,
) -> None:
    with pytest.raises(InvalidImageRef, match="as metadata"):
        container.broker().create(None, {"name": "disk", "properties": {"x": "y" * 4000}}, DISK)
    assert_that(container.user.names(container.name), Equals([]))


def test_data_is_never_replaced(container: Container) -> None:
    broker = container.broker()
    ref = broker.create(None, {"name": "disk"}, DISK).ref
    with pytest.raises(Conflict):
        broker.update(None, ref, {}, b"other")


def test_a_list_has_all_pages(container: Container) -> None:
    for number in range(7):
        container.user.call("PUT", f"{container.name}/images/{number}", b"x")
    broker = container.broker()
    listed = broker.get_all(None, sort_key="name", sort_dir="asc", page_size=2)
    assert_that([image.name for image in listed], Equals(list("0123456")))
    found = broker.get_all(None, filters={"name": "3"})
    assert_that([image.name for image in found], Equals(["3"]))
