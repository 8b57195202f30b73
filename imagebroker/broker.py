"""The verbs. Each one: parse the ref, find its backend, ask it, look at the answer."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar, cast

from imagebroker.backends.boundary import Boundary
from imagebroker.config.settings import Settings
from imagebroker.exceptions import (
    ConfigError,
    Conflict,
    Gone,
    ImageBrokerError,
    InvalidImageRef,
    UnsupportedOperation,
)
from imagebroker.model.image import Image, checked_info, copied_fields, given
from imagebroker.model.query import checked_import, checked_query
from imagebroker.model.reference import ImageRef
from imagebroker.model.upload_data import ImageData
from imagebroker.registry import BackendInfo, Registry
from imagebroker.request import Order, rules
from imagebroker.routing import Resolution, Routes
from imagebroker.snapshot import Values
from imagebroker.system.exhaustion import said
from imagebroker.system.forks import Process
from imagebroker.system.standard_streams import occupy
from imagebroker.telemetry import Telemetry
from imagebroker.transfer import download as transfer
from imagebroker.transfer.detection import detected
from imagebroker.transfer.download import Download
from imagebroker.transfer.fetch.versions import Joining
from imagebroker.transfer.layers.cache import Cache, Cached
from imagebroker.transfer.layers.cached import ThroughCache
from imagebroker.transfer.layers.codecs import checked_kind
from imagebroker.transfer.layers.decompression import opened
from imagebroker.transfer.limits import Cancel, Progress, Watch
from imagebroker.transfer.reader import ImageReader
from imagebroker.transfer.store.file_object import FileObject
from imagebroker.transfer.store.part_file import PartFile
from imagebroker.transfer.upload import uploaded
from imagebroker.verify.checks import format_policy, upload_check
from imagebroker.verify.disk_format import FormatPolicy

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.backends.backend import Context

Verb = TypeVar("Verb", bound=Callable[..., Any])


def _verb(method: Verb) -> Verb:
    """A call that keeps the configuration that it begins with, whatever `reload` does meanwhile.

    Its errors say where the option stands that decides.
    """

    @wraps(method)
    def call(self: Broker, *args: Any, **kwargs: Any) -> Any:
        held = self._hold()
        answer = None
        try:
            with said():
                answer = method(held, *args, **kwargs)
            return answer
        except ImageBrokerError as error:
            held._locate(error)
            raise
        finally:
            held._let_go(after=answer)

    return cast(Verb, call)


class Broker:
    """Gets, stores and lists disk images, wherever they live. Safe to use from several threads."""

    def __init__(self, conf: cfg.ConfigOpts | Settings) -> None:
        """`conf`: a service's own configuration object, parsed, with `[imagebroker]` in it.

        :raises ConfigError: a core option is wrong, or an enabled scheme has no single plugin.
        """
        occupy()  # what is opened from now on is never taken for a standard stream
        settings = conf if isinstance(conf, Settings) else Settings(conf)
        self._values = Values.of(settings, self._found_backends)
        self._routes = Routes(settings, self._registry)
        #: Where the call began that this is the copy of.
        self._process = Process()

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
        values = Values.of(self._settings.again(), self._found_backends)
        old, self._values = self._values, values
        old.registry.retire()

    @property
    def _settings(self) -> Settings:
        return self._values.settings

    @property
    def _registry(self) -> Registry:
        return self._values.registry

    @property
    def telemetry(self) -> Telemetry:
        """What is recorded of its calls."""
        return self._values.telemetry

    @telemetry.setter
    def telemetry(self, telemetry: Telemetry) -> None:
        self._values = replace(self._values, telemetry=telemetry)

    def _found_backends(self, settings: Settings) -> Registry:
        return Registry(settings)

    def _hold(self) -> Self:
        """This broker as it is now."""
        while True:
            held = object.__new__(type(self))  # as copy.copy, in a fifth of the time
            held.__dict__.update(self.__dict__)
            held._routes = Routes(held._settings, held._registry)
            held._process = Process()
            if held._registry.hold():
                return held

    def _let_go(self, after: object) -> None:
        """The end of a call; where it answers with a reader or an iterator, the end of that."""
        if isinstance(after, Iterator):
            weakref.finalize(after, self._registry.let_go).atexit = False
        else:
            self._registry.let_go()

    def _locate(self, error: ImageBrokerError) -> None:
        asked = self._routes.asked
        (self._settings if asked is None else asked).locate(error)

    # -- reading ---------------------------------------------------------------------------------

    @_verb
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
        ref, backend = self._routes.find(id_or_uri)
        with self.telemetry.call("get", backend.title):
            image = backend.get(
                context, ref, include_locations=include_locations, show_deleted=show_deleted
            )
            if ref.id is None and image.disk_format is None:
                image = self._detected(context, ref, backend, image)
        if image.deleted and not show_deleted:
            raise Gone(f"{ref} was deleted", hint="pass show_deleted to see what is left of it")
        if image.locations is not None and not include_locations:
            image = replace(image, locations=None)
        return image

    def _detected(self, context: Context, ref: ImageRef, backend: Boundary, image: Image) -> Image:
        """A file has no record: what its first bytes say about it."""
        policy = format_policy(self._settings.core, None)
        if policy is None:
            return image
        seconds = self._settings.core.stall_timeout
        pages = backend.declared.serves_pages
        return detected(
            image, lambda: backend.open(context, ref), policy, seconds, may_be_page=pages
        )

    @_verb
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
        query = checked_query(filters, marker, limit, page_size, sort_key, sort_dir)
        source = self._routes.named(backend)
        return self.telemetry.iterated(
            "get_all", source.title, lambda: source.get_all(context, query)
        )

    @_verb
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
        decompress: str | None = None,
        progress: Callable[[Progress], Any] | None = None,
        cancel: Cancel | None = None,
        **limits: Any,
    ) -> ImageReader:
        """The image as an object to read from. Its end means that every check has passed.

        The arguments are those of `download`.
        """
        order = Order(
            self._values, self._routes, context, id_or_uri, checksum=checksum,
            require_checksum=require_checksum, trusted_certs=trusted_certs,
            allowed_formats=allowed_formats, check_format=check_format, max_size=max_size,
            progress=progress, cancel=cancel, limits=limits,
        )  # fmt: skip
        decompress = checked_kind(decompress)
        with self.telemetry.call("open", order.backend.title):
            places = order.places()
            stream = opened(places, order.demands, order.watch, decompress)
        read = self.telemetry.begin("read", order.backend.title)

        def ended(error: BaseException | None) -> None:
            if isinstance(error, ImageBrokerError):
                self._locate(error)
            read.bytes, read.retries = order.watch.done, order.watch.retries
            read.end(error)

        return ImageReader(stream, ended)

    @_verb
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
        decompress: str | None = None,
        overwrite: bool = True,
        file_mode: int | None = None,
        keep_partial: bool | None = None,
        preallocate: bool | None = None,
        progress: Callable[[Progress], Any] | None = None,
        cancel: Cancel | None = None,
        **limits: Any,
    ) -> Download:
        """Store the image into `dest`, a path or a writable binary file object.

        A path is, at every instant, either what it was or the complete verified image.

        :param checksum: `"sha256:<hex>"` that the bytes must have, beside the record's; or the URL
            of a file of checksums (SHA256SUMS, or lines in the form of BSD) that lists the image.
        :param require_checksum: False: take the image even if nobody has a strong checksum for it;
            by default as configured. What the configuration asks for in so many words stands.
        :param trusted_certs: ids of certificates in the key manager; the image must have a
            signature whose certificate leads to a root among them.
        :param allowed_formats: disk formats that the content may have, instead of the configured.
        :param check_format: False: take the content whatever it is, unless the configuration says
            in so many words that it is checked.
        :param decompress: `"gzip"`, `"xz"`, `"zstd"`, `"bzip2"`, or `"auto"` for whatever the first
            bytes show: store what is in the image. Checksums are those of the compressed data.
        :param keep_partial: leave a hidden part file after a broken or interrupted transfer, which
            the next call for the same image and `dest` goes on with.
        :param preallocate: set the whole size aside on the disk before the first byte.
        :param limits: `deadline`, `rate_limit` (bytes a second), `stall_timeout`, `retries` and
            others of `[imagebroker]`.
        :raises DestinationError: `dest` cannot take the bytes.
        :raises VerificationError: the bytes are not what was asked for.
        :raises TransferError, ImageChanged: they did not arrive; `.retryable` says if trying helps.
        """
        order = Order(
            self._values, self._routes, context, id_or_uri, checksum=checksum,
            require_checksum=require_checksum, trusted_certs=trusted_certs,
            allowed_formats=allowed_formats, check_format=check_format, max_size=max_size,
            progress=progress, cancel=cancel, limits=limits,
        )  # fmt: skip
        decompress = checked_kind(decompress)
        core = self._settings.core
        with self._recorded("download", order):
            if not isinstance(dest, (str, bytes, os.PathLike)):
                with FileObject(dest, fsync=core.fsync, process=self._process) as target:
                    places = order.places()
                    return transfer.to_file_object(
                        places, order.demands, target, order.watch, decompress
                    )
            with PartFile(
                dest,
                key=order.part_key(decompress),
                fits=order.may_go_on_with if decompress is None else lambda kept: False,
                overwrite=overwrite,
                file_mode=file_mode,
                fsync=core.fsync,
                # A decoder cannot go on where another one was.
                keep=decompress is None and _chosen(keep_partial, core.keep_partial),
                preallocate=_chosen(preallocate, core.preallocate),
                direct=core.fsync and core.direct_io,
            ) as part:
                return self._to_path(order, part, Path(os.fsdecode(dest)), decompress)

    def _to_path(
        self, order: Order, part: PartFile, path: Path, decompress: str | None
    ) -> Download:
        """Into a part file: unpacked, from the cache, with others, or simply so."""
        places, watch = order.places(), order.watch
        if decompress is not None or part.sequential:
            return transfer.in_order_to_path(places, order.demands, part, watch, path, decompress)
        with order.share() as share:
            if self._settings.core.cache_dir:
                cached = ThroughCache(self.cache, order.demands, watch, share)
                return cached.to_path(places, part, path)
            places = share.places(places)
            return transfer.to_path(places, order.demands, part, watch, path, share)

    @property
    def cache(self) -> Cache:
        """The cache of verified images: what it holds, and keeping house.

        :raises ConfigError: none is configured.
        """
        core = self._settings.core
        if not core.cache_dir:
            raise ConfigError(
                "no cache is configured", hint="set cache_dir in [imagebroker], and cache_size"
            )
        return Cache(Path(core.cache_dir), core.cache_size)

    @_verb
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
        cache = self.cache
        order = Order(
            self._values, self._routes, context, id_or_uri, checksum=checksum, progress=progress,
            cancel=cancel, limits=limits,
        )  # fmt: skip
        order.read_checksum_file()
        with order.share() as share:
            loading = ThroughCache(cache, order.demands, order.watch, share)
            found = loading.present()
            if found is not None:
                return found
            places = order.places()
            # What is cached under a version must all be of that version.
            alone = Joining(allowed=False)
            stream = opened(places, order.demands, order.watch, None, alone)
            with ImageReader(stream) as reader:
                return loading.load(reader)

    @contextmanager
    def _recorded(self, verb: str, order: Order) -> Iterator[None]:
        """A transfer as a call of `verb`, with what was moved."""
        with self.telemetry.call(verb, order.backend.title) as call:
            try:
                yield
            finally:
                call.bytes, call.retries = order.watch.done, order.watch.retries

    # -- writing ---------------------------------------------------------------------------------

    @_verb
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
        info = checked_info(image_info)
        target = self._routes.named(backend)
        image = Image(ref=target.host.ref(info.get("id") or ""), **given(info))
        formats = self._upload_formats(check_format)
        with self.telemetry.call("create", target.title) as call:
            if data is None:
                return target.create(context, image, None)
            with closing(self._data(data, info)) as source:
                source.keep_record = keep_record
                source.checked_by = upload_check(image, formats)
                try:
                    return uploaded(source, lambda: target.create(context, image, source))
                finally:
                    call.bytes = source.sent

    def _upload_formats(self, check_format: bool) -> FormatPolicy | None:
        """Whatever a call stores unchecked: who downloads it is protected by the check there."""
        return format_policy(self._settings.core, None, optional=True) if check_format else None

    def _data(self, data: Any, info: Mapping[str, Any]) -> ImageData:
        return ImageData(data, info.get("size"), stall_timeout=self._settings.core.stall_timeout)

    @_verb
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
    ) -> Image:
        """Change fields (None removes), own properties, and the bytes where none were stored.

        :param check_format: as for `create`.
        :raises Conflict: `if_version` is given, and the image's version is another.
        """
        changes = checked_info(image_info)
        ref, backend = self._routes.find(id_or_uri)
        formats = self._upload_formats(check_format)
        with self.telemetry.call("update", backend.title) as call:
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
            with closing(self._data(data, changes)) as source:
                source.checked_by = upload_check(_changed(found, changes), formats)
                try:
                    return uploaded(
                        source, lambda: backend.update(context, ref, changes, source, purge_props)
                    )
                finally:
                    call.bytes = source.sent

    @_verb
    def delete(self, context: Context, id_or_uri: str | ImageRef) -> None:
        """Remove an image; a download that runs may finish."""
        ref, backend = self._routes.find(id_or_uri)
        with self.telemetry.call("delete", backend.title):
            backend.delete(context, ref)

    @_verb
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
        **limits: Any,
    ) -> Image:
        """A new image in `backend` with the bytes of another, verified on both sides."""
        if "create" not in self._routes.named(backend).declared.capabilities:
            raise UnsupportedOperation(
                f"the {backend} backend cannot create images",
                hint="`imagebroker backends` shows what each backend can do",
            )
        with self.open(
            context,
            id_or_uri,
            checksum=checksum,
            require_checksum=require_checksum,
            check_format=check_format,
            **limits,
        ) as reader:
            info = copied_fields(reader.image)
            if limits.get("decompress") and info.get("container_format") == "compressed":
                info["container_format"] = "bare"
            info |= dict(image_info or {})
            unknown = info.get("disk_format") is None and reader.image.id is None
            if unknown and not limits.get("decompress"):
                info |= given({"disk_format": self.get(context, id_or_uri).disk_format})
            if reader.size is not None:
                info["size"] = reader.size
            return self.create(
                context, info, iter(reader), backend=backend, check_format=check_format
            )

    @_verb
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
        ref, backend = self._routes.find(id_or_uri)
        checked_import(url, stores)
        if "import_image" not in backend.declared.capabilities:
            raise UnsupportedOperation(
                f"the {backend.title} backend has no service that could fetch images",
                hint="create or copy the image instead",
            )
        watch = Watch(rules(self._settings.core, None, limits), progress, cancel)
        watch.location = url or ref.text
        with self.telemetry.call("import_image", backend.title):
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

    @_verb
    def purge(
        self,
        context: Context,
        *,
        backend: str | None = None,
        older_than: float = 7 * 86400.0,
        dry_run: bool = False,
    ) -> list[Image]:
        """Remove what is left of deleted images, and of uploads that nobody goes on with.

        Returns their records as they were. An upload of this moment, a running download and the
        rule that no id is used twice are not touched.

        :param older_than: seconds since an image was deleted, or an upload begun.
        :param dry_run: remove nothing, and return what would be removed.
        """
        if not 0 <= older_than < float("inf"):
            raise InvalidImageRef(f"older_than is {older_than!r}, not a number of seconds")
        target = self._routes.named(backend)
        with self.telemetry.call("purge", target.title):
            return list(target.purge(context, older_than, dry_run))

    # -- about the broker ------------------------------------------------------------------------

    @_verb
    def resolve(self, id_or_uri: str | ImageRef) -> Resolution:
        """Which backend an identifier belongs to, and why; no network is used.

        :raises InvalidImageRef, SchemeNotEnabled, BackendLoadError, PolicyViolation: as named.
        """
        ref, backend, reason = self._routes.resolved(id_or_uri)
        return Resolution(ref, backend.title, backend.origin, reason, backend.declared.capabilities)

    @_verb
    def backends(self) -> list[BackendInfo]:
        """Every installed or enabled scheme, what it can do, and what is wrong with it."""
        return self._registry.describe()

    def close(self) -> None:
        """Let go of all connections."""
        self._registry.close()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _needs_record(backend: Boundary, data: Any, formats: FormatPolicy | None) -> bool:
    """Whether it matters what format the record declares, and it can be asked for."""
    return data is not None and formats is not None and "get" in backend.declared.capabilities


def _changed(image: Image | None, changes: Mapping[str, Any]) -> Image:
    """What the record will declare about the content."""
    fields = {n: changes[n] for n in ("disk_format", "container_format") if n in changes}
    return replace(Image(ref="") if image is None else image, **fields)


def _chosen(by_call: bool | None, configured: bool) -> bool:
    return configured if by_call is None else by_call
