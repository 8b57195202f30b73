"""The contract between the core and a backend plugin.

A plugin answers one question: *which bytes are these, and where do they come from?* It opens an
image (`ImageBackend.open`) and reads its bytes (`ImageSource.read`). Everything else about a
download is done by the core: writing, verification, retries, resuming, limits, progress. A plugin
must not do any of these itself, because then they would work differently for its users.

Deliberately not here: destinations (a plugin never knows where the bytes go), retries (raise, and
the core decides), progress, checksums of downloads, locks. The clauses of the contract are numbered
in ``docs/contract.md``.

A complete read-only backend::

    class MemoryBackend(ImageBackend):
        api_version = 1
        name = "memory"
        ref_form = RefForm(id=True)

        def open(self, context, ref):
            if ref.id not in IMAGES:
                raise ImageNotFound(f"{ref}: no such image")
            return MemorySource(ref, IMAGES[ref.id])


    class MemorySource(ImageSource):
        seekable = True

        def __init__(self, ref, data):
            self.image = Image(ref=ref.text, id=ref.id, size=len(data))
            self._data = data

        def read(self, start=0, stop=None):
            yield self._data[start:stop]
"""

from __future__ import annotations

import abc
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlsplit

from imagebroker.backends.listing import ListLimits, bounded
from imagebroker.backends.sockets import Sockets
from imagebroker.exceptions import ConfigError, ImageBrokerError, UnsupportedOperation
from imagebroker.model.finding import Finding
from imagebroker.model.image import Image, ImageQuery
from imagebroker.model.reference import DEFAULT_PORTS, ImageRef, RefForm
from imagebroker.model.service import Member, Store
from imagebroker.model.upload_data import ImageData
from imagebroker.policy.addresses import MAX_REDIRECTS, Policy, open_beneath, redirected
from imagebroker.policy.proxies import PersonalProxies, Proxies, Proxy, named
from imagebroker.redaction import Secrets, redact
from imagebroker.system.forks import Process, withhold_socket

if TYPE_CHECKING:
    from oslo_config import cfg
    from oslo_context.context import RequestContext

    #: The caller's request context, or None for the service's own identity.
    Context = RequestContext | None
else:
    Context = object  # only for type checkers: importing oslo.context would slow down every start

#: The newest version of this contract. Every version ever published is supported.
API_VERSION = 1

#: Characters that stand for themselves in an opaque authority, and in a key.
_IN_NAME = "!$&'()*+,;=~"
_IN_KEY = _IN_NAME + "/:@"

#: What `read` yields: an object with the buffer protocol, never modified after it was yielded.
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Limits:
    """Time and size limits of a backend, as configured by the deployer."""

    #: Seconds within which a connection must be established.
    connect_timeout: float = 10.0
    #: Seconds without a byte after which a connection is dropped.
    stall_timeout: float = 30.0
    #: Maximum number of redirects to follow.
    redirects: int = MAX_REDIRECTS
    #: Maximum size of a response that is not image data, in bytes.
    max_answer: int = 8 * 1024 * 1024
    #: A good size of one chunk, in bytes.
    chunk_size: int = 1024 * 1024
    #: Limits of a list, enforced by the core. A plugin that must read the whole list before it can
    #: yield the first image enforces them itself (`BackendHost.bounded`).
    lists: ListLimits = field(default_factory=ListLimits)


