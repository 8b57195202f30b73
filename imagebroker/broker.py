"""The verbs. Each one: parse the ref, find its backend, ask it, look at the answer."""

from __future__ import annotations

import hashlib
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar, cast

from imagebroker.boundary import Boundary, OpenedSource
from imagebroker.config import Section, Settings, parse_backend
from imagebroker.data import ImageData
from imagebroker.exceptions import (
    ConfigError,
    Conflict,
    Gone,
    ImageBrokerError,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    SchemeNotEnabled,
    UnsupportedOperation,
    UploadFailed,
)
from imagebroker.image import FIELDS, Image, ImageQuery, checked_info
from imagebroker.reference import (
    ImageRef,
    below,
    check_form,
    id_below,
    looks_like_image_url,
    parse,
)
from imagebroker.registry import BackendInfo, Registry, capabilities_of
from imagebroker.telemetry import Call, Telemetry
from imagebroker.transfer import download as transfer
from imagebroker.transfer.cache import Cache, Cached
from imagebroker.transfer.compression import checked_kind
from imagebroker.transfer.detection import detected
from imagebroker.transfer.download import Download
from imagebroker.transfer.file_object import FileObject
from imagebroker.transfer.part_file import PartFile
from imagebroker.transfer.places import Demands, Place, Waiting
from imagebroker.transfer.reader import ImageReader
from imagebroker.transfer.rules import Cancel, Progress, Rules, Watch
from imagebroker.transfer.sharing import Share
from imagebroker.transfer.slots import Slots, SlotsInMemory, SlotsOnDisk
from imagebroker.transfer.small_file import NotThere, read_small
from imagebroker.transfer.through_cache import ThroughCache
from imagebroker.transfer.unpacked import opened
from imagebroker.verify.checks import format_policy
from imagebroker.verify.checksum import Checksum, parse_checksum
from imagebroker.verify.checksum_file import LARGEST, PATIENCE, find_checksum, is_url
from imagebroker.verify.openpgp import Keyring
from imagebroker.verify.signature import (
    SignaturePolicy,
    checked_certificates,
    required_signature,
)

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.backend import Context

LOG = logging.getLogger(__name__)
Verb = TypeVar("Verb", bound=Callable[..., Any])

#: What `download` and `open` accept beside their named arguments: options of the configuration.
_OVERRIDES = (
    "deadline", "stall_timeout", "min_rate", "retries", "retry_backoff", "allow_unknown_size",
    "allow_empty", "rate_limit", "max_compression_ratio",
)  # fmt: skip


@dataclass(frozen=True)
class Resolution:
    """Which backend an identifier belongs to, and why."""

    #: As the backend gets it.
    ref: ImageRef
    #: `NAME` or `NAME:INSTANCE`.
    backend: str
    #: The distribution and version that provide it.
    distribution: str
    reason: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class _Values:
    """What a configuration makes of a broker; replaced as a whole."""

    settings: Settings
    registry: Registry
    telemetry: Telemetry
    #: Where transfers are announced; None where nothing is shared.
    slots: Slots | None
    #: Whose signatures checksum files must have; None: nobody's.
    keyring: Keyring | None = None

    @classmethod
    def of(cls, settings: Settings, backends: Callable[[Settings], Registry]) -> Self:
        """:raises ConfigError: a value of the core is wrong, or a scheme has no single plugin."""
        core = settings.core
        try:
            format_policy(core, None)
            SignaturePolicy.configured(core, settings.limits)
            keyring = Keyring.configured(core)
            registry = backends(settings)
            registry.check_schemes()
        except ConfigError as error:
            settings.locate(error)
            raise
        telemetry = Telemetry(metrics=core.metrics, tracing=core.tracing)
        return cls(settings, registry, telemetry, _slots(settings), keyring)


