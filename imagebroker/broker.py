"""The verbs. Each one: parse the ref, find its backend, ask it, look at the answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from imagebroker.backends.backend import Options
from imagebroker.backends.boundary import Boundary
from imagebroker.backends.opened_source import OpenedSource
from imagebroker.config.settings import Settings
from imagebroker.exceptions import (
    ConfigError,
    Conflict,
    DestinationError,
    Gone,
    ImageBrokerError,
    InvalidImageRef,
    UnsupportedOperation,
)
from imagebroker.model.image import (
    Image,
    checked_info,
    copied_fields,
    without_none,
    without_tree_root,
)
from imagebroker.model.query import checked_import, checked_query
from imagebroker.model.reference import ImageRef
from imagebroker.model.service import Member, Store, Target
from imagebroker.model.stored_fields import check_stored, fitting, left_out, not_stored
from imagebroker.model.upload_data import ImageData
from imagebroker.registry import BackendInfo, Registry
from imagebroker.request import Request, rules
from imagebroker.routing import Resolution
from imagebroker.snapshot import Call, Snapshot
from imagebroker.system.exhaustion import said
from imagebroker.system.standard_streams import occupy
from imagebroker.telemetry.calls import Telemetry
from imagebroker.transfer import download as transfer
from imagebroker.transfer.download import Download
from imagebroker.transfer.fetch.versions import Joining
from imagebroker.transfer.layers.present import Presence, PresentAtPath
from imagebroker.transfer.limits import Cancel, Progress, Watch
from imagebroker.transfer.reader import ImageReader
from imagebroker.transfer.store.destinations import AtPath, AtPathInOrder, Destination, IntoObject
from imagebroker.transfer.store.file_object import FileObject
from imagebroker.transfer.store.part_file import PartFile
from imagebroker.transfer.transfer import Transfer
from imagebroker.transfer.upload import uploaded
from imagebroker.verify.checks import declared_format, format_policy, upload_check
from imagebroker.verify.disk_format import FormatPolicy

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.backends.backend import Context
    from imagebroker.model.copied_image import CopiedImage
    from imagebroker.transfer.layers.cache import Cache, Cached
    from imagebroker.transfer.store.converting import Conversion, ConvertedPath

#: Arguments of `open` that `copy` passes on.
_OF_OPEN = ("trusted_certs", "max_size", "allowed_formats", "progress", "cancel")


class Broker:
    """Gets, stores and lists disk images, wherever they live. Safe to use from several threads."""

    def __init__(self, conf: cfg.ConfigOpts | Settings) -> None:
        """`conf`: a service's own configuration object, parsed, with `[imagebroker]` in it.

        :raises ConfigError: a core option is wrong, or an enabled scheme has no single plugin.
        """
        occupy()  # what is opened from now on is never taken for a standard stream
        settings = conf if isinstance(conf, Settings) else Settings(conf)
        self._snapshot = Snapshot.of(settings, self._found_backends)

    @classmethod
    def from_config(cls, path: str | os.PathLike[str]) -> Broker:
        """A broker of the config file at `path`, and of nothing else: no environment is read."""
        return cls(Settings.from_file(path))

    @classmethod
    def for_person(cls) -> Broker:
        """The command's broker where there is no config file: trusts the person who types."""
        return cls(Settings.for_person())

    def reload(self) -> None:
        """Read the configuration again: the file, or what the service's object has by now.

        Calls that are under way, open readers included, go on with the values and the connections
        that they began with.

        :raises ConfigError: it cannot be used; everything stays as it was.
        """
        old = self._snapshot
        self._snapshot = Snapshot.of(old.settings.again(), self._found_backends)
        old.registry.retire()

    @property
    def telemetry(self) -> Telemetry:
        """What is recorded of its calls."""
        return self._snapshot.telemetry

    @telemetry.setter
    def telemetry(self, telemetry: Telemetry) -> None:
        self._snapshot = replace(self._snapshot, telemetry=telemetry)

    def _found_backends(self, settings: Settings) -> Registry:
        return Registry(settings)

    @contextmanager
    def _call(self, verb: str | None = None, asked: str | ImageRef = "") -> Iterator[Call]:
        """One call, with the snapshot of this moment. Its errors say where the option stands that
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
        """What is known about an image.

        :raises ImageNotFound: no such image; `Gone` if it is deleted and not `show_deleted`.
        """
        with self._call("get", id_or_uri) as call:
            return _get(call, context, id_or_uri, include_locations, show_deleted)

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
        """The images that this caller may see: ACTIVE and not hidden, unless `filters` says else.

        Arguments are checked now; pages are read as they are needed.
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
        """The image as an object to read from. Its end means that every check has passed.

        The arguments are those of `download`.
        """
        with self._call("open", id_or_uri) as call:
            return _open(
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
        overwrite: bool = True,
        file_mode: int | None = None,
        keep_partial: bool | None = None,
        preallocate: bool | None = None,
        to_device: bool = False,
        progress: Callable[[Progress], Any] | None = None,
        cancel: Cancel | None = None,
        **limits: Any,
    ) -> Download:
        """Store the image into `dest`, a path or a writable binary file object.

        A path is, at every instant, either what it was or the complete verified image. A device
        (`to_device`) loses what it held; its first MiB is written last, after everything was read
        back from the device and verified.

        :param checksum: `"sha256:<hex>"` that the bytes must have, beside the record's; or the URL
            of a file of checksums (SHA256SUMS, or lines in the form of BSD) that lists the image.
        :param require_checksum: False: accept an image without a strong checksum;
            by default as configured. What the configuration asks for in so many words stands.
        :param trusted_certs: ids of certificates in the key manager; the image must have a
            signature whose certificate leads to a root among them.
        :param allowed_formats: disk formats that the content may have, instead of the configured.
        :param check_format: False: take the content whatever it is, unless the configuration says
            in so many words that it is checked.
        :param prefer: names of the service's stores, the best first: the order in which locations
            that may be read directly (`direct_url_schemes`) are tried.
        :param decompress: `"gzip"`, `"xz"`, `"zstd"`, `"bzip2"`, or `"auto"` for whatever the first
            bytes show: store what is in the image. Checksums are those of the compressed data.
        :param convert: `"raw"`: store the disk in a qcow2, VMDK, VHD, VHDX or VDI at `dest`,
            a path. Checksums are those of the image; `evidence` has `raw_sha256` beside them.
        :param keep_partial: leave a hidden part file after a broken or interrupted transfer, which
            the next call for the same image and `dest` resumes from.
        :param preallocate: set the whole size aside on the disk before the first byte.
        :param to_device: `dest` is a block device that nothing uses; write the image to it.
        :param limits: `deadline`, `rate_limit` (bytes a second), `stall_timeout`, `retries` and
            others of `[imagebroker]`.
        :raises DestinationError: `dest` cannot take the bytes.
        :raises VerificationError: the bytes are not what was asked for.
        :raises TransferError, ImageChanged: they did not arrive; `.retryable` says if trying helps.
        """
        with self._call("download", id_or_uri) as call:
            request = Request(
                call, context, id_or_uri, checksum=checksum,
                require_checksum=require_checksum, trusted_certs=trusted_certs,
                allowed_formats=allowed_formats, check_format=check_format, max_size=max_size,
                prefer=prefer, progress=progress, cancel=cancel, limits=limits,
            )  # fmt: skip
            decompress, core = _checked_kind(decompress), call.core
            conversion = None if convert is None else _conversion(core, request, dest, convert)
            if to_device:
                _check_device(dest, overwrite, file_mode)
            with call.recorded("download", request.backend, request.ref, request.watch) as log:
                if not isinstance(dest, (str, bytes, os.PathLike)):
                    with FileObject(dest, fsync=core.fsync, process=call.process) as target:
                        done = transfer.download(request.transfer(decompress), IntoObject(target))
                        log.facts |= transfer.facts_of(done)
                        return done
                if to_device:
                    keep = decompress is None and _chosen(keep_partial, core.keep_partial)
                    done = _to_device(call, request, dest, decompress, keep, conversion)
                    log.facts |= transfer.facts_of(done)
                    return done
                kind: dict[str, Any] = {
                    "overwrite": overwrite, "file_mode": file_mode, "fsync": core.fsync,
                }  # fmt: skip
                speed = {
                    "preallocate": _chosen(preallocate, core.preallocate),
                    "direct": core.fsync and core.direct_io,
                }
                with PartFile(
                    dest,
                    key=request.part_key(decompress),
                    fits=request.may_go_on_with if decompress is None else lambda kept: False,
                    # A decoder cannot go on where another one was.
                    keep=decompress is None and _chosen(keep_partial, core.keep_partial),
                    **kind | (speed if conversion is None else {}),
                ) as part:
                    path = Path(os.fsdecode(dest))
                    if conversion is None:
                        done = _to_path(call, request, part, path, decompress)
                    else:
                        with PartFile(dest, key=request.part_key("raw"), **kind, **speed) as disk:
                            into = conversion.into(disk, path, request.watch)
                            done = _to_path(call, request, part, path, decompress, into)
                    log.facts |= transfer.facts_of(done)
                    return done

    @property
    def cache(self) -> Cache:
        """The cache of verified images: what it holds, and keeping house.

        :raises ConfigError: none is configured.
        """
        return _cache(self._snapshot.settings.core)

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
        """Fetch an image into the cache, verified, unless it is there and intact.

        :raises ConfigError: no cache is configured. :raises DestinationError: it does not fit.
        """
        with self._call("load", id_or_uri) as call:
            cache = _cache(call.core)
            request = Request(
                call, context, id_or_uri, checksum=checksum, progress=progress, cancel=cancel,
                limits=limits,
            )  # fmt: skip
            layer, demands = request.cache(cache), request.demands()
            with call.recorded("load", request.backend, request.ref, request.watch) as log:
                found = layer.present(demands)
                if found is not None:
                    log.facts["via"] = "cache"
                    return found
                # What is cached under a version must all be of that version.
                stream = transfer.opened(request.transfer(), Joining(allowed=False))
                with ImageReader(stream) as reader:
                    found = layer.load(reader)
                log.facts |= stream.facts
                return found

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
        """A new image, with its bytes where `data` is given: both, or neither.

        :param data: bytes, a path-like, a binary file object or an iterator of bytes.
        :param keep_record: should the bytes not be stored, leave the record, queued and without
            any, for an `update` with data.
        :param check_format: False: store what `download` would refuse, too.
        :raises FormatError: the bytes are not of the `disk_format`, or not safe; nothing is stored.
        :raises UploadFailed: the bytes are not stored; `.image_id` if a record is left.
        """
        with self._call("create") as call:
            return _create(call, context, image_info, data, backend, keep_record, check_format)

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
        """Change fields (None removes), own properties, and the bytes where none were stored.

        :param check_format: as for `create`.
        :param target: where the service is to keep the bytes, if it has several stores.
        :raises Conflict: `if_version` is given, and the image's version is another.
        """
        with self._call("update", id_or_uri) as call:
            changes = checked_info(image_info)
            ref, backend = call.routes.find(id_or_uri)
            check_stored(changes, backend.declared.record_fields, backend.title)
            _check_target(target, backend)
            formats = _upload_formats(call, check_format)
            with call.record("update", backend.title, ref) as recorded:
                found = None
                if if_version is not None or _needs_record(backend, data, formats):
                    found = backend.get(context, ref, include_locations=False, show_deleted=False)
                if found is not None and if_version not in (None, found.version):
                    raise Conflict(
                        f"{ref} has the version {found.version}, not {if_version}",
                        hint="look at it again, then repeat the change",
                    )
                if data is None:
                    return backend.update(context, ref, changes, None, purge_props)
                with closing(_data(call, data, changes)) as source:
                    source.target = target or source.target
                    source.checked_by = upload_check(_changed(found, changes), formats)
                    try:
                        image = uploaded(
                            source,
                            lambda: backend.update(context, ref, changes, source, purge_props),
                        )
                    finally:
                        recorded.bytes = source.sent
                    return _with_root(call, context, backend, image, source)

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
        """Remove an image; a download that runs may finish."""
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
        """A new image in `backend` with the bytes of another, verified on both sides.

        What of its record the backend cannot store is left out, logged, and named in `.not_stored`
        of the result. If the backend can clone the image, and neither a checksum nor a signature
        has to be verified, no bytes are moved.

        :param strict: raise `UnsupportedOperation` instead, before anything is sent.
        """
        with self._call("copy", id_or_uri) as call:
            target = call.routes.named(backend).declared
            own = checked_info(image_info or {})
            check_stored(without_none(own), target.record_fields, backend)
            if "create" not in target.capabilities:
                raise UnsupportedOperation(
                    f"the {backend} backend cannot create images",
                    hint="`imagebroker backends` shows what each backend can do",
                )
            unpacked = limits.pop("decompress", None)
            reading = {
                "checksum": checksum, "require_checksum": require_checksum,
                "check_format": check_format, **_reading(limits),
            }  # fmt: skip
            if unpacked is None and (
                cloned := _cloned(call, context, id_or_uri, own, backend, strict, reading)
            ):
                return cloned
            with _open(call, context, id_or_uri, unpacked, **reading) as reader:
                info = copied_fields(reader.image)
                if unpacked and info.get("container_format") == "compressed":
                    info["container_format"] = "bare"
                if unpacked:
                    info = without_tree_root(info)
                lost = left_out(reader.image, info, target.record_fields, backend, strict)
                info = fitting(info, lost) | own
                if info.get("disk_format") is None and reader.image.id is None and not unpacked:
                    found = _get(call, context, id_or_uri)
                    info |= without_none({"disk_format": found.disk_format})
                if reader.size is not None:
                    info["size"] = reader.size
                made = _create(
                    call, context, info, iter(reader), backend, check_format=check_format
                )
                from imagebroker.model.copied_image import CopiedImage

                return CopiedImage(**vars(made), not_stored=lost)

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
        """Let the service fetch an image's bytes itself, and wait until it has them.

        :param url: http(s) URL of the data of a queued image. Without it, an active image is
            copied into more `stores`.
        :param stores: the service's own, by name; for a `url` those where the data is to be.
        :raises Conflict: the image is not queued (with `url`), or not active.
        :raises UploadFailed: the service gave up. What ends the waiting (`cancel`, the deadline)
            does not end the import.
        """
        with self._call("import_image", id_or_uri) as call:
            ref, backend = call.routes.find(id_or_uri)
            checked_import(url, stores)
            if "import_image" not in backend.declared.capabilities:
                raise UnsupportedOperation(
                    f"the {backend.title} backend has no service that could fetch images",
                    hint="create or copy the image instead",
                )
            limited = rules(call.core, None, limits)
            watch = Watch(limited, progress, cancel, call.settings.tuning)
            watch.location = url or ref.text
            with call.record("import_image", backend.title, ref):
                if url is None:
                    watch.total = backend.get(context, ref).size

                def waiting() -> None:
                    watch.check()
                    watch.report("transfer")

                for count in backend.import_image(context, ref, url, tuple(stores), waiting):
                    watch.done = count
                    waiting()
                image = backend.get(context, ref)
            watch.done = watch.total = image.size or watch.done
            watch.report("done", always=True)
            return image

    def purge(
        self,
        context: Context,
        *,
        backend: str | None = None,
        older_than: float = 7 * 86400.0,
        dry_run: bool = False,
    ) -> list[Image]:
        """Remove what is left of deleted images, and of abandoned uploads.

        Returns their records as they were. An upload of this moment, a running download and the
        rule that no id is used twice are not touched.

        :param older_than: seconds since an image was deleted, or an upload begun.
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
        """Which backend an identifier belongs to, and why; no network is used.

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
        """Let go of all connections."""
        self._snapshot.registry.close()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _get(
    call: Call,
    context: Context,
    id_or_uri: str | ImageRef,
    include_locations: bool = False,
    show_deleted: bool = True,
) -> Image:
    ref, backend = call.routes.find(id_or_uri)
    with call.record("get", backend.title, ref):
        image = backend.get(
            context, ref, include_locations=include_locations, show_deleted=show_deleted
        )
        if ref.id is None and image.disk_format is None:
            image = _detected(call, context, ref, backend, image)
    if image.deleted and not show_deleted:
        raise Gone(f"{ref} was deleted", hint="pass show_deleted=True to get its record")
    if image.locations is not None and not include_locations:
        image = replace(image, locations=None)
    return image


