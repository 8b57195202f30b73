"""One call that wants the bytes of an image: where they come from, and what must hold for them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from imagebroker.backends.backend import Options
from imagebroker.backends.boundary import Boundary
from imagebroker.backends.opened_source import OpenedSource
from imagebroker.config.options import GROUP
from imagebroker.config.settings import Section, Settings
from imagebroker.exceptions import ImageBrokerError, InvalidImageRef, NotAuthorized, PolicyViolation
from imagebroker.model.image import TREE_ROOT, Image, Location
from imagebroker.model.reference import ImageRef
from imagebroker.snapshot import Call, Snapshot, decided_about_content
from imagebroker.transfer.demands import Demands
from imagebroker.transfer.fetch.candidates import Candidate, Waiting
from imagebroker.transfer.layers.entitlement import Entitlement, Resource, caller_of
from imagebroker.transfer.layers.single_flight import ALONE, Flying, SingleFlight
from imagebroker.transfer.limits import Cancel, Progress, Rules, Watch
from imagebroker.transfer.store.journal import Journal
from imagebroker.transfer.transfer import Transfer
from imagebroker.verify.checks import format_policy
from imagebroker.verify.checksum import Checksum, is_url, parse_checksum
from imagebroker.verify.disk_format import FormatPolicy
from imagebroker.verify.signature import (
    checked_certificates,
    required_signature,
)

if TYPE_CHECKING:
    from imagebroker.backends.backend import Context
    from imagebroker.transfer.layers.cache import Cache
    from imagebroker.transfer.layers.cached import CacheLayer
    from imagebroker.transfer.layers.swarm import SwarmLayer

#: What `download` and `open` accept beside their named arguments: options of the configuration.
_OVERRIDES = (
    "deadline", "stall_timeout", "min_rate", "retries", "retry_backoff", "allow_unknown_size",
    "allow_empty", "rate_limit", "max_compression_ratio",
)  # fmt: skip


class Request:
    """Made from a call's arguments, without any I/O."""

    def __init__(
        self,
        call: Call,
        context: Context,
        id_or_uri: str | ImageRef,
        *,
        checksum: str | None = None,
        trusted_certs: Sequence[str] | None = None,
        allowed_formats: Sequence[str] | None = None,
        check_format: bool = True,
        require_checksum: bool | None = None,
        max_size: int | None = None,
        prefer: Sequence[str] = (),
        progress: Callable[[Progress], Any] | None = None,
        cancel: Cancel | None = None,
        limits: Mapping[str, Any],
    ) -> None:
        """:raises InvalidImageRef, SchemeNotEnabled, PolicyViolation: an argument is refused."""
        self._call, self._routes, self._context = call, call.routes, context
        if prefer != ():
            _check_stores(prefer)
        self._prefer = prefer or call.core.prefer
        settings = call.settings
        self.ref, self.backend = call.routes.find(id_or_uri)
        self._demands = _demands(
            call.snapshot, context, self.ref, self.backend, checksum, trusted_certs,
            _content_policy(call.snapshot, allowed_formats, check_format), require_checksum,
        )  # fmt: skip
        limited = rules(settings.core, max_size, limits)
        self.watch = Watch(limited, progress, cancel, settings.tuning)
        if call.snapshot.fleet is not None and settings.core.swarm_store_root:
            from imagebroker.swarm.root import to_compute  # where a swarm is configured

            self._demands = self._demands._replace(extra_digests=to_compute)
        ref, backend = self.ref, self.backend
        self.entitlement = Entitlement(
            Resource.of(backend, ref),
            ref.text,
            lambda left, waiting, version: backend.probe(
                context, ref, version=version, timeout=left, waiting=waiting
            ),
            self.watch,
            caller_of(context, backend),
        )
        #: Where `checksum` leads, if it is a URL that was not read yet.
        self._file = None
        if checksum is not None and is_url(checksum):
            self._file = call.routes.aside(str(checksum))

    @property
    def checks_format(self) -> bool:
        """Whether the content is checked."""
        return self._demands.formats is not None

    def part_key(self, decompress: str | None) -> str:
        """A key that tells this image's part file from those of others at the same destination."""
        wanted = self.ref.text if decompress is None else f"{self.ref.text} {decompress}"
        return hashlib.sha256(wanted.encode()).hexdigest()[:16]

    def may_go_on_with(self, kept: Journal) -> bool:
        """Whether an earlier call may have left that of this very image."""
        shared = kept.shares_digest(self._demands.checksums)
        return self.entitlement.may_fit(kept.resource, digest=shared)

    def transfer(self, decompress: str | None = None) -> Transfer:
        """The locations that may be read directly, then the backend itself; what must hold.

        :raises ImageBrokerError: the checksum file, or the record, cannot be read.
        """
        demands = self.demands()  # before any byte of the image is asked for
        demands = demands._replace(wanted=bool(demands.checksums))
        opener = partial(self.backend.open, self._context, self.ref)
        candidates = [Candidate(self.ref.text, opener, insecure=self.backend.insecure)]
        if self._call.core.direct_url_schemes and self.ref.id is not None:
            locations, record = self._locations(demands)
            candidates, demands = [*locations, *candidates], demands._replace(record=record)
        formats, tuning = demands.formats, self._call.settings.tuning
        if decompress is not None:  # the decompressed content is checked, not what arrives
            demands = demands._replace(formats=None, unpacks=True)
        return Transfer(candidates, demands, self.watch, tuning, decompress, formats)

    def _locations(self, demands: Demands) -> tuple[list[Candidate], Image | None]:
        """The locations to read directly, and the record; none if nothing could prove them."""
        schemes = self._call.core.direct_url_schemes
        record = self.backend.get(
            self._context, self.ref, include_locations=True, show_deleted=False
        )
        if record.strong_checksum is None and not demands.checksums:
            return [], None  # nothing could prove that a location has the same bytes
        found = [
            Candidate(
                location.url,
                partial(self._open_location, location.url),
                is_location=True,
                insecure=self._is_insecure(location.url),
                store=location.store,
            )
            for location in sorted(record.locations or (), key=self._preference)
            if location.url.partition(":")[0] in schemes
        ]
        if not found or self.entitlement.ask() is None:
            return [], None  # the backend itself says why the caller may not read it
        return found, record

    def _preference(self, location: Location) -> int:
        """Its place in the order of the caller; the others stay in the order of the record."""
        stores = self._prefer
        return stores.index(location.store) if location.store in stores else len(stores)

    def _is_insecure(self, url: str) -> bool:
        try:
            return self._routes.aside(url)[1].insecure
        except ImageBrokerError:
            return False  # it will not be read at all

    def flight(self, demands: Demands) -> AbstractContextManager[Flying]:
        """The part of this call in a transfer that others may need too, if downloads are shared."""
        flights = self._call.snapshot.flights
        if flights is None:
            return nullcontext(ALONE)
        return SingleFlight(flights, self.entitlement, self.ref.text, demands, self.watch)

    def cache(self, cache: Cache) -> CacheLayer:
        """The cache, for this call."""
        from imagebroker.transfer.layers.cached import CacheLayer  # where one is configured

        return CacheLayer(cache, self.entitlement, self.ref.text)

    def swarm(self, demands: Demands) -> AbstractContextManager[SwarmLayer | None]:
        """The part of this call in a swarm, if there is one."""
        if self._call.snapshot.fleet is None:
            return nullcontext()
        from imagebroker.transfer.layers.swarm import SwarmLayer  # where one is configured

        return SwarmLayer(self._call.snapshot.fleet, self.entitlement, demands, self.watch)

    def store_root(self, evidence: Mapping[str, Any]) -> None:
        """Write the root of the hash tree into the record, where that is allowed."""
        if TREE_ROOT in evidence:
            from imagebroker.swarm import root  # where a swarm is configured

            root.stored(self.backend, self._context, self.ref, evidence[TREE_ROOT])

    def demands(self) -> Demands:
        """The demands of the caller and the deployer, with the checksum file if one was named.

        :raises VerificationError: it does not list the image, or is not signed as it has to be.
        """
        if self._file is not None:
            named, self._file = self._file, None
            found = self._in_checksum_file(*named)
            self._demands = self._demands._replace(checksums=(found, *self._demands.checksums))
        return self._demands

    def _in_checksum_file(self, named: ImageRef, backend: Boundary) -> Checksum:
        from imagebroker.transfer.small_file import NotThere, read_small  # few calls have one
        from imagebroker.verify.checksum_file import LARGEST, TIMEOUT

        def read(ref: ImageRef) -> bytes:
            pins = () if ref.pin is None else (Checksum(*ref.pin, "the ref's pin"),)
            candidate = Candidate(ref.text, partial(backend.open, self._context, ref))
            aside = self.watch.aside(max_size=LARGEST, seconds=TIMEOUT)
            tuning = self._call.settings.tuning
            return read_small(Transfer([candidate], Demands(pins), aside, tuning), str(ref))

        def beside(ending: str) -> bytes | None:
            try:
                return read(named.with_ending(ending))
            except (NotThere, NotAuthorized):  # some servers say so of what is not there
                return None

        text, origin = read(named), str(named)
        if (keyring := self._call.snapshot.keyring) is not None:
            text, signer = keyring.verified(text, beside, origin)
            origin += f" (signed by {signer})"
        return self._listed(text, named, origin)

    def _listed(self, text: bytes, file: ImageRef, origin: str) -> Checksum:
        """The image's digest in a checksum file, under its ref's name or under the record's.

        A URL such as `/latest` leads to a file whose name only its server knows.
        """
        from imagebroker.verify.checksum_file import NotListed, find_checksum

        weak = self._demands.allow_weak
        try:
            return find_checksum(text, self.ref, origin, allow_weak=weak, file=file)
        except NotListed:
            called = self._name_in_record()
            if not called:
                raise
        return find_checksum(
            text, self.ref, origin, allow_weak=weak, file=file, also_called=[called]
        )

    def _name_in_record(self) -> bytes:
        """The image's name in the backend; empty where only opening it would tell."""
        if "get" not in self.backend.declared.capabilities:
            return b""
        try:
            name = self.backend.get(self._context, self.ref).name or ""
        except ImageBrokerError:
            return b""  # the download will say it in its own words
        return name.encode("utf-8", "surrogateescape")

    def _open_location(self, url: str, start: int, left: float, waiting: Waiting) -> OpenedSource:
        ref, backend = self._routes.find(url)
        return backend.open(self._context, ref, start, left, waiting)


