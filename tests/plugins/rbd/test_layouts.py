"""Images as other programs lay them out: clones, stripes, objects of other sizes, the trash."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from tests.plugins.rbd.conftest import Images

MIB = 1024 * 1024
SIZE = 24 * MIB


def downloaded(images: Images, ref: str) -> bytes:
    found = io.BytesIO()
    images.broker().download(None, ref, found)
    return found.getvalue()


def expected(images: Images, name: str) -> bytes:
    """What the library itself reads of the snapshot."""
    import rbd

    with images.server.opened() as pool, rbd.Image(pool, name, "snap") as image:
        return bytes(image.read(0, image.size()))


def written_over(image: Any) -> None:
    image.write(b"new" * 1000, 5 * MIB + 7)


def punched(image: Any) -> None:
    image.discard(MIB, 9 * MIB)


def grown_again(image: Any) -> None:
    """What lay beyond the smaller size is not the parent's any more."""
    image.resize(6 * MIB)
    image.resize(SIZE)


def larger(image: Any) -> None:
    image.resize(SIZE + 3 * MIB + 5)


@pytest.mark.parametrize("change", [written_over, punched, grown_again, larger])
def test_a_clone_has_what_it_has_of_its_parent(
    images: Images, change: Callable[[Any], None]
) -> None:
    import rbd

    parent = images.publish(os.urandom(12 * MIB), size=SIZE, at=2 * MIB)
    name = f"test-{uuid.uuid4().hex}"
    with images.server.opened() as pool:
        with rbd.Image(pool, parent) as image:
            image.protect_snap("snap")
        rbd.RBD().clone(pool, parent, "snap", pool, name)
        with rbd.Image(pool, name) as image:
            change(image)
            image.create_snap("snap")
    found = downloaded(images, images.ref(name))
    assert_that(found == expected(images, name), Is(True))


@pytest.mark.parametrize(
    "layout",
    [
        {"stripe_unit": 64 * 1024, "stripe_count": 3},
        {"stripe_unit": MIB, "stripe_count": 5},
        {"order": 16},
        {"order": 25},
    ],
)
def test_stripes_and_objects_of_any_size(images: Images, layout: dict[str, int]) -> None:
    import rbd

    name = f"test-{uuid.uuid4().hex}"
    with images.server.opened() as pool:
        rbd.RBD().create(pool, name, SIZE, old_format=False, **layout)
        with rbd.Image(pool, name) as image:
            for at in (0, 3 * MIB + 4096, SIZE - 700_000):
                image.write(os.urandom(700_000), at)
            image.create_snap("snap")
    found = downloaded(images, images.ref(name))
    assert_that(len(found), Equals(SIZE))
    assert_that(found == expected(images, name), Is(True))


def test_an_image_that_is_in_the_trash_is_not_found_and_not_listed(images: Images) -> None:
    import rbd

    import imagebroker

    name = images.publish(b"data")
    with images.server.opened() as pool:
        rbd.RBD().trash_move(pool, name, 0)
    broker = images.broker()
    with pytest.raises(imagebroker.ImageNotFound):
        broker.get(None, images.ref(name))
    listed = [each.ref for each in broker.get_all(None, backend="rbd")]
    assert_that(images.ref(name) in listed, Is(False))