def _detected(
    call: Call, context: Context, ref: ImageRef, backend: Boundary, image: Image
) -> Image:
    """A file has no record: what its first bytes say about it."""
    policy = format_policy(call.core, None)
    if policy is None:
        return image
    from imagebroker.transfer.detection import detected  # only `get` needs it

    return detected(
        image, lambda: backend.open(context, ref), policy, call.core.stall_timeout,
        may_be_page=backend.declared.serves_pages,
    )  # fmt: skip


def _open(
    call: Call,
    context: Context,
    id_or_uri: str | ImageRef,
    decompress: str | None,
    **arguments: Any,
) -> ImageReader:
    request = Request(call, context, id_or_uri, **arguments)
    decompress = _checked_kind(decompress)
    with call.record("open", request.backend.title, request.ref) as opening:
        stream = transfer.opened(request.transfer(decompress))
    read = call.telemetry.begin("read", request.backend.title, request.ref)
    read.request_ids = opening.request_ids  # which its source goes on filling

    def ended(error: BaseException | None) -> None:
        if isinstance(error, ImageBrokerError):
            call.locate(error)
        read.bytes, read.retries = request.watch.done, request.watch.retries
        read.facts |= stream.facts
        read.end(error)

    reader = ImageReader(stream, ended)
    call.outlived_by(reader)
    return reader