def _verb(method: Verb) -> Verb:
    """A call that keeps the configuration that it begins with, whatever `reload` does meanwhile.

    Its errors say where the option stands that decides.
    """

    @wraps(method)
    def call(self: Broker, *args: Any, **kwargs: Any) -> Any:
        held = self._hold()
        answer = None
        try:
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
        settings = conf if isinstance(conf, Settings) else Settings(conf)
        self._values = _Values.of(settings, self._found_backends)
        #: The backend that the call under way is about; set in its own copy of the broker.
        self._asked: Boundary | None = None

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
        values = _Values.of(self._settings.again(), self._found_backends)
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
            if held._registry.hold():
                return held

    def _let_go(self, after: object) -> None:
        """The end of a call; where it answers with a reader or an iterator, the end of that."""
        if isinstance(after, Iterator):
            weakref.finalize(after, self._registry.let_go).atexit = False
        else:
            self._registry.let_go()

    def _locate(self, error: ImageBrokerError) -> None:
        (self._settings if self._asked is None else self._asked).locate(error)

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
        ref, backend = self._route(id_or_uri)
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
        return detected(image, lambda: backend.open(context, ref), policy, seconds)

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
        query = _query(filters, marker, limit, page_size, sort_key, sort_dir)
        source = self._named(backend)
        return _until_end(
            lambda: source.get_all(context, query), self.telemetry.begin("get_all", source.title)
        )

    @_verb
    def open(
        self,
        context: Context,
        id_or_uri: str | ImageRef,
        *,
        checksum: str | None = None,
        trusted_certs: Sequence[str] | None = None,
        max_size: int | None = None,
        allowed_formats: Sequence[str] | None = None,
        decompress: str | None = None,
        progress: Callable[[Progress], Any] | None = None,
        cancel: Cancel | None = None,
        **limits: Any,
    ) -> ImageReader:
        """The image as an object to read from. Its end means that every check has passed.

        The arguments are those of `download`.
        """
        ref, backend = self._route(id_or_uri)
        demands = self._demands(context, ref, backend, checksum, trusted_certs, allowed_formats)
        file = self._checksum_file(checksum)
        watch = Watch(self._rules(max_size, limits), progress, cancel)
        decompress = checked_kind(decompress)
        with self.telemetry.call("open", backend.title):
            places, demands = self._places(context, ref, backend, demands, watch, file)
            stream = opened(places, demands, watch, decompress)
        read = self.telemetry.begin("read", backend.title)

        def ended(error: BaseException | None) -> None:
            if isinstance(error, ImageBrokerError):
                self._locate(error)
            read.bytes, read.retries = watch.done, watch.retries
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
        trusted_certs: Sequence[str] | None = None,
        max_size: int | None = None,
        allowed_formats: Sequence[str] | None = None,
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
        :param trusted_certs: ids of certificates in the key manager; the image must have a
            signature whose certificate leads to a root among them.
        :param allowed_formats: disk formats that the content may have, instead of the configured.
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
        ref, backend = self._route(id_or_uri)
        demands = self._demands(context, ref, backend, checksum, trusted_certs, allowed_formats)
        file = self._checksum_file(checksum)
        watch = Watch(self._rules(max_size, limits), progress, cancel)
        decompress = checked_kind(decompress)
        fsync = bool(self._settings.core.fsync)
        with self._recorded("download", backend, watch):
            if not isinstance(dest, (str, bytes, os.PathLike)):
                with FileObject(dest, fsync=fsync) as target:
                    places, demands = self._places(context, ref, backend, demands, watch, file)
                    return transfer.to_file_object(places, demands, target, watch, decompress)
            path = Path(os.fsdecode(dest))
            wanted = ref.text if decompress is None else f"{ref.text} {decompress}"
            key = hashlib.sha256(wanted.encode()).hexdigest()[:16]
            core = self._settings.core
            keep = core.keep_partial if keep_partial is None else keep_partial
            keep = keep and decompress is None  # a decoder cannot go on where another one was
            allocate = core.preallocate if preallocate is None else preallocate
            with PartFile(
                dest, key=key, overwrite=overwrite, file_mode=file_mode, fsync=fsync, keep=keep,
                preallocate=allocate, direct=fsync and core.direct_io,
            ) as part:  # fmt: skip
                places, demands = self._places(context, ref, backend, demands, watch, file)
                if decompress is not None:
                    return transfer.unpacked_to_path(places, demands, part, watch, path, decompress)
                with self._share(context, ref, backend, demands, watch) as share:
                    if core.cache_dir:
                        cached = ThroughCache(self.cache, demands, watch, share)
                        return cached.to_path(places, part, path)
                    places = share.places(places)
                    return transfer.to_path(places, demands, part, watch, path, share)

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
        ref, backend = self._route(id_or_uri)
        demands = self._demands(context, ref, backend, checksum, None, None)
        watch = Watch(self._rules(None, limits), progress, cancel)
        if (file := self._checksum_file(checksum)) is not None:
            demands = self._with_checksum_file(context, ref, demands, watch, file)
        with self._share(context, ref, backend, demands, watch) as share:
            loading = ThroughCache(cache, demands, watch, share)
            found = loading.present()
            if found is not None:
                return found
            places, demands = self._places(context, ref, backend, demands, watch, None)
            with ImageReader(opened(places, demands, watch, None)) as reader:
                return loading.load(reader)

    def _share(
        self, context: Context, ref: ImageRef, backend: Boundary, demands: Demands, watch: Watch
    ) -> Share:
        """The part of one call in a transfer that others may need too."""
        where = "\n".join([backend.title, *backend.host.options.endpoint, ref.text])
        return Share(
            self._values.slots,
            hashlib.sha256(where.encode()).hexdigest(),
            ref.text,
            lambda left, waiting: backend.probe(context, ref, timeout=left, waiting=waiting),
            demands,
            watch,
        )

    @contextmanager
    def _recorded(self, verb: str, backend: Boundary, watch: Watch) -> Iterator[None]:
        """A transfer as a call of `verb`, with what was moved."""
        with self.telemetry.call(verb, backend.title) as call:
            try:
                yield
            finally:
                call.bytes, call.retries = watch.done, watch.retries

    def _demands(
        self,
        context: Context,
        ref: ImageRef,
        backend: Boundary,
        checksum: str | None,
        trusted_certs: Sequence[str] | None,
        allowed_formats: Sequence[str] | None,
    ) -> Demands:
        """Parsed before any I/O."""
        core = self._settings.core
        weak = bool(core.allow_md5)
        demanded = []
        if checksum is not None and not is_url(checksum):
            demanded.append(parse_checksum(checksum, allow_weak=weak))
        if ref.pin is not None:
            demanded.append(Checksum(*ref.pin, "the ref's pin"))
        return Demands(
            tuple(demanded),
            require=bool(backend.host.options.require_checksum),
            allow_weak=weak,
            served=backend.cls.served_checksums,
            formats=format_policy(core, allowed_formats),
            signature=partial(
                required_signature,
                context,
                checked_certificates(trusted_certs),
                SignaturePolicy.configured(core, self._settings.limits),
                self._settings.conf,
            ),
        )

    def _rules(self, max_size: int | None, limits: Mapping[str, Any]) -> Rules:
        unknown = sorted(set(limits) - set(_OVERRIDES))
        if unknown:
            raise TypeError(f"unexpected argument {unknown[0]!r}")
        values = {name: limits.get(name) for name in _OVERRIDES}
        core = self._settings.core
        chosen = {name: core[name] if value is None else value for name, value in values.items()}
        return Rules(max_size=core.max_size if max_size is None else max_size, **chosen)

    def _places(
        self,
        context: Context,
        ref: ImageRef,
        backend: Boundary,
        demands: Demands,
        watch: Watch,
        file: tuple[ImageRef, Boundary] | None,
    ) -> tuple[list[Place], Demands]:
        """The locations that may be read directly, then the backend itself."""
        if file is not None:  # before any byte of the image is asked for
            demands = self._with_checksum_file(context, ref, demands, watch, file)
        own = Place(ref.text, partial(_open, backend, context, ref), insecure=_insecure(backend))
        schemes = self._settings.core.direct_url_schemes
        if not schemes or ref.id is None:
            return [own], demands
        record = backend.get(context, ref, include_locations=True, show_deleted=False)
        if record.strong_checksum is None and not demands.checksums:
            return [own], demands  # nothing could prove that a location has the same bytes
        places = []
        for location in record.locations or ():
            if location.url.partition(":")[0] in schemes:
                places.append(
                    Place(
                        location.url,
                        partial(self._open_location, context, location.url),
                        insecure=self._is_insecure(location.url),
                    )
                )
        return [*places, own], replace(demands, record=record if places else None)

    def _is_insecure(self, url: str) -> bool:
        try:
            return _insecure(self._route_aside(url)[1])
        except ImageBrokerError:
            return False  # it will not be read at all

    def _checksum_file(self, checksum: str | None) -> tuple[ImageRef, Boundary] | None:
        """Where `checksum` leads, if it is a URL."""
        return self._route_aside(str(checksum)) if is_url(checksum) else None

    def _route_aside(self, url: str) -> tuple[ImageRef, Boundary]:
        """As `_route`; the call stays about the backend that it is about."""
        asked = self._asked
        try:
            return self._route(url)
        finally:
            self._asked = asked

    def _with_checksum_file(
        self,
        context: Context,
        ref: ImageRef,
        demands: Demands,
        watch: Watch,
        file: tuple[ImageRef, Boundary],
    ) -> Demands:
        """`demands`, and what a checksum file says about `ref`.

        :raises VerificationError: nothing, or it is not signed as it has to be.
        """
        named, backend = file

        def read(ref: ImageRef) -> bytes:
            pins = () if ref.pin is None else (Checksum(*ref.pin, "the ref's pin"),)
            place = Place(ref.text, partial(_open, backend, context, ref))
            aside = watch.aside(max_size=LARGEST, seconds=PATIENCE)
            return read_small(place, Demands(pins), aside, str(ref))

        def beside(ending: str) -> bytes | None:
            try:
                return read(named.with_ending(ending))
            except (NotThere, NotAuthorized):  # some servers say so of what is not there
                return None

        text, origin = read(named), str(named)
        if (keyring := self._values.keyring) is not None:
            text, signer = keyring.verified(text, beside, origin)
            origin += f" (signed by {signer})"
        found = find_checksum(text, ref, origin, allow_weak=demands.allow_weak)
        return replace(demands, checksums=(found, *demands.checksums))

    def _open_location(
        self, context: Context, url: str, left: float, waiting: Waiting
    ) -> OpenedSource:
        ref, backend = self._route(url)
        return _open(backend, context, ref, left, waiting)

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
    ) -> Image:
        """A new image, with its bytes where `data` is given: both, or neither.

        :param data: bytes, a path-like, a binary file object or an iterator of bytes.
        :param keep_record: should the bytes not be stored, leave the record, queued and without
            any, for an `update` with data.
        :raises UploadFailed: the bytes are not stored; `.image_id` if a record is left.
        """
        info = checked_info(image_info)
        target = self._named(backend)
        image = Image(ref=target.host.ref(info.get("id") or ""), **_given(info))
        with self.telemetry.call("create", target.title) as call:
            if data is None:
                return target.create(context, image, None)
            with closing(ImageData(data, size=info.get("size"))) as source:
                source.keep_record = keep_record
                try:
                    return self._uploaded(source, lambda: target.create(context, image, source))
                finally:
                    call.bytes = source.sent

    @_verb
    def update(
        self,
        context: Context,
        id_or_uri: str | ImageRef,
        image_info: Mapping[str, Any],
        data: Any = None,
        purge_props: bool = False,
        if_version: str | None = None,
    ) -> Image:
        """Change fields (None removes), own properties, and the bytes where none were stored.

        :raises Conflict: `if_version` is given, and the image's version is another.
        """
        changes = checked_info(image_info)
        ref, backend = self._route(id_or_uri)
        with self.telemetry.call("update", backend.title) as call:
            if if_version is not None:
                found = backend.get(context, ref, include_locations=False, show_deleted=False)
                if found.version != if_version:
                    raise Conflict(
                        f"{ref} has the version {found.version}, not {if_version}",
                        hint="look at it again, then repeat the change",
                    )
            if data is None:
                return backend.update(context, ref, changes, None, purge_props)
            with closing(ImageData(data, size=changes.get("size"))) as source:
                try:
                    return self._uploaded(
                        source, lambda: backend.update(context, ref, changes, source, purge_props)
                    )
                finally:
                    call.bytes = source.sent

    def _uploaded(self, data: ImageData, send: Callable[[], Image]) -> Image:
        """The record after an upload, compared with what was sent."""
        try:
            image = send()
        except ImageBrokerError as error:
            if data.failure is not None and error is not data.failure:
                data.failure.image_id = getattr(error, "image_id", None)
                raise data.failure from error
            raise
        wrong = [
            f"{name} {image.checksums[name]} instead of {digest}"
            for name, digest in data.checksums.items()
            if image.checksums.get(name, digest) != digest
        ]
        if image.size not in (None, data.sent):
            wrong.append(f"{image.size} bytes instead of {data.sent}")
        if wrong or not data.complete:
            raise UploadFailed(
                f"{image.ref} was stored with {'; '.join(wrong) or 'part of the data'}",
                hint="delete the image and create it again",
                image_id=image.id,
            )
        return image

    @_verb
    def delete(self, context: Context, id_or_uri: str | ImageRef) -> None:
        """Remove an image; a download that runs may finish."""
        ref, backend = self._route(id_or_uri)
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
        **limits: Any,
    ) -> Image:
        """A new image in `backend` with the bytes of another, verified on both sides."""
        if "create" not in capabilities_of(self._named(backend).cls):
            raise UnsupportedOperation(
                f"the {backend} backend cannot create images",
                hint="`imagebroker backends` shows what each backend can do",
            )
        with self.open(context, id_or_uri, checksum=checksum, **limits) as reader:
            info = _copied_fields(reader.image)
            if limits.get("decompress") and info.get("container_format") == "compressed":
                info["container_format"] = "bare"
            info |= dict(image_info or {})
            unknown = info.get("disk_format") is None and reader.image.id is None
            if unknown and not limits.get("decompress"):
                info |= _given({"disk_format": self.get(context, id_or_uri).disk_format})
            if reader.size is not None:
                info["size"] = reader.size
            return self.create(context, info, iter(reader), backend=backend)

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
        ref, backend = self._route(id_or_uri)
        _check_import(url, stores)
        if "import_image" not in capabilities_of(backend.cls):
            raise UnsupportedOperation(
                f"the {backend.title} backend has no service that could fetch images",
                hint="create or copy the image instead",
            )
        watch = Watch(self._rules(None, limits), progress, cancel)
        watch.location = url or ref.text
        with self.telemetry.call("import_image", backend.title):
            if url is None:
                watch.total = backend.get(context, ref).size
            for count in backend.import_image(context, ref, url, tuple(stores)):
                watch.done = count
                watch.check()
                watch.report("transfer")
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
        target = self._named(backend)
        with self.telemetry.call("purge", target.title):
            return list(target.purge(context, older_than, dry_run))

    # -- about the broker ------------------------------------------------------------------------

    @_verb
    def resolve(self, id_or_uri: str | ImageRef) -> Resolution:
        """Which backend an identifier belongs to, and why; no network is used.

        :raises InvalidImageRef, SchemeNotEnabled, BackendLoadError, PolicyViolation: as named.
        """
        ref, backend, reason = self._resolved(id_or_uri)
        return Resolution(ref, backend.title, backend.origin, reason, capabilities_of(backend.cls))

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

    # -- routing ---------------------------------------------------------------------------------

    def _route(self, id_or_uri: str | ImageRef) -> tuple[ImageRef, Boundary]:
        ref, backend, _ = self._resolved(id_or_uri)
        return ref, backend

    def _resolved(self, id_or_uri: str | ImageRef) -> tuple[ImageRef, Boundary, str]:
        """The ref as its backend gets it. In this order: grammar, enabled, form, policy."""
        ref = parse(id_or_uri)
        section, rest, reason = self._section(ref)
        self._asked = backend = self._backend(section, default=ref.scheme is None)
        form = backend.cls.ref_form
        if rest is not None and (image_id := id_below(rest, form)):
            ref = ImageRef(backend.host.ref(image_id), section.name, section.instance, image_id,
                           pin=ref.pin)  # fmt: skip
        elif ref.scheme is None:
            ref = replace(ref, text=backend.host.ref(ref.id or ""), scheme=section.name,
                          instance=section.instance)  # fmt: skip
        check_form(ref, form)
        backend.host.policy.check_ref(ref)
        return ref, backend, reason

    def _section(self, ref: ImageRef) -> tuple[Section, str | None, str]:
        """The instance that `ref` belongs to, what follows its endpoint, and why."""
        if ref.scheme is None:
            default = self._settings.core.default_backend
            return self._default(), None, f"a bare id goes to default_backend = {default}"
        if ref.id is not None:
            self._registry.check_enabled(ref.scheme)
            return Section(ref.scheme, ref.instance), None, "the ref names it"
        best: tuple[str, Section, str] | None = None
        for section in self._registry.sections():
            for prefix in self._endpoints(section, ref):
                rest = below(ref, prefix)
                if rest is not None and (best is None or len(prefix) > len(best[0])):
                    best = (prefix, section, rest)
        if best is not None:
            return best[1], best[2], f"it is below endpoint {best[0]} of [{best[1].group}]"
        if looks_like_image_url(ref):
            raise PolicyViolation(
                f"{ref} is the URL of an image in a service that is not configured",
                hint="set endpoint of a glance backend to that service, or use the image's id",
            )
        self._registry.check_enabled(ref.scheme)
        return Section(ref.scheme, None), None, f"its scheme is {ref.scheme}"

    def _endpoints(self, section: Section, ref: ImageRef) -> list[str]:
        """The prefixes of an instance; what is wrong with another backend's is its own matter."""
        try:
            return self._settings.endpoints(section)
        except ConfigError as error:
            if section.name == ref.scheme:
                raise
            LOG.warning("%s", error)
            return []

    def _default(self) -> Section:
        return parse_backend(self._settings.core.default_backend)

    def _named(self, title: str | None) -> Boundary:
        section = self._default() if title is None else parse_backend(title)
        self._asked = self._backend(section, default=title is None)
        return self._asked

    def _backend(self, section: Section, *, default: bool) -> Boundary:
        """`default`: nobody named it but `default_backend`."""
        try:
            return self._registry.backend(section)
        except SchemeNotEnabled as error:
            if not default:
                raise
            raise SchemeNotEnabled(
                f"default_backend is {section.title!r}, and {error}",
                hint=f"set default_backend to an enabled one, or name one; else {error.hint}",
                option="default_backend",
            ) from error


