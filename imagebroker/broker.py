"""The verbs and their arguments; `imagebroker.verbs` does the work, with one snapshot a call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from imagebroker.config.settings import Settings
from imagebroker.exceptions import (
    ImageBrokerError,
    InvalidImageRef,
)
from imagebroker.model.image import Image
from imagebroker.model.query import checked_query
from imagebroker.model.reference import ImageRef
from imagebroker.model.service import Member, Store, Target
from imagebroker.registry import BackendInfo, Registry
from imagebroker.request import Request
from imagebroker.routing import Resolution
from imagebroker.snapshot import Call, Snapshot
from imagebroker.system.exhaustion import said
from imagebroker.system.standard_streams import occupy
from imagebroker.telemetry.calls import Telemetry
from imagebroker.transfer.download import Download
from imagebroker.transfer.limits import Cancel, Progress
from imagebroker.transfer.reader import ImageReader
from imagebroker.verbs import copying, downloading, reading, uploading
from imagebroker.verbs.downloading import StoreOptions

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.backends.backend import Context
    from imagebroker.model.copied_image import CopiedImage
    from imagebroker.swarm.fleet import Fleet
    from imagebroker.transfer.layers.cache import Cache, Cached

#: Arguments of `open` that `copy` passes on.
_OF_OPEN = ("trusted_certs", "max_size", "allowed_formats", "prefer", "progress", "cancel")


class Broker:
    """Gets, stores and lists disk images, wherever they live. Safe to use from several threads."""

    def __init__(self, conf: cfg.ConfigOpts | Settings) -> None:
        """`conf`: a service's parsed configuration object, with a section `[imagebroker]`.

        :raises ConfigError: a core option is invalid, or an enabled scheme has no plugin, or two.
        """
        occupy()  # what is opened from now on is never taken for a standard stream
        settings = conf if isinstance(conf, Settings) else Settings(conf)
        self._snapshot = Snapshot.of(settings, self._found_backends)

    @classmethod
    def from_config(cls, path: str | os.PathLike[str]) -> Broker:
        """A broker configured by the file at `path` alone: the environment is not read."""
        return cls(Settings.from_file(path))

    @classmethod
    def for_person(cls) -> Broker:
        """The broker of the command without a config file: it trusts the user who runs it."""
        return cls(Settings.for_person())

    def reload(self) -> None:
        """Read the configuration again: the file, or the service's configuration object.

        Running calls and open readers keep the values and connections that they began with.

        :raises ConfigError: it is invalid; nothing changes.
        """
        old = self._snapshot
        self._snapshot = Snapshot.of(old.settings.again(), self._found_backends)
        old.registry.retire()

    @property
    def telemetry(self) -> Telemetry:
        """How its calls are recorded."""
        return self._snapshot.telemetry

    @telemetry.setter
    def telemetry(self, telemetry: Telemetry) -> None:
        self._snapshot = replace(self._snapshot, telemetry=telemetry)

    def _found_backends(self, settings: Settings) -> Registry:
        return Registry(settings)

    @contextmanager
    def _call(self, verb: str | None = None, asked: str | ImageRef = "") -> Iterator[Call]:
        """One call, with the current snapshot. Its errors name the file and line of the option that
        decides."""
        while not (snapshot := self._snapshot).registry.hold():
            pass  # it was replaced in this moment
        call = Call(snapshot, verb, asked)
        try:
            with said():
                yield call
        except ImageBrokerError as error:
            call.locate(error)
            call.refused(error)
            raise
        finally:
            call.end()

    # -- reading ---------------------------------------------------------------------------------

    def get(
        self,
        context: Context,
        id_or_uri: str | ImageRef,
        include_locations: bool = False,
        show_deleted: bool = True,
    ) -> Image:
        """The record of an image.

        :raises ImageNotFound: no such image; `Gone` if it is deleted and not `show_deleted`.
        """
        with self._call("get", id_or_uri) as call:
            return reading.get(call, context, id_or_uri, include_locations, show_deleted)

    def get_all(
        self,
        context: Context,
        *,
        backend: str | None = None,
        filters: Mapping[str, Any] | None = None,
        marker: str | None = None,
        limit: int | None = None,
        page_size: int | None = None,
        sort_key: str = "created_at",
        sort_dir: str = "desc",
    ) -> Iterator[Image]:
        """The images that this caller may see: by default, those that are active and not hidden.

        Arguments are checked at once; pages are read as they are needed.
        """
        with self._call("get_all") as call:
            query = checked_query(filters, marker, limit, page_size, sort_key, sort_dir)
            source = call.routes.named(backend)
            images = call.iterated("get_all", source.title, lambda: source.get_all(context, query))
            call.outlived_by(images)
            return images

    def open(
        self,
        context: Context,
        id_or_uri: str | ImageRef,
        *,
        checksum: str | None = None,
        require_checksum: bool | None = None,
        trusted_certs: Sequence[str] | None = None,
        max_size: int | None = None,
        allowed_formats: Sequence[str] | None = None,
        check_format: bool = True,
        prefer: Sequence[str] = (),
        decompress: str | None = None,
        progress: Callable[[Progress], Any] | None = None,
        cancel: Cancel | None = None,
        **limits: Any,
    ) -> ImageReader:
        """The image as a readable object. It reaches its end only if every check has passed.

        The arguments are those of `download`.
        """
        with self._call("open", id_or_uri) as call:
            return reading.open_image(
                call, context, id_or_uri, decompress, checksum=checksum,
                require_checksum=require_checksum, trusted_certs=trusted_certs,
                allowed_formats=allowed_formats, check_format=check_format, max_size=max_size,
                prefer=prefer, progress=progress, cancel=cancel, limits=limits,
            )  # fmt: skip

    def download(
        self,
        context: Context,
        id_or_uri: str | ImageRef,
        dest: str | os.PathLike[str] | BinaryIO,
        *,
        checksum: str | None = None,
        require_checksum: bool | None = None,
        trusted_certs: Sequence[str] | None = None,
        max_size: int | None = None,
        allowed_formats: Sequence[str] | None = None,
        check_format: bool = True,
        prefer: Sequence[str] = (),
        decompress: str | None = None,
        convert: str | None = None,
        overwrite: bool | None = True,
        file_mode: int | None = None,
        keep_partial: bool | None = None,
        preallocate: bool | None = None,
        to_device: bool = False,
        progress: Callable[[Progress], Any] | None = None,
        cancel: Cancel | None = None,
        **limits: Any,
    ) -> Download:
        """Store the image in `dest`, a path or a writable binary file object.

        A path is, at every instant, either what it was or the complete verified image. A device
        (`to_device`) is overwritten; its first MiB is written last, after everything was read back
        from the device and verified.

        :param checksum: `"sha256:<hex>"` of the data, checked in addition to the record's; or the
            URL of a checksum file (`SHA256SUMS`) that lists the image.
        :param require_checksum: False: accept an image without a strong checksum; by default as
            configured. A call cannot turn it off if the config file sets it to true.
        :param trusted_certs: ids of certificates in the key manager; the image must have a
            signature whose certificate one of them issued.
        :param allowed_formats: disk formats to accept, instead of the configured ones.
        :param check_format: False: do not inspect the content, unless the config file requires it
            (`inspect_formats = true`, `allowed_formats`).
        :param prefer: names of the service's stores, best first: the order in which locations are
            tried that may be read directly (`direct_url_schemes`); by default as configured.
        :param decompress: `"gzip"`, `"xz"`, `"zstd"`, `"bzip2"`, or `"auto"` to detect it:
            decompress the image. Checksums are those of the compressed data.
        :param convert: `"raw"`: convert a qcow2, VMDK, VHD, VHDX or VDI; `dest` must be a path.
            Checksums are those of the image; `evidence` also has `raw_sha256`.
        :param overwrite: False: fail if `dest` exists. None: fail unless it already is the image.
        :param keep_partial: keep a hidden part file after a failed or interrupted transfer: the
            next call for the same image and `dest` resumes it.
        :param preallocate: reserve disk space for the whole image before the first byte.
        :param to_device: `dest` is an unused block device; overwrite it with the image.
        :param limits: `deadline`, `rate_limit` (bytes a second), `stall_timeout`, `retries` and
            others of `[imagebroker]`.
        :raises DestinationError: `dest` cannot be written.
        :raises VerificationError: the data is not what was asked for.
        :raises TransferError, ImageChanged: it did not arrive; `.retryable`: whether to try again.
        """
        with self._call("download", id_or_uri) as call:
            request = Request(
                call, context, id_or_uri, checksum=checksum,
                require_checksum=require_checksum, trusted_certs=trusted_certs,
                allowed_formats=allowed_formats, check_format=check_format, max_size=max_size,
                prefer=prefer, progress=progress, cancel=cancel, limits=limits,
            )  # fmt: skip
            how = StoreOptions(
                decompress, convert, overwrite, file_mode, keep_partial, preallocate, to_device
            )
            return downloading.download(call, request, dest, how)

    @property
    def fleet(self) -> Fleet | None:
        """The hosts to share downloads with; None if no swarm is configured."""
        return self._snapshot.fleet

    @property
    def cache(self) -> Cache:
        """The cache of verified images: its contents, and maintenance.

        :raises ConfigError: none is configured.
        """
        return reading.cache_of(self._snapshot.settings.core)

    def load(
        self,
        context: Context,
        id_or_uri: str | ImageRef,
        *,
        checksum: str | None = None,
        progress: Callable[[Progress], Any] | None = None,
        cancel: Cancel | None = None,
        **limits: Any,
    ) -> Cached:
        """Download an image into the cache and verify it, unless the cache has it intact.

        :raises ConfigError: no cache is configured. :raises DestinationError: it does not fit.
        """
        with self._call("load", id_or_uri) as call:
            cache = reading.cache_of(call.core)
            request = Request(
                call, context, id_or_uri, checksum=checksum, progress=progress, cancel=cancel,
                limits=limits,
            )  # fmt: skip
            return reading.load(call, request, cache)

    # -- writing ---------------------------------------------------------------------------------

    def create(
        self,
        context: Context,
        image_info: Mapping[str, Any],
        data: Any = None,
        *,
        backend: str | None = None,
        keep_record: bool = False,
        check_format: bool = True,
    ) -> Image:
        """Create an image. With `data`, either the record and the data are stored, or neither is.

        :param data: bytes, a path-like, a binary file object or an iterator of bytes.
        :param keep_record: if the data cannot be stored, keep the record, queued and without data,
            for an `update` with data.
        :param check_format: False: also store what `download` would refuse.
        :raises FormatError: the data is not in `disk_format`, or not safe; nothing is stored.
        :raises UploadFailed: the data is not stored; `.image_id` if a record is left.
        """
        with self._call("create") as call:
            return uploading.create(
                call, context, image_info, data, backend, keep_record, check_format
            )

    def update(
        self,
        context: Context,
        id_or_uri: str | ImageRef,
        image_info: Mapping[str, Any],
        data: Any = None,
        purge_props: bool = False,
        if_version: str | None = None,
        *,
        check_format: bool = True,
        target: Target | None = None,
    ) -> Image:
        """Change fields and properties (None removes), and upload the data of an image without any.

        :param check_format: as for `create`.
        :param target: where the service is to store the data, if it has several stores.
        :raises Conflict: the version of the image is not `if_version`.
        """
        with self._call("update", id_or_uri) as call:
            return uploading.update(
                call, context, id_or_uri, image_info, data, purge_props=purge_props,
                if_version=if_version, check_format=check_format, target=target,
            )  # fmt: skip

    def stores(self, context: Context, *, backend: str | None = None) -> tuple[Store, ...]:
        """The stores in which a service keeps the data of its images.

        :raises ImageNotFound: it has only one, which has no name.
        """
        with self._call("stores") as call:
            source = call.routes.named(backend)
            with call.record("stores", source.title):
                return source.stores(context)

    def members(self, context: Context, id_or_uri: str | ImageRef) -> tuple[Member, ...]:
        """The projects that an image is shared with, as far as this caller may see them."""
        with self._call("members", id_or_uri) as call:
            ref, backend = call.routes.find(id_or_uri)
            with call.record("members", backend.title, ref):
                return backend.members(context, ref)

    def delete(self, context: Context, id_or_uri: str | ImageRef) -> None:
        """Delete an image; running downloads may finish."""
        with self._call("delete", id_or_uri) as call:
            ref, backend = call.routes.find(id_or_uri)
            with call.record("delete", backend.title, ref):
                backend.delete(context, ref)

    def copy(
        self,
        context: Context,
        id_or_uri: str | ImageRef,
        image_info: Mapping[str, Any] | None = None,
        *,
        backend: str,
        checksum: str | None = None,
        require_checksum: bool | None = None,
        check_format: bool = True,
        strict: bool = False,
        **limits: Any,
    ) -> CopiedImage:
        """Create an image in `backend` with the data of another, verified on both sides.

        Fields of the record that the backend cannot store are left out, logged, and listed in
        `.not_stored` of the result. If the backend can clone the image, and no checksum or
        signature has to be verified, no bytes are moved.

        :param strict: raise `UnsupportedOperation` instead, before anything is sent.
        """
        with self._call("copy", id_or_uri) as call:
            decompress = limits.pop("decompress", None)
            of_source = {
                "checksum": checksum, "require_checksum": require_checksum,
                "check_format": check_format, **_of_source(limits),
            }  # fmt: skip
            return copying.copy(
                call, context, id_or_uri, image_info or {}, backend=backend, strict=strict,
                decompress=decompress, reading=of_source,
            )  # fmt: skip

    def import_image(
        self,
        context: Context,
        id_or_uri: str | ImageRef,
        *,
        url: str | None = None,
        stores: Sequence[str] = (),
        progress: Callable[[Progress], Any] | None = None,
        cancel: Cancel | None = None,
        **limits: Any,
    ) -> Image:
        """Have the service fetch the data of an image itself, and wait for it.

        :param url: http(s) URL of the data of a queued image. Without it, an active image is
            copied into more `stores`.
        :param stores: names of the service's stores; with `url`, those to store the data in.
        :raises Conflict: the image is not queued (with `url`), or not active.
        :raises UploadFailed: the service gave up. `cancel` and the deadline end the wait, not the
            import.
        """
        with self._call("import_image", id_or_uri) as call:
            return uploading.import_image(
                call, context, id_or_uri, url, stores, progress, cancel, limits
            )

    def purge(
        self,
        context: Context,
        *,
        backend: str | None = None,
        older_than: float = 7 * 86400.0,
        dry_run: bool = False,
    ) -> list[Image]:
        """Remove leftovers of deleted images and abandoned uploads.

        Returns their records. Running uploads and downloads are not affected, and ids are still
        never used twice.

        :param older_than: seconds since an image was deleted, or an upload began.
        :param dry_run: remove nothing, and return what would be removed.
        """
        if not 0 <= older_than < float("inf"):
            raise InvalidImageRef(f"older_than is {older_than!r}, not a number of seconds")
        with self._call("purge") as call:
            target = call.routes.named(backend)
            with call.record("purge", target.title):
                return list(target.purge(context, older_than, dry_run))

    # -- about the broker ------------------------------------------------------------------------

    def resolve(self, id_or_uri: str | ImageRef) -> Resolution:
        """Which backend an identifier belongs to, and why, without using the network.

        :raises InvalidImageRef, SchemeNotEnabled, BackendLoadError, PolicyViolation: as named.
        """
        with self._call() as call:
            ref, backend, reason = call.routes.resolved(id_or_uri)
            capabilities = backend.declared.capabilities
            return Resolution(ref, backend.title, backend.origin, reason, capabilities)

    def backends(self) -> list[BackendInfo]:
        """Every installed or enabled scheme, what it can do, and what is wrong with it."""
        with self._call() as call:
            return call.snapshot.registry.describe()

    def close(self) -> None:
        """Close all connections."""
        self._snapshot.registry.close()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _of_source(limits: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `open` among those of a copy, and the limits."""
    named = {name: limits[name] for name in _OF_OPEN if name in limits}
    return named | {"limits": {name: limits[name] for name in limits if name not in named}}