def _to_path(
    call: Call,
    request: Request,
    part: PartFile,
    path: Path,
    decompress: str | None,
    into: ConvertedPath | None = None,
) -> Download:
    """Into a part file: unpacked, or in order, or with whatever this host has of it.

    `into`: where the disk in it goes, if that is what is wanted.
    """
    wanted, in_order = request.transfer(decompress), decompress is not None or part.sequential
    present: Presence = PresentAtPath(part, request.entitlement, decompress)
    destination = _in_part(request, wanted, part, path, decompress)
    if into is not None:
        destination, present = into.behind(destination, part), into.presence(present)
    if in_order:
        return transfer.download(wanted, destination, present=present)
    with request.flight(wanted.demands) as flight, request.swarm(wanted.demands) as swarm:
        cache = request.cache(_cache(call.core)) if call.core.cache_dir else None
        done = transfer.download(wanted, destination, flight, cache, present, swarm)
    request.store_root(done.evidence)
    return done


def _in_part(
    request: Request, wanted: Transfer, part: PartFile, path: Path, decompress: str | None
) -> Destination:
    if decompress is not None or part.sequential:
        return AtPathInOrder(part, path)
    return AtPath(part, path, request.entitlement, request.watch, wanted.tuning)


def _check_device(dest: object, overwrite: bool, file_mode: int | None) -> None:
    """:raises DestinationError: the call asks for what only a file has."""
    if not isinstance(dest, (str, bytes, os.PathLike)):
        raise DestinationError(
            "to_device needs the path of a device, not a file object",
            hint="name a device such as /dev/VG/LV",
        )
    if not overwrite or file_mode is not None:
        which = "file_mode" if overwrite else "overwrite=False"
        raise DestinationError(
            f"{which} is for files: a device has no mode, and always loses what it held",
            hint=f"omit {which}",
        )


