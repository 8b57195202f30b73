"""Symbolic links in Swift: read like what they lead to, and removed alone."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.exceptions import ImageNotFound, UnsupportedOperation
from tests.plugins.swift.conftest import Container

DATA = bytes(range(256)) * 4096 * 2


def link(container: Container, key: str, target: str) -> str:
    """A link to another object; its ref."""
    container.user.call("PUT", f"{container.name}/{key}", b"", X_Symlink_Target=target)
    return container.ref(key)


@pytest.mark.parametrize("data", [b"small", DATA])
def test_a_link_is_removed_without_what_it_leads_to(container: Container, data: bytes) -> None:
    """Its segments above all, which an image of the same name would lose."""
    broker = container.broker()
    image = broker.create(None, {"name": "disk", "protected": True}, data)
    ref = link(container, "latest", f"{container.name}/images/disk")
    with broker.open(None, ref) as reader:
        assert_that(b"".join(reader) == data, Is(True))
    broker.delete(None, ref)
    with pytest.raises(ImageNotFound):
        broker.get(None, ref)
    with broker.open(None, image.ref) as reader:
        assert_that(b"".join(reader) == data, Is(True))


def test_the_record_of_a_link_is_that_of_its_target(container: Container) -> None:
    broker = container.broker()
    broker.create(None, {"name": "disk", "tags": ["gold"]}, b"small")
    ref = link(container, "latest", f"{container.name}/images/disk")
    assert_that(broker.get(None, ref).tags, Equals(("gold",)))
    with pytest.raises(UnsupportedOperation, match=r"is a link to .*/images/disk"):
        broker.update(None, ref, {"tags": ["silver"]})


def test_a_link_that_leads_nowhere_is_not_found_and_can_be_removed(container: Container) -> None:
    broker, ref = container.broker(), link(container, "latest", f"{container.name}/images/none")
    with pytest.raises(ImageNotFound):
        broker.get(None, ref)
    broker.delete(None, ref)
    assert_that(container.user.names(container.name), Equals([]))