class Options(Mapping[str, Any]):
    """The option values of one backend instance when it was created; also as `options.name`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        # An option cannot hide a method of a mapping, such as `get`.
        vars(self).update({name: values[name] for name in values if not hasattr(Options, name)})
        self._values = MappingProxyType(dict(values))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no option {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Options({', '.join(sorted(self._values))})"  # values may be secrets


@dataclass
class BackendHost:
    """What a backend gets from the core: its options, and checked access to network and files."""

    #: The backend's name.
    name: str
    #: This instance's option values.
    options: Options
    #: None for the instance of `[backend:<name>]`.
    instance: str | None = None
    limits: Limits = field(default_factory=Limits)
    #: True if a person runs the command without a config file: the backend can use their own keys,
    #: known hosts and clouds, and read any path.
    personal: bool = False
    policy: Policy = field(default_factory=Policy, repr=False)
    #: Secrets that no error and no message of this instance must show.
    secrets: Secrets = field(default_factory=Secrets, repr=False)
    _sockets: Sockets = field(default_factory=Sockets, repr=False)
    _process: Process = field(default_factory=Process, repr=False)
    _proxies: Proxies | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        """`NAME` or `NAME:INSTANCE`: how the refs of this instance can begin."""
        return ":".join(filter(None, (self.name, self.instance)))

    def conceal(self, *texts: str | None) -> None:
        """Hide these in all errors of this instance: for example a token that a server may echo.

        The values of `secret` options, the caller's token and the query of a ref are hidden
        already.
        """
        self.secrets.add(*texts)

    def ref(self, image_id: str) -> str:
        """The ref of an id in this instance, for `Image.ref`."""
        return f"{self.title}:{image_id}" if image_id else self.title

    def uri(self, authority: str, key: str) -> str:
        """The ref of a key in this instance, for `Image.ref`; `authority` is an opaque name."""
        return f"{self.title}://{quote(authority, safe=_IN_NAME)}/{quote(key, safe=_IN_KEY)}"

    def connect(
        self, host: str, port: int, *, timeout: float | None = None, prefer: str | None = None
    ) -> socket.socket:
        """A TCP connection to an address of `host` that the policy allows.

        :param prefer: the address to try first, if the name still resolves to it.
        :param timeout: seconds, by default `limits.connect_timeout`; the socket's timeout is then
            `limits.stall_timeout`.
        :raises PolicyViolation: the address or port is refused; nothing was sent.
        :raises TransferError: the connection failed, or the core has given up on this call.
        :raises Cancelled: this is a child of the process that owns the instance, whose connections
            cannot be used in a child.
        """
        self._process.check(f"this {self.name} backend")
        self._sockets.check()
        seconds = self.limits.connect_timeout if timeout is None else timeout
        own = DEFAULT_PORTS.get(self.name)
        sock = self.policy.connect(host, port, timeout=seconds, own=own, prefer=prefer)
        withhold_socket(sock)
        sock.settimeout(self.limits.stall_timeout)
        self._sockets.add(sock)
        return sock

    def for_server(self, url: str) -> BackendHost:
        """The same, allowed to connect to this server too, and without a proxy.

        For a service that the deployer's options name and no ref and no redirect may lead to, such
        as the metadata service of a cloud: what is reached through `self` stays the same.

        :raises ConfigError: it is no URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or DEFAULT_PORTS.get(parts.scheme)
            if not parts.hostname or port is None:
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"[backend:{self.title}]: {redact(url, 100)!r} is not the URL of a server",
                hint="write it as http://host[:port]",
            ) from None
        policy = Policy(configured=frozenset({(parts.hostname, port)}))
        return replace(self, policy=policy, _proxies=Proxies())

    @property
    def proxies(self) -> Proxies:
        """The proxy configuration: the option `proxy`, or, if a person runs the command without a
        config file, the environment.

        :raises ConfigError: `proxy` is invalid.
        """
        if self._proxies is None:
            configured = self.options.get("proxy")
            try:
                self._proxies = (
                    Proxies.configured(configured)
                    if configured
                    else PersonalProxies(os.environ)
                    if self.personal
                    else Proxies()
                )
            except ValueError as error:
                raise ConfigError(
                    f"[backend:{self.title}] proxy: {error}", hint="write it as http://host:port"
                ) from None
        return self._proxies

    def proxy(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The HTTP proxy for requests to a server; None to connect directly.

        Send its `authorization` only to the proxy.

        :raises ConfigError: a variable has an invalid proxy.
        """
        found = self.proxies.find(scheme, host, port)
        if found is not None:
            self.conceal(
                found.username, found.password, (found.authorization or "").removeprefix("Basic ")
            )
        return found

    def connect_web(
        self,
        scheme: str,
        host: str,
        port: int,
        proxy: Proxy | None = None,
        *,
        prefer: str | None = None,
    ) -> socket.socket:
        """As `connect`, for a request to a web server: to it, or to the proxy of `proxy`.

        :param prefer: the address to try first, if the name still resolves to it.
        :raises PolicyViolation, TransferError: as `connect`; their text names the proxy, if any.
        """
        via = proxy or Proxy(host, port, "")
        try:
            return self.connect(via.host, via.port, prefer=prefer)
        except ImageBrokerError as error:
            if proxy is not None:
                raise named(proxy, error) from error
            if (hint := self._unused_proxy(scheme, host, port)) and error.retryable:
                error.hint = hint
            raise

    def _unused_proxy(self, scheme: str, host: str, port: int) -> str:
        """The hint if a connection failed and the environment has a proxy that is not used."""
        if self.personal or self.options.get("proxy"):
            return ""
        try:
            found = PersonalProxies(os.environ).find(scheme, host, port)
        except ConfigError:
            return ""
        if found is None:
            return ""
        return (
            f"if the proxy of {found.named_by} is needed, add it to [backend:{self.title}]: "
            f"proxy = {found.site} (with a config file, the environment is not used)"
        )

    def open_beneath(self, root: str | os.PathLike[str], path: str | bytes) -> int:
        """A descriptor of the regular file `path` below `root`; links are not followed.

        :raises PolicyViolation: the path has a link or a `..` segment, or is not a regular file.
        :raises ImageNotFound, NotAuthorized: it does not exist, or cannot be read.
        """
        return open_beneath(root, path)

    def redirect(self, old: str, new: str) -> str:
        """The absolute URL to request next, if `old` answered with `Location: new`.

        Send credentials again only if scheme, host and port are the same, and follow at most
        `limits.redirects` redirects.

        :raises PolicyViolation: the target is forbidden, or less safe.
        """
        return redirected(old, new, self.policy)

    def bounded(self, images: Iterable[Image]) -> Iterator[Image]:
        """`images`, within `limits.lists`: for a plugin that must collect all of them before it can
        yield the first. The core itself limits what is yielded.

        :raises TooLarge, TransferTimeout: there are too many, or they take too long.
        """
        return bounded(images, self.title, self.limits.lists)

    def abort(self, thread: int) -> None:
        """Shut down the connections of `thread`, so that a call that hangs in it ends."""
        if self._process.is_current:
            self._sockets.abort(thread)

    def cut_off(self, thread: int) -> None:
        """Shut down the connections of `thread`, and refuse new ones: its call is given up."""
        if self._process.is_current:
            self._sockets.cut_off(thread)

    def release(self, thread: int) -> None:
        """Forget `thread`, which has ended: its id may be used again."""
        self._sockets.release(thread)


class ImageBackend(abc.ABC):
    """A place where images are stored. One instance serves all threads of the process.

    `context` is the caller's `oslo_context.context.RequestContext`, or None for the configured
    identity of the service. Raise errors of `imagebroker.exceptions`; any other exception counts as
    a bug in the plugin, and is reported with its name.
    """

    #: The version of this contract that the plugin was written for: a literal number.
    api_version: ClassVar[int]
    #: Its options are in `[backend:<name>]`; schemes of one name share class and instance.
    name: ClassVar[str]
    #: The parts that its refs have.
    ref_form: ClassVar[RefForm]
    #: oslo.config options in addition to the core's own (`endpoint`, `allowed_networks`, ...).
    options: ClassVar[Sequence[cfg.Opt]] = ()
    #: The fields of a record that `create` and `update` store (`"name"`, `"tags"`, `"properties"`,
    #: ...). The core refuses the others by name before anything is sent, and `copy` leaves them out
    #: and says so. None: not declared; everything is passed on. `size` and the formats describe the
    #: bytes and are always passed on.
    record_fields: ClassVar[Collection[str] | None] = None
    #: The options with the URLs of servers that it connects to (an `endpoint_url`): their hosts and
    #: ports are allowed as they are. (The core's `endpoint` is about refs: which of them belong to
    #: this instance.)
    servers: ClassVar[Sequence[str]] = ()
    #: The default of the option of this name: whether a download requires a strong checksum (True
    #: if normally every record has one).
    require_checksum: ClassVar[bool] = False
    #: None: the checksums in its records were computed when the images were stored. Otherwise a
    #: description ("the server's ..."): they come from the same server as the data. They are
    #: verified, which proves the transfer, but do not satisfy `require_checksum`.
    served_checksums: ClassVar[str | None] = None
    #: True: its servers may answer with a web page or other text instead of an image (a login, an
    #: error). Text is then refused unless a digest proves that it is wanted.
    serves_pages: ClassVar[bool] = False

    def __init__(self, host: BackendHost) -> None:
        """Store `host`, and check the options; without I/O.

        :raises ConfigError: an option is invalid.
        """
        self.host = host

    @abc.abstractmethod
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        """Find the image, and determine what its source can do. May start the request for byte 0.

        :raises ImageNotFound, NotAuthorized, NotReady, PolicyViolation, TransferError: as usual.
        """

    def open_at(self, context: Context, ref: ImageRef, start: int) -> ImageSource:
        """As `open`, for a caller that will probably read from `start` on, not from byte 0.

        Override it if `open` starts a request: its first bytes would be sent for nothing.
        """
        return self.open(context, ref)

    def probe(self, context: Context, ref: ImageRef) -> Image:
        """The image that `open` would return, if the caller is allowed to read the data; without
        transferring it.

        Called if the data is on this host already, or is being downloaded for another caller. A
        caller that could open the image but not read it must be refused here. Default: open the
        source, and read one byte, or the first chunk.

        :raises: what `open` or the first `read` would raise.
        """
        source = self.open(context, ref)
        try:
            if source.image.size != 0:
                next(iter(source.read(0, 1 if source.seekable else None)), None)
            return source.image
        finally:
            source.close()

    def revalidate(self, context: Context, ref: ImageRef, version: str) -> Image:
        """As `probe`, for a caller that has the bytes of `version`.

        Override it if the service answers a conditional request: of an image that still has this
        version, the ref and the version are enough. Default: `probe`.
        """
        return self.probe(context, ref)

    def get(
        self,
        context: Context,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        """The record. Default: that of an opened source."""
        source = self.open(context, ref)
        try:
            return source.image
        finally:
            source.close()

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        """The images that match, fetched page by page as they are needed."""
        raise self._unsupported("list images")

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        """Create a record from the fields set in `image`, and store its data: both, or neither.

        `image.id` is chosen by the caller, or None. Returns the stored record.

        :raises Conflict: the id exists.
        :raises UploadFailed: the data could not be stored; no record is left, or its id is in
            `.image_id`.
        """
        raise self._unsupported("create images")

    def clone(self, context: Context, image: Image, source: ImageSource) -> Image | None:
        """Create an image with the bytes of `source`, without transferring them.

        `source` was opened by an instance of this class, perhaps another one. Returns the stored
        record, or None if this cannot be done for this source: then its bytes are transferred.
        """
        return None

    def update(
        self,
        context: Context,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        """Change fields (None removes one), custom properties, and data if there is none yet."""
        raise self._unsupported("update images")

    def delete(self, context: Context, ref: ImageRef) -> None:
        """Remove the record; a download that is already running can finish.

        :raises ImageNotFound, NotAuthorized: as usual.
        :raises Conflict, PolicyViolation: it is in use, or protected.
        """
        raise self._unsupported("delete images")

    def import_image(
        self, context: Context, ref: ImageRef, *, url: str | None, stores: Sequence[str]
    ) -> Iterator[int]:
        """Have the service fetch the data itself: of a queued image from `url`, or, without one, of
        an active image into more of its own `stores`.

        Yields the number of bytes it has so far, at least once a second; ends when it has all.

        :raises Conflict: the image has the wrong status.
        :raises UploadFailed: the import failed.
        """
        raise self._unsupported("have its service fetch images")

    def stores(self, context: Context) -> Sequence[Store]:
        """The stores in which the service keeps data, if it has several and shows them.

        A backend with this method also keeps to `data.target` in `create` and `update`.
        """
        raise self._unsupported("choose between stores")

    def members(self, context: Context, ref: ImageRef) -> Sequence[Member]:
        """The projects that an image is shared with, as far as this caller may see them.

        :raises ImageNotFound, NotAuthorized: as usual.
        """
        raise self._unsupported("share images")

    def purge(self, context: Context, older_than: float, dry_run: bool) -> Iterator[Image]:
        """Remove leftovers of deleted images and of abandoned uploads.

        :param older_than: seconds; anything younger may still be in use and stays.
        :param dry_run: only list what would be removed.
        """
        raise self._unsupported("purge images")

    def check(self, context: Context) -> Iterator[Finding]:
        """Try what this instance is configured for, for `imagebroker check`: log in, and look
        whether what its options name is there. Change nothing.

        Yield a finding as soon as it is known, good ones too. An error that is raised becomes the
        last finding, a failure. The core limits the time, and hides secrets in the texts.
        """
        return iter(())

    def close(self) -> None:  # noqa: B027 - most backends have nothing to close
        """Close connections; called once, when no call is running."""

    def _unsupported(self, what: str) -> UnsupportedOperation:
        return UnsupportedOperation(
            f"the {self.name} backend cannot {what}",
            hint="see what each backend supports with: imagebroker backends",
        )


class ImageSource(abc.ABC):
    """One opened image, whose bytes can be read.

    Set by `open` and not changed afterwards, except that `seekable` may become False.
    """

    #: What the backend claims about the bytes; the core verifies it.
    image: Image
    #: True if `read(start)` works for any start.
    seekable: bool = False
    #: True if `seekable` is only an assumption: the server has not yet shown that it supports
    #: ranges. It may become False.
    may_refuse_ranges: bool = False
    #: The number of `read` iterators that can be open at once, each in a thread of its own.
    parallel_reads: int = 1
    #: A file on this host with exactly these bytes: the core may copy it instead of calling `read`.
    local_path: Path | None = None
    #: The Content-Encoding of the bytes, if the server encoded them although it was asked not to,
    #: and their name does not explain it (`foreign_coding`). They are yielded as received; the core
    #: accepts them if a digest covers them or the caller decompresses them.
    coding: str = ""

    @abc.abstractmethod
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        """Yield exactly the bytes from `start` to `stop` (default: the end), or raise.

        Yield what has arrived at least once a second: the core measures the rate. Make every
        request after the first conditional on `image.version`.

        :raises ImageChanged: the data is no longer that of `image.version`.
        :raises RangeIgnored: before the first chunk: the server does not support ranges.
        :raises UnconfirmedEnd: the data ended where it may be complete, or may have been cut off.
        :raises TransferError: the data ended too early.
        """

    def ignore_version(self) -> None:  # noqa: B027 - a capability, which most sources lack
        """From now on, accept a response of any version in `read`, if the size is the same.

        Override it if `image.version` is specific to one server, and others behind the same name
        may have another one for the same data. The core calls it if it verifies a digest of the
        whole; no request is made.
        """

    def close(self) -> None:  # noqa: B027 - most sources have nothing to close
        """Close it; idempotent, from any thread, even while a `read` waits (which then ends)."""
