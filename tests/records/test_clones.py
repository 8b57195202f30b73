"""A copy that the destination makes itself, and when the bytes have to be moved instead."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

import imagebroker
from imagebroker.exceptions import FormatError, UnsupportedOperation
from imagebroker.plugin import Context, Image, ImageData, ImageSource
from imagebroker.testing.fakes.memory import MemoryBackend, Shelf
from tests.distributions import install

DATA = b"\xebraw disk" + bytes(1000) + b"\x55\xaa" * 4


class CloningBackend(MemoryBackend):
    """Clones what it has opened, unless `able` is False."""

    name = "cloning"
    api_version = 1
    shelf = Shelf()
    record_fields = ("name", "properties")
    able: ClassVar[bool] = True
    cloned: ClassVar[list[str]] = []
    created: ClassVar[list[str]] = []

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        self.created.append(str(image.name))
        return super().create(context, image, data)

    def clone(self, context: Context, image: Image, source: ImageSource) -> Image | None:
        if not self.able:
            return None
        self.cloned.append(str(image.name))
        data = b"".join(map(bytes, source.read()))
        return super().create(context, image, ImageData(data))


@pytest.fixture
def broker(
    on_path: Path, make_broker: Callable[..., imagebroker.Broker], monkeypatch: pytest.MonkeyPatch
) -> imagebroker.Broker:
    monkeypatch.setattr(CloningBackend, "cloned", [])
    monkeypatch.setattr(CloningBackend, "created", [])
    monkeypatch.setattr(CloningBackend, "shelf", Shelf())
    entry = {"cloning": "tests.records.test_clones:CloningBackend"}
    install(on_path, "imagebroker-cloning", entry)
    return make_broker(
        "[imagebroker]\nenabled_schemes = cloning\ndefault_backend = cloning\n"
        "[backend:cloning]\n[backend:cloning:west]\n"
    )


def stored(broker: imagebroker.Broker, data: bytes = DATA, **fields: Any) -> Image:
    info = {"name": "original", "disk_format": "raw", "container_format": "bare", **fields}
    return broker.create(None, info, data, check_format=False)


_numbers = itertools.count()


def copied(broker: imagebroker.Broker, image: Image, **how: Any) -> tuple[Image, str]:
    """The copy, and which method made it."""
    name = f"copy-{next(_numbers)}"
    info = {"name": name} | how.pop("info", {})
    made = broker.copy(None, image.ref, info, **{"backend": "cloning", **how})
    with broker.open(None, made.ref) as reader:
        assert_that(b"".join(reader), Equals(DATA))
    return made, "clone" if name in CloningBackend.cloned else "create"


@pytest.mark.promise("C42")
def test_a_copy_within_one_class_is_a_clone_in_another_instance_too(
    broker: imagebroker.Broker,
) -> None:
    image = stored(broker, properties={"os": "x"})
    for backend in ("cloning", "cloning:west"):
        made, how = copied(broker, image, backend=backend)
        assert_that(
            (how, dict(made.properties), made.disk_format), Equals(("clone", {"os": "x"}, "raw"))
        )


@pytest.mark.promise("C42")
def test_where_the_bytes_have_to_prove_something_they_are_moved(broker: imagebroker.Broker) -> None:
    image, digest = stored(broker), hashlib.sha256(DATA).hexdigest()
    for how in (
        {"checksum": f"sha256:{digest}"},
        {"require_checksum": True},
    ):
        assert_that(copied(broker, image, **how)[1], Equals("create"))


@pytest.mark.promise("C42")
def test_what_cannot_be_cloned_is_moved(
    broker: imagebroker.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CloningBackend, "able", False)
    assert_that(copied(broker, stored(broker))[1], Equals("create"))


def test_content_that_is_not_what_its_record_declares_is_not_cloned(
    broker: imagebroker.Broker,
) -> None:
    image = stored(broker, b"QFI\xfb" + bytes(1000))
    with pytest.raises(FormatError):
        broker.copy(None, image.ref, {"name": "other"}, backend="cloning")
    assert_that(CloningBackend.cloned, Equals([]))


def test_a_field_that_is_not_stored_is_refused_before_anything_is_cloned(
    broker: imagebroker.Broker,
) -> None:
    with pytest.raises(UnsupportedOperation):
        broker.copy(None, stored(broker).ref, {"tags": ["gold"]}, backend="cloning")
    assert_that(CloningBackend.cloned, Equals([]))
