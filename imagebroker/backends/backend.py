"""The contract between the core and a backend plugin.

A plugin answers one question: *which bytes are these, and where do they come from?* It opens an
image (`ImageBackend.open`) and hands out its bytes (`ImageSource.read`). Everything else about a
download belongs to the core, which writes, verifies, retries, resumes, limits and reports; a plugin
that does any of these itself takes them away from the user.

What is not here, on purpose: destinations (a plugin never learns where bytes go), retries (raise,
and the core decides), progress, checksums of downloads, locks. The clauses are numbered in
``docs/contract.md``, each with the test that holds it.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from imagebroker.backends.listing import ListLimits, bounded
from imagebroker.backends.sockets import Sockets
from imagebroker.exceptions import ConfigError, ImageBrokerError, UnsupportedOperation
from imagebroker.model.image import Image, ImageQuery
from imagebroker.model.reference import DEFAULT_PORTS, ImageRef, RefForm
from imagebroker.model.upload_data import ImageData
from imagebroker.policy.addresses import MAX_REDIRECTS, Policy, open_beneath, redirected
from imagebroker.policy.proxies import PersonalProxies, Proxies, Proxy, named
from imagebroker.redaction import Secrets
from imagebroker.system.forks import Process, withhold_socket

if TYPE_CHECKING:
    from oslo_config import cfg
    from oslo_context.context import RequestContext

    #: Who asks: the caller's request context, or None for the service's own identity.
    Context = RequestContext | None
else:
    Context = object  # importing oslo.context would cost every start; only type checkers look

#: The newest version of this contract. Every version ever published is supported.
API_VERSION = 1

#: What `read` yields: anything with the buffer protocol, never modified after it was yielded.
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Limits:
    """How long and how much a backend may take; the deployer's values."""

    #: Seconds until a connection must stand.
    connect_timeout: float = 10.0
    #: Seconds without a byte after which a peer counts as gone.
    stall_timeout: float = 30.0
    #: Redirects that are followed.
    redirects: int = MAX_REDIRECTS
    #: Bytes of any answer that is not image data.
    max_answer: int = 8 * 1024 * 1024
    #: A good size of one chunk, in bytes.
    chunk_size: int = 1024 * 1024
    #: How long a list may become: the core ends it there. A plugin that has to read all of it
    #: before it can yield the first image heeds them itself.
    lists: ListLimits = field(default_factory=ListLimits)