def _until_end(listed: Callable[[], Iterator[Image]], call: Call) -> Iterator[Image]:
    """The images; the call ends with the last one, or with the caller's interest in more."""
    try:
        images = listed()
    except BaseException as error:
        call.end(error)
        raise
    return _recorded_images(images, call)


def _recorded_images(images: Iterator[Image], call: Call) -> Iterator[Image]:
    try:
        yield from images
    except GeneratorExit:
        raise
    except BaseException as error:
        call.end(error)
        raise
    finally:
        call.end()


def _open(
    backend: Boundary, context: Context, ref: ImageRef, left: float, waiting: Waiting
) -> OpenedSource:
    return backend.open(context, ref, timeout=left, waiting=waiting)


def _insecure(backend: Boundary) -> bool:
    """Whether the deployer lets any server pass for the real one."""
    return bool(backend.host.options.get("insecure"))


def _slots(settings: Settings) -> Slots | None:
    if not settings.core.share_downloads:
        return None
    if settings.core.state_dir:
        return SlotsOnDisk(Path(settings.core.state_dir))
    if settings.state_home is not None:
        return SlotsOnDisk(settings.state_home, configured=False)
    return SlotsInMemory()


def _given(info: Mapping[str, Any]) -> dict[str, Any]:
    """Fields for a new record: what is None is not set."""
    return {name: value for name, value in info.items() if value is not None}


