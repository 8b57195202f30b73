"""The verbs that read: `get`, `open`, and `load` into the cache."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagebroker.backends.backend import Context, Options
from imagebroker.backends.boundary import Boundary
from imagebroker.exceptions import ConfigError, Gone, ImageBrokerError, VerificationError
from imagebroker.model.image import Image
from imagebroker.model.reference import ImageRef
from imagebroker.request import Request
from imagebroker.snapshot import Call
from imagebroker.transfer import download as transfer
from imagebroker.transfer.fetch.versions import Joining
from imagebroker.transfer.reader import ImageReader

if TYPE_CHECKING:
    from imagebroker.telemetry.calls import RecordedCall
    from imagebroker.transfer.layers.cache import Cache, Cached
    from imagebroker.transfer.layers.cached import CacheLayer
    from imagebroker.transfer.layers.swarm import SwarmLayer

LOG = logging.getLogger(__name__)


def get(
    call: Call,
    context: Context,
    id_or_uri: str | ImageRef,
    include_locations: bool = False,
    show_deleted: bool = True,
) -> Image:
    """As `Broker.get`."""
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
    policy = call.snapshot.formats
    if policy is None:
        return image
    from imagebroker.transfer.detection import detected  # only `get` needs it

    return detected(
        image, lambda: backend.open(context, ref), policy, call.core.stall_timeout,
        may_be_page=backend.declared.serves_pages,
    )  # fmt: skip


def open_image(
    call: Call,
    context: Context,
    id_or_uri: str | ImageRef,
    decompress: str | None,
    **arguments: Any,
) -> ImageReader:
    """As `Broker.open`; `arguments` are those of a `Request`."""
    request = Request(call, context, id_or_uri, **arguments)
    if decompress is not None:
        decompress = checked_kind_of(decompress)
    with call.record("open", request.backend.title, request.ref) as opening, ExitStack() as stack:
        wanted = request.transfer(decompress)
        swarm = stack.enter_context(request.swarm(wanted.demands))
        stream = transfer.opened(wanted if swarm is None else swarm.around(wanted))
        held = stack.pop_all()
    read = call.telemetry.begin("read", request.backend.title, request.ref)
    read.request_ids = opening.request_ids  # which its source goes on filling

    def ended(error: BaseException | None) -> None:
        if isinstance(error, ImageBrokerError):
            call.locate(error)
        read.bytes, read.retries = request.watch.done, request.watch.retries
        read.facts |= stream.facts
        if stream.evidence and swarm is not None:
            swarm.verified()
        held.close()
        read.end(error)

    reader = ImageReader(stream, ended)
    call.outlived_by(reader)
    return reader


def load(call: Call, request: Request, cache: Cache) -> Cached:
    """As `Broker.load`."""
    layer, demands = request.cache(cache), request.demands()
    with call.recorded("load", request.backend, request.ref, request.watch) as log:
        found = layer.present(demands)
        if found is not None:
            log.facts["via"] = "cache"
            return found
        try:
            with request.swarm(demands) as swarm:
                return _loaded(request, layer, log, swarm)
        except VerificationError as error:
            if call.snapshot.fleet is None:
                raise
            LOG.warning("%s; asking the backend itself, from the beginning", error)
        return _loaded(request, layer, log)


def _loaded(
    request: Request, layer: CacheLayer, log: RecordedCall, swarm: SwarmLayer | None = None
) -> Cached:
    wanted = request.transfer() if swarm is None else swarm.around(request.transfer())
    # What is cached under a version must all be of that version.
    stream = transfer.opened(wanted, Joining(allowed=False))
    with ImageReader(stream) as reader:
        found = layer.load(reader)
    if swarm is not None:
        swarm.verified()
    log.facts |= stream.facts
    return found


def cache_of(core: Options) -> Cache:
    """The configured cache.

    :raises ConfigError: there is none.
    """
    if not core.cache_dir:
        raise ConfigError(
            "no cache is configured", hint="set cache_dir in [imagebroker], and cache_size"
        )
    from imagebroker.transfer.layers.cache import Cache  # where one is configured

    return Cache(Path(core.cache_dir), core.cache_size)


def checked_kind_of(decompress: str) -> str:
    """:raises InvalidImageRef, UnsupportedOperation: as `codecs.checked_kind`."""
    from imagebroker.transfer.codecs import checked_kind  # few calls unpack anything

    return checked_kind(decompress)
