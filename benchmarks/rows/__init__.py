"""The rows, in the order of the table. Each is a context manager that yields the prepared row."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from benchmarks.bench import Bench
from benchmarks.contest import Row
from benchmarks.rows import (
    ceph,
    conversion,
    device,
    glance,
    http,
    local,
    memory,
    objects,
    oci,
    services,
    sharing,
    ssh,
    start,
    ways,
)

Prepared = Callable[[Bench], AbstractContextManager[Row]]

ROWS: dict[str, Prepared] = {
    "start": start.version,
    "import": start.importing,
    "http": http.plain,
    "http-memory": memory.plain,
    "https": memory.tls,
    "http-1m": memory.small,
    "http-4g": http.large,
    "http-sha512": http.sha512,
    "limited": ways.limited,
    "delayed": ways.delayed,
    "zeros": http.zeros,
    "file": local.same_disk,
    "file-sparse": local.sparse,
    "file-reflink": local.reflink,
    "scp": ssh.scp,
    "glance": glance.glance,
    "glance-https": glance.https,
    "glance-show": glance.show,
    "oci": oci.download,
    "s3": partial(objects.s3, "Swift", objects.on_swift),
    "s3-upload": partial(objects.s3_upload, "Swift", objects.on_swift),
    "s3-radosgw": partial(objects.s3, "radosgw", objects.on_radosgw),
    "s3-radosgw-upload": partial(objects.s3_upload, "radosgw", objects.on_radosgw),
    "swift": objects.swift,
    "rbd": ceph.full,
    "rbd-sparse": ceph.sparse,
    "device": device.sparse,
    "convert": conversion.convert,
    "nova-upload": partial(services.upload, "nova"),
    "nova-download": partial(services.download, "nova"),
    "nova-list": partial(services.listing, "nova"),
    "cinder-upload": partial(services.upload, "cinder"),
    "cinder-download": partial(services.download, "cinder"),
    "cinder-list": partial(services.listing, "cinder"),
    "sharing": sharing.sixteen,
    "cuts": ways.cuts,
}