def _to_device(
    call: Call,
    request: Request,
    dest: str | os.PathLike[str],
    decompress: str | None,
    keep: bool,
    conversion: Conversion | None,
) -> Download:
    from imagebroker.transfer.store import device_destinations as devices  # few calls do
    from imagebroker.transfer.store.block_device import BlockDevice

    wanted, path = request.transfer(decompress), Path(os.fsdecode(dest))
    journal = None
    if decompress is None and conversion is None:
        journal = call.snapshot.device_journal(path)
    with (
        BlockDevice(dest, journal=journal, keep=keep, fits=request.may_go_on_with) as device,
        ExitStack() as opened,
    ):
        destination: Destination
        if decompress is not None:
            destination = devices.OnDeviceInOrder(device, path, request.watch)
        else:
            destination = devices.OnDevice(
                device, path, request.entitlement, request.watch, wanted.tuning
            )
        if conversion is not None:
            part = opened.enter_context(PartFile(
                conversion.scratch(path), key=request.part_key(decompress), fsync=False, keep=keep,
                fits=request.may_go_on_with if decompress is None else lambda kept: False,
            ))  # fmt: skip
            image = _in_part(request, wanted, part, path, decompress)
            disk = devices.OnDeviceInOrder(device, path, request.watch)
            destination = conversion.behind(image, part, disk, destination, request.watch)
        cached = decompress is None and call.core.cache_dir
        cache = request.cache(_cache(call.core)) if cached else None
        return transfer.download(wanted, destination, cache=cache)


