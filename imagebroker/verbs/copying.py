"""`copy`: an image of one backend becomes one of another, as a clone if it can be."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from imagebroker.backends.opened_source import OpenedSource
from imagebroker.exceptions import UnsupportedOperation
from imagebroker.model.image import (
    Image,
    checked_info,
    copied_fields,
    without_none,
    without_tree_root,
)
from imagebroker.model.reference import ImageRef
from imagebroker.model.stored_fields import check_stored, fitting, left_out, not_stored
from imagebroker.request import Request
from imagebroker.snapshot import Call
from imagebroker.verbs.reading import get, open_image
from imagebroker.verbs.uploading import changed, create
from imagebroker.verify.checks import declared_format
from imagebroker.verify.disk_format import FormatPolicy

if TYPE_CHECKING:
    from imagebroker.backends.backend import Context
    from imagebroker.model.copied_image import CopiedImage


def copy(
    call: Call,
    context: Context,
    id_or_uri: str | ImageRef,
    image_info: Mapping[str, Any],
    *,
    backend: str,
    strict: bool,
    decompress: str | None,
    reading: Mapping[str, Any],
) -> CopiedImage:
    """As `Broker.copy`; `reading` are the arguments of `Request` for the source."""
    target = call.routes.named(backend).declared
    own = checked_info(image_info)
    check_stored(without_none(own), target.record_fields, backend)
    if "create" not in target.capabilities:
        raise UnsupportedOperation(
            f"the {backend} backend cannot create images",
            hint="`imagebroker backends` shows what each backend can do",
        )
    if decompress is None and (
        cloned := _cloned(call, context, id_or_uri, own, backend, strict, reading)
    ):
        return cloned
    with open_image(call, context, id_or_uri, decompress, **reading) as reader:
        info = copied_fields(reader.image)
        if decompress and info.get("container_format") == "compressed":
            info["container_format"] = "bare"
        if decompress:
            info = without_tree_root(info)
        lost = left_out(reader.image, info, target.record_fields, backend, strict)
        info = fitting(info, lost) | own
        if info.get("disk_format") is None and reader.image.id is None and not decompress:
            found = get(call, context, id_or_uri)
            info |= without_none({"disk_format": found.disk_format})
        if reader.size is not None:
            info["size"] = reader.size
        made = create(
            call, context, info, iter(reader), backend, check_format=reading["check_format"]
        )
        from imagebroker.model.copied_image import CopiedImage

        return CopiedImage(**vars(made), not_stored=lost)


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

    declared = declared_format(changed(image, info))
    found = inspected(source, formats, call.core.stall_timeout, declared)
    return {"disk_format": found.get("disk_format"), **without_none(info)}
