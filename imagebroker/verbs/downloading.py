"""`download`: chooses the destination, and composes what stands in front of it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from imagebroker.backends.backend import Options
from imagebroker.exceptions import (
    DestinationError,
    InvalidImageRef,
    UnsupportedOperation,
)
from imagebroker.request import Request
from imagebroker.snapshot import Call
from imagebroker.transfer import download as transfer
from imagebroker.transfer.account import facts
from imagebroker.transfer.download import Download
from imagebroker.transfer.layers.present import Presence, PresentAtPath, Unpacking
from imagebroker.transfer.store.destinations import AtPath, AtPathInOrder, Destination, IntoObject
from imagebroker.transfer.store.direct import DirectIO
from imagebroker.transfer.store.file_object import FileObject
from imagebroker.transfer.store.part_file import PartFile
from imagebroker.transfer.transfer import Transfer
from imagebroker.verbs.reading import cache_of, checked_kind_of

if TYPE_CHECKING:
    from imagebroker.transfer.store.converting import Conversion, ConvertedPath


@dataclass(frozen=True)
class StoreOptions:
    """How the image is to be stored: arguments of `Broker.download`."""

    decompress: str | None
    convert: str | None
    #: None: a file is left in place that is the image, and refused otherwise.
    overwrite: bool | None
    file_mode: int | None
    #: None: as configured. So with the next.
    keep_partial: bool | None
    preallocate: bool | None
    to_device: bool

    def keeps(self, core: Options) -> bool:
        """Whether a broken transfer leaves its part file. A decoder cannot go on where another
        one was."""
        return self.decompress is None and _chosen(self.keep_partial, core.keep_partial)


def download(
    call: Call,
    request: Request,
    dest: str | os.PathLike[str] | BinaryIO,
    options: StoreOptions,
) -> Download:
    """As `Broker.download`: a line for each kind of destination."""
    if options.decompress is not None:
        options = replace(options, decompress=checked_kind_of(options.decompress))
    conversion = None
    if options.convert is not None:
        conversion = _conversion(call.core, request, dest, options.convert)
    if options.to_device:
        _check_device(dest, options.overwrite, options.file_mode)
    with call.recorded("download", request.backend, request.ref, request.watch) as log:
        if not isinstance(dest, (str, bytes, os.PathLike)):
            done = _into_object(call, request, dest, options.decompress)
        elif options.to_device:
            done = _to_device(call, request, dest, options, conversion)
        else:
            done = _to_file(call, request, dest, options, conversion)
        log.facts |= facts(
            done.via, done.source, done.attempts, done.resumed_from, done.evidence, done.store
        )
        return done


def _into_object(call: Call, request: Request, dest: BinaryIO, decompress: str | None) -> Download:
    with FileObject(dest, fsync=call.core.fsync, process=call.process) as target:
        wanted = request.transfer(decompress)
        with request.swarm(wanted.demands) as swarm:
            return transfer.download(wanted, IntoObject(target), swarm=swarm)


def _to_file(
    call: Call,
    request: Request,
    dest: str | os.PathLike[str],
    options: StoreOptions,
    conversion: Conversion | None,
) -> Download:
    core, path, decompress = call.core, Path(os.fsdecode(dest)), options.decompress
    kind: dict[str, Any] = {
        "overwrite": options.overwrite, "file_mode": options.file_mode, "fsync": core.fsync,
    }  # fmt: skip
    speed: dict[str, Any] = {
        "preallocate": _chosen(options.preallocate, core.preallocate),
        "direct": DirectIO() if core.fsync and core.direct_io else None,
    }
    with PartFile(
        dest,
        key=request.part_key(decompress),
        fits=request.may_go_on_with if decompress is None else lambda kept: False,
        keep=options.keeps(core),
        **kind | (speed if conversion is None else {}),
    ) as part:
        if conversion is None:
            return _to_path(call, request, part, path, decompress)
        with PartFile(dest, key=request.part_key("raw"), **kind, **speed) as disk:
            into = conversion.into(disk, path, request.watch)
            return _to_path(call, request, part, path, decompress, into)


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
    unpacked = None if decompress is None else Unpacking(decompress, "decompressed_sha256")
    present: Presence = PresentAtPath(part, request.entitlement, unpacked)
    destination = _in_part(request, wanted, part, path, decompress)
    if into is not None:
        how = Unpacking(f"{decompress or ''} raw".strip(), "raw_sha256", is_disk=True)
        disk = PresentAtPath(into.disk, request.entitlement, how)
        destination, present = into.converting(destination, part), into.presence(present, disk)
    if in_order:
        with request.swarm(wanted.demands) as swarm:
            return transfer.download(wanted, destination, present=present, swarm=swarm)
    with request.flight(wanted.demands) as flight, request.swarm(wanted.demands) as swarm:
        cache = request.cache(cache_of(call.core)) if call.core.cache_dir else None
        done = transfer.download(wanted, destination, flight, cache, present, swarm)
    if call.core.swarm_store_root:
        request.store_root(done.evidence)
    return done


def _in_part(
    request: Request, wanted: Transfer, part: PartFile, path: Path, decompress: str | None
) -> Destination:
    if decompress is not None or part.sequential:
        return AtPathInOrder(part, path)
    return AtPath(part, path, request.entitlement, request.watch, wanted.tuning)


def _check_device(dest: object, overwrite: bool | None, file_mode: int | None) -> None:
    """:raises DestinationError: the call asks for what only a file has."""
    if not isinstance(dest, (str, bytes, os.PathLike)):
        raise DestinationError(
            "to_device needs the path of a device, not a file object",
            hint="name a device such as /dev/VG/LV",
        )
    if not overwrite or file_mode is not None:
        which = "file_mode" if overwrite else f"overwrite={overwrite}"
        raise DestinationError(
            f"{which} is for files: a device has no mode, and is always overwritten",
            hint=f"omit {which}",
        )


def _to_device(
    call: Call,
    request: Request,
    dest: str | os.PathLike[str],
    options: StoreOptions,
    conversion: Conversion | None,
) -> Download:
    from imagebroker.transfer.store import device_destinations as devices  # few calls do
    from imagebroker.transfer.store.block_device import BlockDevice

    decompress, keep = options.decompress, options.keeps(call.core)
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
            destination = conversion.converting(image, part, disk, destination, request.watch)
        cached = decompress is None and call.core.cache_dir
        cache = request.cache(cache_of(call.core)) if cached else None
        swarm = opened.enter_context(request.swarm(wanted.demands))
        return transfer.download(wanted, destination, cache=cache, swarm=swarm)


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


def _chosen(by_call: bool | None, configured: bool) -> bool:
    return configured if by_call is None else by_call