def _check_stores(prefer: Sequence[str]) -> None:
    if isinstance(prefer, str) or not all(isinstance(each, str) for each in prefer):
        raise InvalidImageRef("prefer is a list of the names of stores", hint='write ["fast"]')


def _demands(
    snapshot: Snapshot,
    context: Context,
    ref: ImageRef,
    backend: Boundary,
    checksum: str | None,
    trusted_certs: Sequence[str] | None,
    formats: FormatPolicy | None,
    require_checksum: bool | None,
) -> Demands:
    settings = snapshot.settings
    weak = bool(settings.core.allow_md5)
    demanded = []
    if checksum is not None and not is_url(checksum):
        demanded.append(parse_checksum(checksum, allow_weak=weak))
    if ref.pin is not None:
        demanded.append(Checksum(*ref.pin, "the ref's pin"))
    policy, signature = snapshot.signatures, None
    if trusted_certs is not None or policy.verify_signatures:
        trusted = checked_certificates(trusted_certs)
        signature = partial(required_signature, context, trusted, policy, settings.conf)
    return Demands(
        tuple(demanded),
        require=_requires_checksum(settings, backend, require_checksum),
        allow_weak=weak,
        served=backend.declared.served_checksums,
        formats=formats,
        may_be_page=formats is not None and backend.declared.serves_pages,
        signature=signature,
    )