def _check_import(url: str | None, stores: Sequence[str]) -> None:
    """:raises InvalidImageRef: there is nothing to import, or from nowhere that can be asked."""
    if isinstance(stores, str) or not all(isinstance(store, str) and store for store in stores):
        raise InvalidImageRef("stores is a list of names")
    if url is None:
        if not stores:
            raise InvalidImageRef(
                "nothing is to be imported", hint="pass the url of the data, or stores to copy to"
            )
    elif parse(url).scheme not in ("http", "https"):
        raise InvalidImageRef(f"{parse(url)} is no http(s) URL", hint="the service fetches it")


#: What a copy keeps of the original's record.
_COPIED = ("name", "disk_format", "container_format", "min_disk", "min_ram", "tags")


def _copied_fields(image: Image) -> dict[str, Any]:
    found = {name: getattr(image, name) for name in _COPIED}
    return _given(found) | ({"properties": dict(image.properties)} if image.id else {})


_FILTERS = frozenset(FIELDS) - {"checksums", "properties", "locations", "members", "ref"}
_MORE_FILTERS = frozenset({"changes-since", "size_min", "size_max", "tag"})
_SORT_KEYS = _FILTERS - {"tags"}


def _query(
    filters: Mapping[str, Any] | None,
    marker: str | None,
    limit: int | None,
    page_size: int | None,
    sort_key: str,
    sort_dir: str,
) -> ImageQuery:
    """:raises InvalidImageRef: an argument is not one that `get_all` takes."""
    for name in filters or {}:
        own = isinstance(name, str) and name.startswith("property-") and name != "property-"
        if name not in _FILTERS and name not in _MORE_FILTERS and not own:
            raise InvalidImageRef(
                f"filters: {name!r} is unknown",
                hint="filter by a field of Image, tag, size_min, size_max, changes-since or "
                "property-<name>",
            )
    for title, number in (("limit", limit), ("page_size", page_size)):
        if number is None:
            continue
        least = 1 if title == "page_size" else 0
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise InvalidImageRef(f"{title} is {number!r}, not a number of images")
    if marker is not None and not isinstance(marker, str):
        raise InvalidImageRef(f"marker is {type(marker).__name__}, not the id of an image")
    if sort_key not in _SORT_KEYS or sort_dir not in ("asc", "desc"):
        raise InvalidImageRef(
            f"cannot sort by {sort_key!r} {sort_dir!r}",
            hint=f"asc or desc by one of {', '.join(sorted(_SORT_KEYS))}",
        )
    return ImageQuery(dict(filters or {}), marker, limit, page_size, sort_key, sort_dir)