def _checked_kind(decompress: str | None) -> str | None:
    """:raises InvalidImageRef, UnsupportedOperation: as `codecs.checked_kind`."""
    if decompress is None:
        return None
    from imagebroker.transfer.codecs import checked_kind  # few calls unpack anything

    return checked_kind(decompress)


def _conversion(core: Options, request: Request, dest: object, convert: str) -> Conversion:
    """:raises InvalidImageRef, UnsupportedOperation: that cannot be."""
    from imagebroker.transfer.store.converting import conversion  # few calls convert anything

    if not isinstance(dest, (str, bytes, os.PathLike)):
        raise UnsupportedOperation(
            "an image is converted on its way to a path, not into a file object",
            hint="name a file or, with to_device, a device",
        )
    if not request.checks_format:
        raise InvalidImageRef(
            "an image is converted only after its content was checked",
            hint="omit --no-check-format, or set inspect_formats in [imagebroker]",
        )
    return conversion(core, convert)


def _cache(core: Options) -> Cache:
    if not core.cache_dir:
        raise ConfigError(
            "no cache is configured", hint="set cache_dir in [imagebroker], and cache_size"
        )
    from imagebroker.transfer.layers.cache import Cache  # where one is configured

    return Cache(Path(core.cache_dir), core.cache_size)


