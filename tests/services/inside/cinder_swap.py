"""Runs in Cinder's environment: puts the drop-in in the place of Cinder's image service.

Behind the broker is a backend that asks what Cinder's own service would ask: the client that a test
has given it, which most of them replace by a stub of glanceclient.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# First, as in Cinder's own tests: they decide how threads are.
importlib.import_module("cinder.tests.unit")

import cinder.exception  # noqa: E402
import cinder.image.image_utils  # noqa: E402
import glanceclient.exc  # noqa: E402
from cinder.image import glance  # noqa: E402
from ids import Ids  # noqa: E402

import imagebroker  # noqa: E402
from imagebroker.compat.cinder import GlanceImageService  # noqa: E402
from imagebroker.compat.errors import Errors  # noqa: E402
from imagebroker.plugin import (  # noqa: E402
    BackendError,
    Conflict,
    Image,
    ImageBackend,
    ImageBrokerError,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    InvalidImageRef,
    Location,
    Member,
    NotAuthorized,
    NotReady,
    QuotaExceeded,
    RefForm,
)

CONFIG = (
    "[imagebroker]\nenabled_schemes = cindertests\ndefault_backend = cindertests\nretries = 0\n"
)
#: What an image of a stub has that is no property.
_PLAIN = (
    "name", "status", "visibility", "owner", "protected", "size", "virtual_size", "disk_format",
    "container_format", "min_disk", "min_ram",
)  # fmt: skip
_TIMES = ("created_at", "updated_at", "deleted_at")
_OTHERS = frozenset({"id", "deleted", "checksum", "locations", "direct_url"})
#: The first that fits counts; glanceclient's classes are those of the statuses of Glance.
_ERRORS = (
    (cinder.exception.ImageLimitExceeded, QuotaExceeded),
    (glanceclient.exc.NotFound, ImageNotFound),
    (glanceclient.exc.Forbidden, NotAuthorized),
    (glanceclient.exc.Unauthorized, NotAuthorized),
    (glanceclient.exc.BadRequest, InvalidImageRef),
    (glanceclient.exc.HTTPConflict, Conflict),
    (cinder.exception.GlanceConnectionFailed, BackendError),
)


IDS = Ids()
#: The client of the service that was asked last. Tests run one after another.
CLIENT: list[Any] = []


def ask(context: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """What the Glance backend makes of the statuses that glanceclient's exceptions stand for."""
    try:
        return CLIENT[-1].call(context, method, *args, **kwargs)
    except Exception as error:
        for theirs, ours in _ERRORS:
            if isinstance(error, theirs):
                raise ours(str(error)) from error
        raise


class Backend(ImageBackend):
    """The images of the client."""

    api_version = 1
    name = "cindertests"
    ref_form = RefForm(id=True)

    def open(self, context: Any, ref: ImageRef) -> ImageSource:
        chunks = ask(context, "data", IDS.original(ref))
        if chunks is None:
            raise NotReady("image contains no data.")
        pieces = [each.encode() if isinstance(each, str) else each for each in chunks]
        image = Image(ref=str(ref), id=str(ref.id), size=sum(map(len, pieces)))
        return _Source(image, pieces)

    def get(
        self, context: Any, ref: ImageRef, *, include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:  # fmt: skip
        return self._image(ask(context, "get", IDS.original(ref)))

    def get_all(self, context: Any, query: ImageQuery) -> Iterator[Image]:
        """Only what the caller has named: Cinder's tests look at that."""
        given = {"marker": query.marker, "limit": query.limit}
        found = ask(context, "list", **{k: v for k, v in given.items() if v is not None})
        return iter([self._image(each) for each in found])

    def create(self, context: Any, image: Image, data: ImageData | None) -> Image:
        fields = {name: value for name in _PLAIN if (value := getattr(image, name)) is not None}
        fields |= dict(image.properties)
        fields.setdefault("id", image.id or str(uuid.uuid4()))
        if image.locations:
            fields["locations"] = [{"url": each.url} for each in image.locations]
        if data is not None:
            fields["data"] = b"".join(map(bytes, data))
        return self._image(ask(context, "create", **fields))

    def update(
        self, context: Any, ref: ImageRef, changes: Mapping[str, Any], data: ImageData | None,
        purge_props: bool,
    ) -> Image:  # fmt: skip
        name, fields = IDS.original(ref), dict(changes)
        own = fields.pop("properties", None)
        if own is not None:
            kept = self.get(context, ref).properties if purge_props else {}
            gone = {"remove_props": sorted(set(kept) - set(own))} if purge_props else {}
            fields |= {k: v for k, v in own.items() if v is not None} | gone
        if fields:
            ask(context, "update", name, **fields)
        if data is not None:
            ask(context, "upload", name, b"".join(map(bytes, data)))
        return self._image(ask(context, "get", name))

    def delete(self, context: Any, ref: ImageRef) -> None:
        ask(context, "delete", IDS.original(ref))

    def members(self, context: Any, ref: ImageRef) -> list[Member]:
        found = ask(context, "list", controller="image_members", image_id=IDS.original(ref))
        return [
            Member(each["member_id"], each["status"], *(_time(each[name]) for name in _TIMES[:2]))
            for each in found
        ]

    def _image(self, found: Any) -> Image:
        """An image of glanceclient, as the Glance backend shows it."""
        raw = {name: getattr(found, name) for name in found.keys()}  # noqa: SIM118 - its own
        known = IDS.known(raw["id"])
        fields = {name: raw[name] for name in _PLAIN if raw.get(name) is not None}
        fields |= {name: _time(raw[name]) for name in _TIMES if raw.get(name)}
        names = set(raw) - {*_PLAIN, *_TIMES, *_OTHERS}
        return Image(
            ref=self.host.ref(known),
            id=known,
            checksums={"md5": raw["checksum"]} if raw.get("checksum") else {},
            properties={name: raw[name] for name in sorted(names)},
            locations=tuple(Location(each["url"], {}) for each in raw.get("locations") or ()),
            **fields,
        )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class _Source(ImageSource):
    def __init__(self, image: Image, pieces: list[bytes]) -> None:
        self.image, self._pieces = image, pieces

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        yield from self._pieces

    def close(self) -> None:
        pass


class Naming(Errors):
    """Errors with the names that tests give to images."""

    def of(self, error: ImageBrokerError, table: Any, identifier: object = "") -> Exception:
        return super().of(error, table, IDS.name(identifier))


class Following:
    """A broker that asks the client of one service."""

    def __init__(self, broker: imagebroker.Broker, service: Any) -> None:
        self._broker, self._service = broker, service

    def __getattr__(self, name: str) -> Callable[..., Any]:
        CLIENT[:] = [self._service._client]
        found: Callable[..., Any] = getattr(self._broker, name)
        return found


def swap() -> None:
    """From now on `cinder.image.glance.GlanceImageService` is the drop-in."""
    config = Path.home() / "imagebroker.conf"
    config.write_text(CONFIG)
    broker = imagebroker.Broker.from_config(config)

    class Swapped(GlanceImageService):
        def __init__(self, client: Any = None) -> None:
            self._client = client or glance.GlanceClientWrapper()
            super().__init__(Following(broker, self), cinder.exception)  # type: ignore[arg-type]
            self._errors = Naming(cinder.exception)

        def _ref(self, image_id: object) -> str:
            return super()._ref(IDS.known(image_id))

    Swapped.__name__ = Swapped.__qualname__ = GlanceImageService.__name__
    glance.GlanceImageService = Swapped