class Options(Mapping[str, Any]):
    """The values of one backend instance's options when it was made; `options.name` works too."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = MappingProxyType(dict(values))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_values":
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no option {name}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Options({', '.join(sorted(self._values))})"  # values may be secrets


@dataclass
class BackendHost:
    """What a backend gets from the core: its options, and the guarded ways to the outside."""

    #: The backend's name.
    name: str
    #: This instance's option values.
    options: Options
    #: None for the instance of `[backend:<name>]`.
    instance: str | None = None
    limits: Limits = field(default_factory=Limits)
    #: True where a person runs the command without a config file: their own keys, known hosts and
    #: clouds may be used, and any path be read.
    personal: bool = False
    policy: Policy = field(default_factory=Policy, repr=False)
    #: What no error and no message of this instance may show.
    secrets: Secrets = field(default_factory=Secrets, repr=False)
    _sockets: Sockets = field(default_factory=Sockets, repr=False)
    _process: Process = field(default_factory=Process, repr=False)
    _proxies: Proxies | None = field(default=None, repr=False)

    def conceal(self, *texts: str | None) -> None:
        """Show these in no error of this instance: a token, say, which a server may repeat.

        The values of options that are `secret`, the caller's token and the query of a ref are
        concealed already.
        """
        self.secrets.add(*texts)

    def ref(self, image_id: str) -> str:
        """The ref of an id in this instance: what belongs into `Image.ref`."""
        return ":".join(filter(None, (self.name, self.instance, image_id)))

    def connect(
        self, host: str, port: int, *, timeout: float | None = None, prefer: str | None = None
    ) -> socket.socket:
        """A TCP connection to an address of `host` that the policy allows.

        :param prefer: the address to try first, if the name still leads to it.
        :param timeout: seconds, `limits.connect_timeout` by default; the socket then waits for
            `limits.stall_timeout` in each later call.
        :raises PolicyViolation: the address or port is refused; nothing was sent.
        :raises TransferError: nobody answers there, or nobody waits for this call any more.
        :raises Cancelled: this is a child of the process that the instance belongs to. Its
            connections are dead in every child.
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

    @property
    def proxies(self) -> Proxies:
        """What says which proxy a request takes: `proxy`, or the environment of a person who runs
        the command without a config file.

        :raises ConfigError: `proxy` cannot be used.
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
                title = ":".join(filter(None, ("backend", self.name, self.instance)))
                raise ConfigError(
                    f"[{title}] proxy: {error}", hint="write http://host:port"
                ) from None
        return self._proxies

    def proxy(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The HTTP proxy for requests to a server; None: it is asked directly.

        Its `authorization` is for the proxy alone.

        :raises ConfigError: a variable names one that cannot be used.
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
        """`connect` for a request to a web server: to it, or to the proxy that `proxy` gave.

        :param prefer: the address to try first, if the name still leads to it.
        :raises PolicyViolation, TransferError: as `connect`; they say that it was about the proxy.
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
        """What to do where only a proxy that nobody reads leads to a server."""
        if self.personal or self.options.get("proxy"):
            return ""
        try:
            found = PersonalProxies(os.environ).find(scheme, host, port)
        except ConfigError:
            return ""
        if found is None:
            return ""
        title = ":".join(filter(None, ("backend", self.name, self.instance)))
        return (
            f"{found.named_by} names a proxy, which is not used where there is a config file; "
            f"if it is needed, write into [{title}]: proxy = {found.site}"
        )

    def open_beneath(self, root: str | os.PathLike[str], path: str | bytes) -> int:
        """A descriptor of the regular file `path` below `root`, following no link.

        :raises PolicyViolation, ImageNotFound, NotAuthorized: as the names say.
        """
        return open_beneath(root, path)

    def redirect(self, old: str, new: str) -> str:
        """The absolute URL to ask next, when `old` answered with `Location: new`.

        Credentials go along only if scheme, host and port stay the same; counting up to
        `limits.redirects` is the caller's.

        :raises PolicyViolation: it leads somewhere forbidden or less safe.
        """
        return redirected(old, new, self.policy)

    def bounded(self, images: Iterable[Image]) -> Iterator[Image]:
        """`images`, as long as they keep to `limits.lists`: for a plugin that has to collect them
        before it can yield the first. What is yielded, the core counts itself.

        :raises TooLarge, TransferTimeout: there are too many, or they take too long.
        """
        return bounded(
            images, ":".join(filter(None, (self.name, self.instance))), self.limits.lists
        )

    def abort(self, thread: int) -> None:
        """Shut down what `thread` has connected, so that a call that hangs there ends."""
        if self._process.is_current:
            self._sockets.abort(thread)

    def cut_off(self, thread: int) -> None:
        """Nobody waits for `thread` any more: the same, and it connects nothing more."""
        if self._process.is_current:
            self._sockets.cut_off(thread)

    def release(self, thread: int) -> None:
        """`thread` has ended: the next one with its number is another."""
        self._sockets.release(thread)


