"""The verbs that upload: `create`, `update`, and `import_image` by the service itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imagebroker.backends.boundary import Boundary
from imagebroker.exceptions import (
    Conflict,
    InvalidImageRef,
    UnsupportedOperation,
)
from imagebroker.model.image import Image, checked_info, without_none
from imagebroker.model.query import checked_import
from imagebroker.model.reference import ImageRef
from imagebroker.model.service import Target
from imagebroker.model.stored_fields import check_stored
from imagebroker.model.upload_data import ContentCheck, ImageData
from imagebroker.request import rules
from imagebroker.snapshot import Call
from imagebroker.transfer.limits import Cancel, Progress, Watch
from imagebroker.transfer.upload import uploaded
from imagebroker.verify.checks import upload_check
from imagebroker.verify.disk_format import FormatPolicy

if TYPE_CHECKING:
    from imagebroker.backends.backend import Context


def create(
    call: Call,
    context: Context,
    image_info: Mapping[str, Any],
    data: Any,
    backend: str | None,
    keep_record: bool = False,
    check_format: bool = True,
) -> Image:
    """As `Broker.create`."""
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
        check = upload_check(image, formats)
        with closing(_data(call, data, info, check, keep_record=keep_record)) as source:
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

    return root.stored(backend, context, call.routes.find(image.ref)[0], data.extra_digest) or image


def update(
    call: Call,
    context: Context,
    id_or_uri: str | ImageRef,
    image_info: Mapping[str, Any],
    data: Any,
    *,
    purge_props: bool,
    if_version: str | None,
    check_format: bool,
    target: Target | None,
) -> Image:
    """As `Broker.update`."""
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
                hint=f"see what it is now: imagebroker show {ref}; then repeat the change",
            )
        if data is None:
            return backend.update(context, ref, changes, None, purge_props)
        check = upload_check(changed(found, changes), formats)
        with closing(_data(call, data, changes, check, target=target or Target())) as source:
            try:
                image = uploaded(
                    source,
                    lambda: backend.update(context, ref, changes, source, purge_props),
                )
            finally:
                recorded.bytes = source.sent
            return _with_root(call, context, backend, image, source)


def import_image(
    call: Call,
    context: Context,
    id_or_uri: str | ImageRef,
    url: str | None,
    stores: Sequence[str],
    progress: Callable[[Progress], Any] | None,
    cancel: Cancel | None,
    limits: Mapping[str, Any],
) -> Image:
    """As `Broker.import_image`."""
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


def _upload_formats(call: Call, check_format: bool) -> FormatPolicy | None:
    """The formats that may be stored. Each caller can turn this check off: it is repeated in each
    download."""
    formats = call.snapshot.formats if check_format else None
    return None if formats is None else replace(formats, optional=True)


def _data(
    call: Call,
    data: Any,
    info: Mapping[str, Any],
    check: Callable[[int | None], ContentCheck] | None,
    **how: Any,
) -> ImageData:
    if call.snapshot.fleet is not None:
        from imagebroker.swarm.root import RecordedRoot  # where a swarm is configured

        how["hashed_by"] = RecordedRoot
    return ImageData(
        data, info.get("size"), stall_timeout=call.core.stall_timeout, checked_by=check, **how
    )


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
            raise InvalidImageRef(f"the {name} {value!r:.80} is not a valid name")


def _needs_record(backend: Boundary, data: Any, formats: FormatPolicy | None) -> bool:
    """Whether it matters what format the record declares, and it can be asked for."""
    return data is not None and formats is not None and "get" in backend.declared.capabilities


def changed(image: Image | None, changes: Mapping[str, Any]) -> Image:
    """The record as it will be, as far as it describes the content."""
    fields = {n: changes[n] for n in ("disk_format", "container_format") if n in changes}
    return replace(Image(ref="") if image is None else image, **fields)
