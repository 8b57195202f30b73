"""The options of `[backend:rbd]`."""

from __future__ import annotations

from oslo_config import cfg

OPTIONS = (
    cfg.StrOpt(
        "ceph_conf", default="/etc/ceph/ceph.conf", metavar="FILE",
        help="Ceph's config file, with the monitors of the cluster."),
    cfg.StrOpt(
        "user", default="admin",
        help="Ceph user, without `client.`: the same as `rbd --id`."),
    cfg.StrOpt(
        "keyring", metavar="FILE",
        help="File with the user's key. If empty, the one that ceph_conf names."),
    cfg.StrOpt(
        "pool", metavar="POOL[/NAMESPACE]",
        help="Where create stores images and list looks for them."),
    cfg.StrOpt(
        "snapshot", default="snap",
        help="Name of the snapshot that create makes of a new image. Glance and Nova use `snap`."),
    cfg.IntOpt(
        "mon_timeout", min=1, max=3600,
        help="Seconds to wait for the monitors; connect_timeout if empty."),
    cfg.IntOpt(
        "osd_timeout", min=1, max=3600,
        help="Seconds to wait for one operation of an OSD; stall_timeout if empty."),
    cfg.IntOpt(
        "chunk_size", default=1, min=1, max=64,
        help="MiB that are read or written in one operation."),
    cfg.IntOpt(
        "parallel_operations", default=8, min=1, max=32,
        help="Operations of one image at the same time. Each takes two or three times its size in "
        "memory."),
)  # fmt: skip