class ImageBackend(abc.ABC):
    """One place where images live. One instance serves all threads of the process.

    `context` is the caller's `oslo_context.context.RequestContext`, or None for the identity that
    the service is configured with. Errors are those of `imagebroker.exceptions`; any other
    exception is taken for a bug of the plugin and reported with its name.
    """

    #: The version of this contract that the plugin was written for: a number, no constant.
    api_version: ClassVar[int]
    #: Its options stand in `[backend:<name>]`; schemes of one name share class and instance.
    name: ClassVar[str]
    #: Which parts its refs have.
    ref_form: ClassVar[RefForm]
    #: oslo.config options beside the core's own (`endpoint`, `allowed_networks`, ...).
    options: ClassVar[Sequence[cfg.Opt]] = ()
    #: The default of the option of this name: whether a download must be covered by a strong
    #: checksum (True where every good record has one).
    require_checksum: ClassVar[bool] = False
    #: None: the checksums of its records were taken when the images were stored. Else what they are
    #: ("the server's ..."): they come with the bytes from whoever sends them, so they must hold and
    #: prove the transfer, and satisfy no `require_checksum`.
    served_checksums: ClassVar[str | None] = None
    #: True: servers of this kind may answer with a web page or another text where there is no image
    #: (a login, an error). What is text is then refused unless a digest proves that it is wanted.
    serves_pages: ClassVar[bool] = False

    def __init__(self, host: BackendHost) -> None:
        """Keep `host`; check options; no I/O.

        :raises ConfigError: an option cannot be used.
        """
        self.host = host

    @abc.abstractmethod
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        """Find the image and settle what its source can do. May start the request for byte 0.

        :raises ImageNotFound, NotAuthorized, NotReady, PolicyViolation, TransferError: as named.
        """

    def open_at(self, context: Context, ref: ImageRef, start: int) -> ImageSource:
        """As `open`, for a caller who will probably read from `start` on: not from byte 0.

        To be overridden where `open` starts a request, whose beginning would be sent in vain.
        """
        return self.open(context, ref)

    def probe(self, context: Context, ref: ImageRef) -> Image:
        """What `open` would settle as the image, for a caller that may read the bytes, without
        having them sent.

        Asked where the bytes are on this host already, or on their way to it for somebody else. A
        caller that could open the image but not read it must be refused here. Derived: the image
        of an opened source of which one byte, or the first chunk, was read.

        :raises: what `open` or the first `read` would raise.
        """
        source = self.open(context, ref)
        try:
            if source.image.size != 0:
                next(iter(source.read(0, 1 if source.seekable else None)), None)
            return source.image
        finally:
            source.close()

    def get(
        self,
        context: Context,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        """The record. Derived: that of an opened source."""
        source = self.open(context, ref)
        try:
            return source.image
        finally:
            source.close()

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        """The images that match, page by page as they are asked for."""
        raise self._unsupported("list images")

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        """A new record from the fields that are set in `image`, and its bytes, or neither.

        `image.id` is chosen by the caller or None. The returned record is the stored one.

        :raises Conflict: the id exists.
        :raises UploadFailed: the data could not be stored; no record is left (or `.image_id` says).
        """
        raise self._unsupported("create images")

    def update(
        self,
        context: Context,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        """Change fields (None removes), own properties, and data where none was stored yet."""
        raise self._unsupported("update images")

    def delete(self, context: Context, ref: ImageRef) -> None:
        """Remove the record; a download that runs may finish.

        :raises ImageNotFound, NotAuthorized, Conflict, PolicyViolation: in use, protected.
        """
        raise self._unsupported("delete images")

    def import_image(
        self, context: Context, ref: ImageRef, *, url: str | None, stores: Sequence[str]
    ) -> Iterator[int]:
        """Let the service fetch the data itself: of a queued image from `url`, or, without one, of
        an active image into more of its own `stores`.

        Yields how many bytes it has so far, at least once a second; ends when it has all of them.

        :raises Conflict: the image is not in the state for that.
        :raises UploadFailed: the service gave up.
        """
        raise self._unsupported("let its service fetch images")

    def purge(self, context: Context, older_than: float, dry_run: bool) -> Iterator[Image]:
        """Remove what is left of deleted images and of uploads that nobody goes on with.

        :param older_than: seconds; what is younger and might still be of use stays.
        :param dry_run: only say what would go.
        """
        raise self._unsupported("clear up after images")

    def close(self) -> None:  # noqa: B027 - nothing to let go of is the usual case
        """Let go of connections; called once, when no call is under way."""

    def _unsupported(self, what: str) -> UnsupportedOperation:
        return UnsupportedOperation(
            f"the {self.name} backend cannot {what}",
            hint="`imagebroker backends` shows what each backend can do",
        )


class ImageSource(abc.ABC):
    """One opened image that hands out its bytes.

    Settled by `open` and not changed afterwards, except that `seekable` may be lost.
    """

    #: What the backend claims about the bytes; the core checks it.
    image: Image
    #: True if `read(start)` works for any start.
    seekable: bool = False
    #: True where `seekable` is a hope: the peer has neither said nor shown that it can begin in the
    #: middle. It may become False.
    may_refuse_ranges: bool = False
    #: So many iterators of `read` may live at once, each in a thread of its own.
    parallel_reads: int = 1
    #: A file on this host with exactly these bytes: the core may copy it instead of calling `read`.
    local_path: Path | None = None
    #: How the peer says that the bytes are encoded, though it was asked for them as they are, and
    #: their name does not explain it (`foreign_coding`). They are handed out as they arrive; the
    #: core takes them where a digest covers them or the caller unpacks them.
    coding: str = ""

    @abc.abstractmethod
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        """Exactly the bytes from `start` to `stop` (the end by default), or raise.

        Yield what has arrived at least once a second: the core watches the rate. A request after
        the first is conditional on `image.version`.

        :raises ImageChanged: the bytes are no longer those of `image.version`.
        :raises RangeIgnored: before the first chunk: this peer cannot start in the middle.
        :raises UnconfirmedEnd: they stop where the end may be, and anybody may have cut them.
        :raises TransferError: the bytes stop before the end.
        """

    def ignore_version(self) -> None:  # noqa: B027 - a capability, which most sources lack
        """From now on `read` takes an answer of any version, if the size is the same.

        To be overridden where `image.version` is only the word of one server, and others behind
        the same name may give the same bytes another. The core calls it where it will compare a
        digest of the whole; no request is made.
        """

    def close(self) -> None:  # noqa: B027 - nothing to let go of is the usual case
        """Let go; idempotent, from any thread, also while a `read` waits (which then ends)."""
