"""Cinder's image service on a `Broker`: a drop-in for `cinder.image.glance.GlanceImageService`.

::

    import cinder.exception
    import cinder.image.image_utils  # first: cinder.image.glance cannot be imported alone
    import cinder.image.glance
    from cinder.common import config

    from imagebroker.compat.cinder import GlanceImageService, broker_of

    cinder.image.glance.GlanceImageService = GlanceImageService.on(
        broker_of(config.CONF), cinder.exception
    )

Nothing of Cinder is imported: the service hands in the module with its exceptions. Each docstring
says what stays as it was, and what is different on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imagebroker.compat.cinder_options import broker_of
from imagebroker.compat.cinder_records import (
    changed_fields,
    created_fields,
    listed_member,
    listed_store,
    query_of,
    record_of,
)
from imagebroker.compat.errors import CINDER_IMAGE, CINDER_SERVICE, Errors
from imagebroker.compat.streams import ImageChunks, device_of, is_empty, writable
from imagebroker.exceptions import (
    ConfigError,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    UnsupportedOperation,
)
from imagebroker.model.service import Target

if TYPE_CHECKING:
    from imagebroker.backends.backend import Context
    from imagebroker.broker import Broker
    from imagebroker.model.image import Image

__all__ = ["GlanceImageService", "broker_of"]

#: Records of one page of `detail`, which reads all of them: as many as Glance gives at once.
_PAGE = 1000
#: What the service itself is told where it may not see an image, or has no account of its own.
_NOT_FOR_THE_SERVICE = (NotAuthorized, ConfigError, ImageNotFound, UnsupportedOperation)


class GlanceImageService:
    """What `cinder.image.glance.GlanceImageService` offers, with its signatures.

    An image is named by its id, which `default_backend` answers, or by anything else that the
    broker accepts.
    """

    def __init__(
        self, broker: Broker, exceptions: object | None = None, client: Any = None
    ) -> None:
        """`exceptions`: a module (or object) with exceptions by the names that Cinder gives them.

        Where it lacks one, and without it, the errors of `imagebroker` are raised. `client` is what
        `cinder.image.glance.get_remote_image_service` makes of a URL: only its address is used,
        which must be below a configured `endpoint`. Cinder sent the caller's token to any.
        """
        self._broker = broker
        self._errors = Errors(exceptions)
        self._server = _server_of(client)
        #: Cinder keeps images here that it has fetched for the flow that is running.
        self.temp_images: Any = None

    @classmethod
    def on(cls, broker: Broker, exceptions: object | None = None) -> type[GlanceImageService]:
        """The class as Cinder creates it: with a `client`, or without any argument."""

        class Bound(cls):  # type: ignore[misc, valid-type]
            def __init__(self, client: Any = None) -> None:
                super().__init__(broker, exceptions, client)

        Bound.__name__ = Bound.__qualname__ = cls.__name__
        return Bound

    def detail(self, context: Context, **kwargs: Any) -> list[dict[str, Any]]:
        """The records of the images that this caller may see, queued ones too.

        As in Cinder: `filters`, `marker`, `limit`, `sort_key` and `sort_dir`, other arguments are
        ignored; a filter that is not an attribute is the name of a property.
        """
        with self._errors.translated(CINDER_SERVICE):
            images = self._broker.get_all(context, **{"page_size": _PAGE, **query_of(kwargs)})
            return [record_of(image) for image in images]

    def list_members(self, context: Context, image_id: str) -> list[dict[str, Any]]:
        """The projects that an image is shared with: `member_id`, `status` and their times."""
        ref = self._ref(image_id)
        with self._errors.translated(CINDER_IMAGE, ref):
            found = self._broker.members(context, ref)
            return [listed_member(image_id, each) for each in found]

    def get_stores(self, context: Context) -> dict[str, list[dict[str, str]]]:
        """The stores of Glance, as its API lists them; NotFound if it has only one."""
        with self._errors.translated(CINDER_SERVICE):
            return {"stores": [listed_store(each) for each in self._broker.stores(context)]}

    def show(self, context: Context, image_id: str) -> dict[str, Any]:
        """The record of an image.

        As in Cinder: its keys and types, with custom properties below `properties`. Different on
        purpose: an attribute that Glance does not show is None instead of missing; locations are
        in `get_location` only; the state of Glance's own tasks (`os_glance_...`) is left out.
        """
        ref = self._ref(image_id)
        with self._errors.translated(CINDER_IMAGE, ref):
            return record_of(self._broker.get(context, ref, show_deleted=True))

    def get_location(
        self, context: Context, image_id: str
    ) -> tuple[str | None, list[dict[str, Any]]]:
        """The URL of the data, and all its locations with their metadata; (None, []) if unknown.

        As in Cinder, both APIs of Glance are asked, with the identity of the service where the
        caller may not see locations. Different on purpose: the caller must be able to see the
        image; the URL is that of the first location also with the newer API.
        """
        ref = self._ref(image_id)
        with self._errors.translated(CINDER_IMAGE, ref):
            image = self._broker.get(context, ref, include_locations=True)
            locations = image.locations or self._locations_for_the_service(ref)
        if not locations:
            return None, []
        found: list[dict[str, Any]] = [
            {"url": each.url, "metadata": dict(each.metadata)} for each in locations
        ]
        # The URL alone, as if it were no more than the `direct_url`: drivers look for metadata.
        alone = len(found) == 1 and not found[0]["metadata"]
        return locations[0].url, [] if alone else found

    def _locations_for_the_service(self, ref: str) -> tuple[Any, ...]:
        try:
            return self._broker.get(None, ref, include_locations=True).locations or ()
        except _NOT_FOR_THE_SERVICE:
            return ()

    def add_location(
        self, context: Context, image_id: str, url: str, metadata: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Register data that lies elsewhere; the record, which is active then.

        As in Cinder, both APIs of Glance are tried; here first with the caller's identity, then
        with that of the service.
        """
        ref = self._ref(image_id)
        change = {"locations": [{"url": url, "metadata": dict(metadata or {})}]}
        with self._errors.translated(CINDER_IMAGE, ref):
            try:
                return record_of(self._broker.update(context, ref, change))
            except NotAuthorized as refused:
                try:
                    return record_of(self._broker.update(None, ref, change))
                except _NOT_FOR_THE_SERVICE:
                    raise refused from None

    def download(self, context: Context, image_id: str, data: Any = None) -> ImageChunks | None:
        """The bytes of an image: into the file object `data`, or as an iterator.

        As in Cinder: `data` stays open, and needs nothing but `write` (it may be a `tpool.Proxy`);
        an image without data is ImageDownloadFailed. Different on purpose: a cut transfer is
        resumed; what is wrong is ImageUnacceptable; a file gets its length back after a failure; a
        block device that is open from its beginning is filled as `to_device` fills one: it is
        refused if anything else uses it, zeros are left to the device, and its first MiB is written
        last, after everything else was read back.
        """
        ref = self._ref(image_id)
        with self._errors.translated(CINDER_IMAGE, ref):
            if data is None:
                reader = self._broker.open(context, ref)
                return ImageChunks(reader, lambda: self._errors.translated(CINDER_IMAGE, ref))
            device = device_of(data)
            if device is None:
                self._broker.download(context, ref, writable(data))
            else:
                done = self._broker.download(context, ref, device, to_device=True)
                data.seek(done.size)  # where whoever wrote it would be
        return None

    def create(
        self, context: Context, image_meta: Mapping[str, Any], data: Any = None
    ) -> dict[str, Any]:
        """A new image; `properties` of `image_meta` become properties of their own."""
        fields = created_fields(image_meta) | ({"size": 0} if data and is_empty(data) else {})
        with self._errors.translated(CINDER_SERVICE, fields.get("id") or fields.get("name") or ""):
            created = self._broker.create(context, fields, data or None, check_format=False)
            return record_of(created)

    def update(
        self,
        context: Context,
        image_id: str,
        image_meta: Mapping[str, Any],
        data: Any = None,
        purge_props: bool = True,
        store_id: str | None = None,
        base_image_ref: str | None = None,
    ) -> dict[str, Any]:
        """Change the record, and store the bytes of an image that has none yet.

        As in Cinder: properties that `image_meta` does not have are removed, unless it is empty or
        `purge_props` is False; `store_id` and `base_image_ref` are sent along with the data.
        Different on purpose: the data comes last, and is compared with what is stored; data that
        cannot be rewound is never sent twice.
        """
        ref = self._ref(image_id)
        target = Target(store=store_id or None, base_image=base_image_ref or None)
        with self._errors.translated(CINDER_IMAGE, ref):
            return record_of(self._updated(context, ref, image_meta, data, purge_props, target))

    def _updated(
        self, context: Context, ref: str, meta: Mapping[str, Any], data: Any, purge: bool,
        target: Target,
    ) -> Image:  # fmt: skip
        if not data and not meta:
            return self._broker.get(context, ref)
        fields = changed_fields(meta) | ({"size": 0} if data and is_empty(data) else {})
        return self._broker.update(
            context, ref, fields, data or None, purge_props=purge and bool(meta),
            check_format=False, target=target if data else None,
        )  # fmt: skip

    def delete(self, context: Context, image_id: str) -> bool:
        """Remove the image; True. ImageNotFound, ImageNotAuthorized; Invalid if it is in use."""
        ref = self._ref(image_id)
        with self._errors.translated(CINDER_IMAGE, ref):
            self._broker.delete(context, ref)
            return True

    def _ref(self, image_id: object) -> str:
        """The identifier as text. An invalid one is not found: Glance answers 404 to it."""
        ref = str(image_id)
        if self._server is not None:
            ref = f"{self._server}/v2/images/{ref}"
        with self._errors.translated({**CINDER_IMAGE, InvalidImageRef: "ImageNotFound"}, ref):
            self._broker.resolve(ref)
        return ref


def _server_of(client: Any) -> str | None:
    """The address of Cinder's client for one server; None for those that it is configured with."""
    place = getattr(client, "netloc", None)
    if not isinstance(place, str) or not place:
        return None
    return f"http{'s' if getattr(client, 'use_ssl', False) is True else ''}://{place.rstrip('/')}"