def _create(
    call: Call,
    context: Context,
    image_info: Mapping[str, Any],
    data: Any,
    backend: str | None,
    keep_record: bool = False,
    check_format: bool = True,
) -> Image:
    info = checked_info(image_info)
    target = call.routes.named(backend)
    check_stored(without_none(info), target.declared.record_fields, target.title)
    image = Image(ref=target.host.ref(info.get("id") or ""), **without_none(info))
    formats = _upload_formats(call, check_format)
    with call.record("create", target.title) as recorded:
        if data is None:
            created = target.create(context, image, None)
            recorded.ref = created.ref
            return created
        with closing(_data(call, data, info)) as source:
            source.keep_record = keep_record
            source.checked_by = upload_check(image, formats)
            try:
                created = uploaded(source, lambda: target.create(context, image, source))
                recorded.ref = created.ref
            finally:
                recorded.bytes = source.sent
            return _with_root(call, context, target, created, source)


def _with_root(
    call: Call, context: Context, backend: Boundary, image: Image, data: ImageData
) -> Image:
    """The record with the root of the hash tree, if there is a swarm."""
    if call.snapshot.fleet is None:
        return image
    from imagebroker.swarm import root  # where a swarm is configured

    return root.stored(backend, context, call.routes.find(image.ref)[0], data.further) or image


