"""No field of a record is lost in silence: refused by name, or named after a copy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is

import imagebroker
from imagebroker.exceptions import BackendLoadError, UnsupportedOperation
from imagebroker.testing.fakes.memory import MemoryBackend, Shelf
from tests.distributions import install


class _Kept(MemoryBackend):
    """Notes what reaches it."""

    calls: list[str] = []

    def create(self, context: Any, image: Any, data: Any) -> Any:
        self.calls.append("create")
        return super().create(context, image, data)

    def update(self, *arguments: Any) -> Any:
        self.calls.append("update")
        return super().update(*arguments)


class WholeBackend(_Kept):
    api_version = 1
    name = "whole"
    shelf = Shelf()


class NamesBackend(_Kept):
    api_version = 1
    name = "names"
    shelf = Shelf()
    record_fields = ("name", "id")


class LabelsBackend(_Kept):
    api_version = 1
    name = "labels"
    shelf = Shelf()
    record_fields = frozenset({"name", "tags", "properties", "min_disk"})


class MisdeclaredBackend(_Kept):
    api_version = 1
    name = "misdeclared"
    record_fields = ("name", "colour")


SCHEMES = ("whole", "names", "labels", "misdeclared")
CONFIG = f"[imagebroker]\nenabled_schemes = {', '.join(SCHEMES)}\ndefault_backend = whole\n"
EVERYTHING: dict[str, Any] = {
    "name": "disk", "disk_format": "raw", "container_format": "bare", "min_disk": 1, "min_ram": 64,
    "tags": ["gold"], "properties": {"os_distro": "debian", "os_version": "12"},
}  # fmt: skip


@pytest.fixture
def site(on_path: Path) -> Iterator[Path]:
    points = {name: f"{__name__}:{name.capitalize()}Backend" for name in SCHEMES}
    install(on_path, "imagebroker-kept", points)
    yield on_path
    for cls in (WholeBackend, NamesBackend, LabelsBackend):
        cls.shelf.clear()
    _Kept.calls.clear()


@pytest.fixture
def broker(site: Path, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    return make_broker(CONFIG)


@pytest.mark.promise("C39")
@pytest.mark.parametrize(
    ("backend", "info", "lost"),
    [
        ("names", {"tags": ["gold"]}, "tags"),
        ("names", {"protected": True, "properties": {"os_distro": "x"}},
         "protected, property-os_distro"),
        ("labels", {"visibility": "public", "tags": ["gold"]}, "visibility"),
        ("labels", {"id": "3f2504e0-4f89-11d3-9a0c-0305e82c3301"}, "id"),
    ],
)  # fmt: skip
def test_create_refuses_what_would_be_lost_before_anything_is_sent(
    broker: imagebroker.Broker, backend: str, info: dict[str, Any], lost: str
) -> None:
    with pytest.raises(UnsupportedOperation) as caught:
        broker.create(None, {"name": "disk", **info}, b"data", backend=backend)
    message = f"the {backend} backend does not store {lost}"
    assert_that(str(caught.value), Equals(message))
    assert_that(caught.value.hint, Contains("it stores"))
    assert_that(_Kept.calls, HasLength(0))


def test_update_refuses_it_too_even_a_removal(broker: imagebroker.Broker) -> None:
    image = broker.create(None, {"name": "disk"}, b"data", backend="names")
    for change in ({"tags": ["gold"]}, {"hidden": True}, {"min_ram": None}):
        with pytest.raises(UnsupportedOperation, match=next(iter(change))):
            broker.update(None, image.ref, change)
    assert_that(broker.update(None, image.ref, {"name": "other"}).name, Equals("other"))
    assert_that(_Kept.calls, Equals(["create", "update"]))


def test_what_describes_the_bytes_is_never_refused(broker: imagebroker.Broker) -> None:
    info = {"name": "disk", "size": 4, "disk_format": "raw", "container_format": "bare"}
    assert_that(broker.create(None, info, b"data", backend="names").size, Equals(4))


def test_a_backend_that_declares_nothing_gets_everything(broker: imagebroker.Broker) -> None:
    image = broker.create(None, {**EVERYTHING, "protected": True}, b"data")
    assert_that(image.tags, Equals(("gold",)))


def test_a_copy_keeps_what_fits_and_names_the_rest(
    broker: imagebroker.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    original = broker.create(None, EVERYTHING, b"data")
    expected = {
        "whole": (),
        "labels": ("min_ram",),
        "names": ("min_disk", "min_ram", "tags", "property-os_distro", "property-os_version"),
    }
    for backend, lost in expected.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            copied = broker.copy(None, original.ref, backend=backend)
        assert_that(copied.not_stored, Equals(lost))
        assert_that(copied.name, Equals("disk"))
        kept = broker.get(None, copied.ref)
        assert_that(bool(kept.tags), Is("tags" not in lost))
        assert_that(bool(kept.properties), Is("property-os_distro" not in lost))
        warned = [each.getMessage() for each in caplog.records if "leaves out" in each.getMessage()]
        assert_that(warned, HasLength(1 if lost else 0))
        assert all(name in warned[0] for name in lost)


def test_a_strict_copy_fails_before_anything_is_stored(broker: imagebroker.Broker) -> None:
    original = broker.create(None, EVERYTHING, b"data")
    with pytest.raises(UnsupportedOperation, match="min_ram"):
        broker.copy(None, original.ref, backend="labels", strict=True)
    assert_that(list(broker.get_all(None, backend="labels")), HasLength(0))
    plain = broker.create(None, {"name": "plain"}, b"data")
    assert_that(broker.copy(None, plain.ref, backend="names", strict=True).not_stored, Equals(()))


def test_what_the_caller_asks_of_a_copy_is_refused_as_for_create(
    broker: imagebroker.Broker,
) -> None:
    original = broker.create(None, {"name": "plain"}, b"data")
    with pytest.raises(UnsupportedOperation, match="tags"):
        broker.copy(None, original.ref, {"tags": ["mine"]}, backend="names")


def test_a_declaration_that_names_no_field_is_a_mistake_of_the_plugin(
    broker: imagebroker.Broker,
) -> None:
    with pytest.raises(BackendLoadError, match="colour"):
        broker.create(None, {"name": "x"}, b"data", backend="misdeclared")