def _content_policy(
    snapshot: Snapshot, allowed: Sequence[str] | None, check: bool
) -> FormatPolicy | None:
    """The formats to accept; None if the content is not checked. A call cannot weaken what the
    deployer has configured.

    :raises PolicyViolation: it would be.
    :raises InvalidImageRef: a format is none that could be verified, or `check` contradicts them.
    """
    if check:
        if allowed is None:
            return snapshot.formats
        return format_policy(snapshot.settings.core, allowed)
    if allowed is not None:
        raise InvalidImageRef(
            "allowed_formats needs the content check, which is turned off",
            hint="omit either --no-check-format or --allowed-formats",
        )
    if (decided := decided_about_content(snapshot.settings)) is not None:
        raise PolicyViolation(
            f"[{GROUP}] {decided} is set, and a call cannot turn off the content check",
            hint=f"to allow that, remove {decided} from the config file",
        )
    return None


def _requires_checksum(settings: Settings, backend: Boundary, by_call: bool | None) -> bool:
    """As the call says, but what the deployer has written down is not weakened by a call.

    :raises PolicyViolation: it would be.
    """
    configured = bool(backend.host.options.require_checksum)
    if by_call is None:
        return configured
    section = Section(backend.host.name, backend.host.instance)
    if configured and not by_call and settings.is_set(section.group, "require_checksum"):
        raise PolicyViolation(
            f"[{section.group}] require_checksum is set, and a call cannot turn it off",
            hint="pass the digest with --checksum, or remove require_checksum from the config file",
        )
    return bool(by_call)


def rules(core: Options, max_size: int | None, limits: Mapping[str, Any]) -> Rules:
    """The configured limits, less those that a call sets itself.

    :raises TypeError: `limits` names something else.
    :raises InvalidImageRef: a value is not a number that can be a limit.
    """
    unknown = sorted(set(limits) - set(_OVERRIDES))
    if unknown:
        raise TypeError(f"unexpected argument {unknown[0]!r}")
    chosen = {name: getattr(core, name) for name in (*_OVERRIDES, "max_size")}
    for name, value in {**limits, "max_size": max_size}.items():
        if value is None:
            continue
        if not _is_usable(value):
            raise InvalidImageRef(f"{name} is {value!r:.80}, not a number from 0")
        chosen[name] = value
    return Rules(**chosen)


def _is_usable(value: Any) -> bool:
    if isinstance(value, int):
        return 0 <= value < 2**63
    return isinstance(value, float) and math.isfinite(value) and value >= 0