def _cloned(
    call: Call,
    context: Context,
    id_or_uri: str | ImageRef,
    own: dict[str, Any],
    backend: str,
    strict: bool,
    reading: Mapping[str, Any],
) -> CopiedImage | None:
    """The copy that the destination makes without moving bytes; None if they have to be moved."""
    origin, target = call.routes.find(id_or_uri)[1], call.routes.named(backend)
    if reading["checksum"] is not None or not target.clones(origin):
        return None
    request = Request(call, context, id_or_uri, **reading)
    demands = request.demands()
    with closing(origin.open(context, request.ref)) as source:
        image = source.image
        if not image.size or image.size > request.watch.rules.max_size:
            return None
        required = demands.for_image(image, request.watch.check)
        if demands.checksums or demands.require or required.signature is not None:
            return None  # what the bytes have to prove can only be proved by reading them
        stored = target.declared.record_fields
        info = copied_fields(image)
        info = fitting(info, not_stored(info, stored)) | own | {"size": image.size}
        info = _inspected(call, source, image, info, demands.formats)
        new = Image(ref=target.host.ref(""), **without_none(checked_info(info)))
        if strict:
            check_stored(copied_fields(image), stored, backend)
        with call.record("create", target.title) as recorded:
            made = target.clone(context, new, source)
            if made is None:
                return None
            recorded.ref = made.ref
        lost = left_out(image, copied_fields(image), stored, backend, strict)
        from imagebroker.model.copied_image import CopiedImage

        return CopiedImage(**vars(made), not_stored=lost)


def _inspected(
    call: Call,
    source: OpenedSource,
    image: Image,
    info: Mapping[str, Any],
    formats: FormatPolicy | None,
) -> dict[str, Any]:
    """The fields of a copy, with the format that the content has if none is declared.

    :raises FormatError: the content is not acceptable.
    """
    if formats is None:
        return dict(info)
    from imagebroker.transfer.detection import inspected  # only a clone needs it

    declared = declared_format(_changed(image, info))
    found = inspected(source, formats, call.core.stall_timeout, declared)
    return {"disk_format": found.get("disk_format"), **without_none(info)}


def _upload_formats(call: Call, check_format: bool) -> FormatPolicy | None:
    """Whatever a call stores unchecked: who downloads it is protected by the check there."""
    return format_policy(call.core, None, optional=True) if check_format else None


def _data(call: Call, data: Any, info: Mapping[str, Any]) -> ImageData:
    source = ImageData(data, info.get("size"), stall_timeout=call.core.stall_timeout)
    if call.snapshot.fleet is not None:
        from imagebroker.swarm.root import RecordedRoot  # where a swarm is configured

        source.hashed_by = RecordedRoot
    return source


def _reading(limits: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `open` among those that a copy passes on, and the limits."""
    named = {name: limits[name] for name in _OF_OPEN if name in limits}
    return named | {"limits": {name: limits[name] for name in limits if name not in named}}


def _check_target(target: Target | None, backend: Boundary) -> None:
    """:raises UnsupportedOperation: the backend would not keep to it, or it cannot be told."""
    if target is None or target == Target():
        return
    if "stores" not in backend.declared.capabilities:
        raise UnsupportedOperation(
            f"the {backend.title} backend has no stores to choose from", hint="omit the store"
        )
    for name, value in (("store", target.store), ("base image", target.base_image)):
        if value is not None and not (value.isascii() and value.isprintable()):
            raise InvalidImageRef(f"the {name} {value!r:.80} is no name of one")


def _needs_record(backend: Boundary, data: Any, formats: FormatPolicy | None) -> bool:
    """Whether it matters what format the record declares, and it can be asked for."""
    return data is not None and formats is not None and "get" in backend.declared.capabilities


def _changed(image: Image | None, changes: Mapping[str, Any]) -> Image:
    """What the record will declare about the content."""
    fields = {n: changes[n] for n in ("disk_format", "container_format") if n in changes}
    return replace(Image(ref="") if image is None else image, **fields)


def _chosen(by_call: bool | None, configured: bool) -> bool:
    return configured if by_call is None else by_call
