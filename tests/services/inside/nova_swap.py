"""Runs in Nova's environment: puts the drop-in in the place of `nova.image.glance.API`.

Behind the broker is a backend that asks the Glance of Nova's own tests, their `GlanceFixture`, and
does what a real Glance does where the fixture does not: it merges what is changed into its record.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# First, as in Nova's own tests: they decide how threads are.
importlib.import_module("nova.tests.unit")

import nova.conf  # noqa: E402
import nova.exception  # noqa: E402
import nova.image.glance  # noqa: E402
from ids import Ids  # noqa: E402

import imagebroker  # noqa: E402
from imagebroker.compat.nova import API  # noqa: E402
from imagebroker.compat.records import record_of  # noqa: E402
from imagebroker.plugin import (  # noqa: E402
    BackendError,
    Image,
    ImageBackend,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    Location,
    NotAuthorized,
    QuotaExceeded,
    RefForm,
)

CONFIG = "[imagebroker]\nenabled_schemes = novatests\ndefault_backend = novatests\nretries = 0\n"
_DIRECT = frozenset({
    "name", "status", "owner", "protected", "disk_format", "container_format", "created_at",
    "updated_at", "deleted_at",
})  # fmt: skip
#: In Glance they are numbers; tests write text, too.
_NUMBERS = ("size", "virtual_size", "min_disk", "min_ram")

IDS = Ids()


class Backend(ImageBackend):
    """The images of the fixture that the running test has installed."""

    api_version = 1
    name = "novatests"
    ref_form = RefForm(id=True)

    def open(self, context: Any, ref: ImageRef) -> ImageSource:
        service = _service()
        image = _image(self._call(service.show, context, IDS.original(ref)), self.host.ref)
        data = io.BytesIO()
        self._call(service.download, context, IDS.original(ref), data=data)
        return _Source(image, data.getvalue())

    def get(
        self, context: Any, ref: ImageRef, *, include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:  # fmt: skip
        flags = {"include_locations": include_locations, "show_deleted": show_deleted}
        return _image(
            self._call(_service().show, context, IDS.original(ref), **flags), self.host.ref
        )

    def get_all(self, context: Any, query: ImageQuery) -> Iterator[Image]:
        """All of them in the order of the fixture, which knows no arguments: tests take the first."""
        found = self._call(_service().detail, context)
        return iter([_image(each, self.host.ref) for each in found])

    def create(self, context: Any, image: Image, data: ImageData | None) -> Image:
        record = record_of(image)
        given = {name: value for name, value in record.items() if value is not None}
        given.pop("id", None)
        if image.id is not None:
            given["id"] = image.id
        if image.members:  # what the fixture keeps of them
            given["properties"]["instance_owner"] = image.members[0]
        body = None if data is None else _Body(b"".join(map(bytes, data)))
        if body is not None:
            given["size"] = body.size
        elif image.size is None:
            given.pop("size", None)
        return _image(self._call(_service().create, context, given, body), self.host.ref)

    def update(
        self, context: Any, ref: ImageRef, changes: Mapping[str, Any], data: ImageData | None,
        purge_props: bool,
    ) -> Image:  # fmt: skip
        service = _service()
        record = self._call(service.show, context, IDS.original(ref))
        merged = {**record, **{k: v for k, v in changes.items() if k != "properties"}}
        own = _decoded(changes.get("properties") or {})
        kept = {} if purge_props and "properties" in changes else record.get("properties", {})
        merged["properties"] = {k: v for k, v in {**kept, **own}.items() if v is not None}
        if data is not None:
            merged["size"] = sum(map(len, data))  # the fixture keeps no bytes of an update
        return _image(
            self._call(service.update, context, IDS.original(ref), merged, None, True),
            self.host.ref,
        )

    def delete(self, context: Any, ref: ImageRef) -> None:
        self._call(_service().delete, context, IDS.original(ref))

    def _call(self, call: Any, *args: Any, **flags: bool) -> Any:
        """What the Glance backend makes of the statuses that Nova's exceptions stand for."""
        try:
            return call(*args, **flags)
        except nova.exception.ImageNotFound as error:
            raise ImageNotFound(str(error)) from error
        except (nova.exception.ImageNotAuthorized, nova.exception.Forbidden) as error:
            raise NotAuthorized(str(error)) from error
        except nova.exception.ImageQuotaExceeded as error:
            raise QuotaExceeded(str(error)) from error


class _Source(ImageSource):
    def __init__(self, image: Image, data: bytes) -> None:
        self.image, self._data = image, data

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        yield self._data[start:stop]

    def close(self) -> None:
        pass


class _Body:
    """What the fixture reads the data from."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self) -> bytes:
        return self._data


def _service() -> Any:
    """The fixture. Nova's own client is nobody's fixture: a test that gets that far mocks it."""
    service = nova.image.glance.get_default_image_service()
    if isinstance(service, nova.image.glance.GlanceImageServiceV2):
        raise BackendError("this test has no GlanceFixture", retryable=False)
    return service


def _image(record: Mapping[str, Any], ref_of: Any) -> Image:
    """The record of the fixture, as Glance would show it."""
    fields = {name: record[name] for name in _DIRECT if record.get(name) is not None}
    fields |= {name: int(record[name]) for name in _NUMBERS if record.get(name) is not None}
    visibility = record.get("visibility") or ("public" if record.get("is_public") else "shared")
    digests = {
        "md5": record.get("checksum"),
        record.get("os_hash_algo"): record.get("os_hash_value"),
    }
    locations = [Location(x["url"], x["metadata"]) for x in record.get("locations") or ()]
    return Image(
        ref=ref_of(str(record["id"])),
        id=str(record["id"]),
        visibility=visibility,
        hidden=record.get("os_hidden"),
        tags=tuple(record.get("tags") or ()),
        checksums={name: digest for name, digest in digests.items() if name and digest},
        properties=dict(record.get("properties") or {}),
        locations=tuple(locations),
        stores=tuple(record["stores"].split(",")) if record.get("stores") else None,
        **fields,
    )


def _decoded(properties: Mapping[str, Any]) -> dict[str, Any]:
    """As Nova's own client hands them over, which keeps some of them as JSON in Glance."""
    found: dict[str, Any] = record_of(Image(ref="x", properties=properties))["properties"]
    return found


def swap() -> None:
    """From now on `nova.image.glance.API()` is the drop-in."""
    config = Path.home() / "imagebroker.conf"
    config.write_text(CONFIG)
    broker = imagebroker.Broker.from_config(config)

    class Swapped(API.on(nova.conf.CONF, nova.exception)):  # type: ignore[misc]
        @property
        def _broker(self) -> imagebroker.Broker:
            return broker

        def _ref(self, id_or_uri: object) -> str:
            return super()._ref(IDS.known(id_or_uri))

    nova.image.glance.API = Swapped
