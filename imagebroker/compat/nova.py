"""Nova's image API on a `Broker`: a drop-in for `nova.image.glance.API`.

::

    import nova.conf
    import nova.exception
    import nova.image.glance

    from imagebroker.compat.nova import API

    nova.image.glance.API = API.on(nova.conf.CONF, nova.exception)

Nothing of Nova is imported: the service hands in the module with its exceptions. Each docstring
says what stays as it was, and what is different on purpose.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any

from imagebroker.compat.errors import (
    OF_DELETE,
    OF_IMAGE,
    OF_IMPORT,
    OF_LOCATION,
    OF_SERVICE,
    OF_UPDATE,
    Errors,
    Table,
)
from imagebroker.compat.listing import LazyList, query_of
from imagebroker.compat.nova_options import broker_of, servers_of
from imagebroker.compat.records import changed_fields, created_fields, record_of
from imagebroker.compat.service_options import ServiceOptions
from imagebroker.compat.streams import ImageChunks, is_empty, is_special, writable
from imagebroker.exceptions import Cancelled, InvalidImageRef

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.backends.backend import Context
    from imagebroker.broker import Broker

__all__ = ["API", "broker_of"]

#: Records of one page of `get_all`, where the caller names no number: as Nova's own client.
_PAGE = 200
#: Interfaces of the image service in a caller's catalogue, best first.
_INTERFACES = ("internalURL", "publicURL")


def _url_of(image_ref: str, context: Context, servers: Sequence[str]) -> str:
    """The URL of an image.

    :param servers: the addresses that the configuration names, with a `/` at the end.
    """
    catalogue = getattr(context, "service_catalog", None)
    for service in catalogue if isinstance(catalogue, (list, tuple)) else ():
        if service.get("type") != "image":
            continue
        for endpoint in service.get("endpoints") or ():
            url = next(filter(None, map(endpoint.get, _INTERFACES)), None)
            if url is not None:
                return f"{url.rstrip('/').removesuffix('/v2')}/v2/images/{image_ref}"
    return f"{servers[0]}images/{image_ref}" if servers else image_ref


class _AtOnce:
    """Ends the waiting for an import when it has begun."""

    def is_set(self) -> bool:
        return True


class API:
    """What `nova.image.glance.API` offers (once `nova.image.api.API`), with its signatures.

    An image is named by its id, which `default_backend` answers, or by anything else that the
    broker accepts; a URL that ends in `/v2/images/<id>` must be below a configured `endpoint`.
    Nova sent the caller's token to whatever server such a URL named.
    """

    def __init__(self, broker: Broker, exceptions: object | None = None) -> None:
        """`exceptions`: a module (or object) with exceptions by the names that Nova gives them.

        Where it lacks one, and without it, the errors of `imagebroker` are raised.
        """
        self._own = broker
        self._errors = Errors(exceptions)

    @classmethod
    def on(cls, conf: cfg.ConfigOpts, exceptions: object | None = None) -> type[API]:
        """A class that Nova's modules create without arguments, as `nova.image.glance.API`.

        All of them share one broker on Nova's configuration. It is made at the first call: modules
        of Nova create their `API()` when they are imported, before any file is read.
        """
        found: list[Broker] = []
        lock = threading.Lock()

        class OnNova(cls):  # type: ignore[valid-type, misc]
            def __init__(self) -> None:
                self._errors = Errors(exceptions)

            @staticmethod
            def generate_image_url(image_ref: str, context: Context) -> str:
                return _url_of(image_ref, context, servers_of(ServiceOptions(conf)))

            @property
            def _broker(self) -> Broker:
                with lock:
                    if not found:
                        found.append(broker_of(conf))
                return found[0]

        OnNova.__name__ = OnNova.__qualname__ = cls.__name__
        return OnNova

    @property
    def _broker(self) -> Broker:
        return self._own

    @staticmethod
    def generate_image_url(image_ref: str, context: Context) -> str:
        """A URL of the image, for notifications and `Location` headers.

        As in Nova, it is made of the image service's endpoint and the id, without asking anybody:
        the first that Nova's options name (`on`) if the caller has no catalogue, as a periodic
        task, and the id alone where there is no endpoint.
        Different on purpose: the endpoint of the caller's own catalogue comes first; its URL is
        one that `get` understands (with `/v2`).
        """
        return _url_of(image_ref, context, [])

    def get_all(self, context: Context, **kwargs: Any) -> MutableSequence[dict[str, Any]]:
        """The records of the images that this caller may see.

        As in Nova: `filters`, `marker`, `limit`, `page_size`, `sort_key`, `sort_dir`; the filters
        `changes-since`, `is_public` and `property-<name>`; any other name is that of a property.
        Images of every status are listed unless `filters` names `status`: the users of Nova's API
        see their snapshots while these are saved.
        Different on purpose: the caller's filters are not written into; `property-` is taken off as
        a whole; the list reads its pages as they are needed; unknown arguments are a TypeError.
        """
        with self._errors.translated(OF_SERVICE):
            images = self._broker.get_all(context, **{"page_size": _PAGE, **query_of(kwargs)})
        return LazyList(map(record_of, images), lambda: self._errors.translated(OF_SERVICE))

    def get(
        self,
        context: Context,
        id_or_uri: str,
        include_locations: bool = False,
        show_deleted: bool = True,
    ) -> dict[str, Any]:
        """The record of an image.

        As in Nova: its keys and types; with `include_locations` also `locations`, an empty list
        where the service shows none, and `direct_url`; an unknown `size` is 0; an invalid
        identifier is ImageNotFound.
        Different on purpose: `visibility`, `tags`, `protected` and `virtual_size` are there, too;
        `direct_url` is always there (None if there is none), and no location is listed twice.
        """
        ref = self._ref(id_or_uri)
        with self._errors.translated(OF_IMAGE, ref):
            image = self._broker.get(
                context, ref, include_locations=include_locations, show_deleted=show_deleted
            )
            return record_of(image, include_locations)

    def create(
        self, context: Context, image_info: Mapping[str, Any], data: Any = None
    ) -> dict[str, Any]:
        """A new image, with its bytes where `data` is given.

        As in Nova: the property `instance_owner` makes that project a member and is not stored;
        `location` registers bytes that lie elsewhere; a `size` of 0 without data makes an active,
        empty raw image, and so does an empty file; other sizes and what the service sets itself are
        ignored.
        Different on purpose: `image_info` stays as it is; `data` may be an iterator, bytes or a
        path, too; when any step fails, no record is left behind; data that cannot be rewound is
        never sent twice.
        """
        fields = created_fields(image_info)
        if data is None and image_info.get("size") == 0 and "locations" not in fields:
            data = b""
            fields |= {"size": 0, "disk_format": fields.get("disk_format", "raw")}
            fields.setdefault("container_format", "bare")
            self._check_empty_format(fields)
        elif is_empty(data):
            fields["size"] = 0
        table: Table = OF_SERVICE | OF_LOCATION if "locations" in fields else OF_SERVICE
        name = fields.get("id") or fields.get("name") or ""
        with self._errors.translated(table, name):
            return record_of(self._broker.create(context, fields, data, check_format=False))

    def _check_empty_format(self, fields: Mapping[str, Any]) -> None:
        if fields["disk_format"] != "raw":
            error = InvalidImageRef(
                f"an image without data cannot have the disk_format {fields['disk_format']!r}",
                hint="leave disk_format out, or pass the data",
            )
            raise self._errors.of(error, OF_IMAGE, fields.get("name") or "")

    def update(
        self,
        context: Context,
        id_or_uri: str,
        image_info: Mapping[str, Any],
        data: Any = None,
        purge_props: bool = False,
    ) -> dict[str, Any]:
        """Change the record, and store the bytes of an image that has none yet.

        As in Nova: a whole record of `get` may be passed; `id` and what the service sets itself are
        ignored; `purge_props`, False unless given, removes the properties that `image_info` does
        not have; `location` registers bytes that lie elsewhere; the data comes last, and an empty
        file makes an empty image.
        Different on purpose: sending back a record leaves its visibility alone (Nova made every
        image private that was not public); `data` may be what `create` takes; where the backend
        keeps no locations, `location` is ImageUnacceptable, upon which libvirt uploads instead.
        """
        fields = changed_fields(image_info) | ({"size": 0} if is_empty(data) else {})
        table: Table = OF_UPDATE | OF_LOCATION if "locations" in fields else OF_UPDATE
        ref = self._ref(id_or_uri)
        with self._errors.translated(table, ref):
            image = self._broker.update(
                context, ref, fields, data, purge_props=bool(purge_props), check_format=False
            )
            return record_of(image)

    def delete(self, context: Context, id_or_uri: str) -> bool:
        """Remove the image; True.

        As in Nova: ImageNotFound, ImageNotAuthorized, ImageDeleteConflict (in use).
        Different on purpose: an invalid token is ImageNotAuthorized, too, and a service that does
        not answer is GlanceConnectionFailed.
        """
        ref = self._ref(id_or_uri)
        with self._errors.translated(OF_DELETE, ref):
            self._broker.delete(context, ref)
            return True

    def download(
        self,
        context: Context,
        id_or_uri: str,
        data: Any = None,
        dest_path: str | os.PathLike[str] | None = None,
        trusted_certs: Any = None,
    ) -> ImageChunks | None:
        """The bytes of an image: into `data`, into the file `dest_path`, or as an iterator.

        As in Nova: `data` wins over `dest_path`, stays open, and needs nothing but `write`; None
        is returned for both; a device or pipe at `dest_path` is filled; an image without data is
        ImageUnacceptable; `trusted_certs` may be Nova's object or a list of ids.
        Different on purpose: a cut transfer is resumed; `dest_path` is either what it was or the
        complete, verified image, synced to the disk, and a symbolic link there is replaced; a
        `data` that can seek gets its length back after a failure; wrong content is
        ImageUnacceptable, wherever the bytes came from; only the caller reads the iterator,
        which holds back the last bytes until every check has passed.
        """
        certificates = getattr(trusted_certs, "ids", trusted_certs)
        verify = {"trusted_certs": certificates} if certificates else {}
        ref = self._ref(id_or_uri)
        with self._errors.translated(OF_IMAGE, ref):
            if data is not None:
                self._broker.download(context, ref, writable(data), **verify)
            elif not dest_path:
                reader = self._broker.open(context, ref, **verify)
                return ImageChunks(reader, lambda: self._errors.translated(OF_IMAGE, ref))
            elif is_special(dest_path):
                with open(dest_path, "wb", buffering=0) as file:
                    self._broker.download(context, ref, file, **verify)
            else:
                self._broker.download(context, ref, dest_path, **verify)
        return None

    def copy_image_to_store(self, context: Context, image_id: str, store: str) -> None:
        """Let the service begin to copy an image into another of its stores.

        As in Nova: it returns at once, and `stores` of the record has the store when it is done;
        an image that has it is ImageBadRequest, one that cannot be copied ImageImportImpossible
        (libvirt makes that ImageUnacceptable), which also holds for backends without such stores.
        """
        ref = self._ref(image_id)
        with self._errors.translated(OF_IMPORT, ref), contextlib.suppress(Cancelled):
            self._broker.import_image(context, ref, stores=[store], cancel=_AtOnce())

    def _ref(self, id_or_uri: object) -> str:
        """The identifier as text. An invalid one is not found: Glance answers 404 to it."""
        ref = str(id_or_uri)
        with self._errors.translated({**OF_IMAGE, InvalidImageRef: "ImageNotFound"}, ref):
            self._broker.resolve(ref)
        return ref
