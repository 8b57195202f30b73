"""What changes between the record and its data is noticed."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.plugin import ImageChanged
from tests.plugins.glance_stub import DATA, OneImage, Stub, answer, asking, opened, record


@pytest.mark.promise("security-28")
@pytest.mark.parametrize(
    "change",
    [
        {"status": "deactivated"}, {"status": "queued"}, {"size": 7}, {"disk_format": "qcow2"},
        {"os_hash_value": "ab" * 64}, {"os_hash_algo": "sha256"}, {"checksum": "ab" * 16},
    ],
)  # fmt: skip
def test_a_record_that_changed_meanwhile_is_noticed_at_the_end(
    glance: tuple[Stub, OneImage], change: dict[str, Any]
) -> None:
    stub, image = glance
    with opened(asking(stub)) as source:
        chunks = source.read()
        next(chunks)
        image.record.update(change)
        with pytest.raises(ImageChanged):
            list(chunks)


def test_a_record_that_changed_is_noticed_before_resuming(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    with opened(asking(stub)) as source:
        with closing(source.read()) as chunks:
            next(chunks)
        image.record["os_hash_value"] = "ab" * 64
        with pytest.raises(ImageChanged):
            next(source.read(100))


def test_an_image_deleted_after_its_bytes_began_may_arrive(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    with opened(asking(stub)) as source:
        chunks = source.read()
        first = bytes(next(chunks))
        image.show = lambda request, _: answer(404)
        assert_that(first + b"".join(chunks), Equals(DATA))


def test_a_digest_that_is_computed_late_is_no_change(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    image.record.update(os_hash_algo=None, os_hash_value=None)
    with opened(asking(stub)) as source:
        chunks = source.read()
        first = bytes(next(chunks))
        image.record.update(record())
        assert_that(first + b"".join(chunks), Equals(DATA))
