"""The options of the core: those of `[imagebroker]`, and those that every backend has."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any

from oslo_config import cfg, types

GROUP = "imagebroker"

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Size(types.ConfigType):
    """Bytes, with an optional binary unit: `4096`, `10G`, `16 TiB`. At least 1."""

    def __init__(self) -> None:
        super().__init__(type_name="size")

    def __call__(self, value: Any) -> int:
        match = re.fullmatch(r"(\d{1,18})\s*(?:([kmgt])(?:i?b)?|b)?", str(value).strip().lower())
        if match is None or int(match[1]) < 1:
            raise ValueError(f"{value!r} is not a size: write bytes, or a number like 512M or 10G")
        return int(match[1]) * _UNITS[match[2] or ""]

    def __repr__(self) -> str:
        return "Size"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return str(value)


def reloadable(options: Iterable[cfg.Opt]) -> list[cfg.Opt]:
    """The same options, marked so that a service's `mutate_config_files` updates their values,
    and with explanations that are not wrapped.

    A broker uses the new values after `reload`, not before.
    """
    found = [copy.copy(option) for option in options]
    for option in found:
        option.mutable = True
        # Wrapped once, where it is shown.
        option.help = " ".join((option.help or "").split()) or None
    return found


CORE_OPTIONS: Sequence[cfg.Opt] = reloadable((
    cfg.ListOpt(
        "enabled_schemes", default=[], sample_default=["file", "https", "glance"],
        help="Schemes to allow in refs. Plugins of other schemes are not even imported. If empty, "
        "every image is refused."),
    cfg.StrOpt(
        "default_backend", default="file",
        help="Backend (NAME or NAME:INSTANCE) for plain UUIDs, and for calls that name no "
        "backend."),
    cfg.ListOpt(
        "direct_url_schemes", default=[],
        help="Read an image directly from its locations with one of these schemes, and fall back "
        "to the backend itself. What they send must match the strong checksum of the image."),
    cfg.ListOpt(
        "prefer", default=[],
        help="Names of an image service's stores, best first: the order in which locations "
        "that may be read directly are tried. Other locations follow in the service's order."),
    cfg.Opt(
        "max_size", type=Size(), default=16 << 40, sample_default="16T",
        help="Refuse to download larger images (bytes, or with K, M, G, T)."),
    cfg.IntOpt(
        "max_compression_ratio", default=1000, min=1,
        help="When an image is decompressed: refuse more than this many times the bytes received, "
        "beyond the first GiB. max_size also applies to the decompressed image."),
    cfg.IntOpt(
        "deadline", default=86400, min=1,
        help="Seconds after which a transfer is aborted, even if bytes still arrive."),
    cfg.FloatOpt(
        "connect_timeout", default=10.0, min=0.01,
        help="Seconds within which a connection must be established."),
    cfg.FloatOpt(
        "stall_timeout", default=30.0, min=0.01,
        help="Seconds without a byte after which a connection is dropped and retried."),
    cfg.FloatOpt(
        "list_deadline", default=600.0, min=0.01,
        help="Seconds that a backend may take in total to list images. Time that the caller "
        "spends between two images does not count."),
    cfg.IntOpt(
        "list_max_records", default=100000, min=1,
        help="Maximum number of images in one list. A longer list ends in an error after these."),
    cfg.Opt(
        "list_max_size", type=Size(), default=256 << 20, sample_default="256M",
        help="Maximum size of all records in one list (bytes, or with K, M, G, T)."),
    cfg.IntOpt(
        "min_rate", default=1024, min=0,
        help="Minimum bytes a second, on average over each stall_timeout; a slower connection is "
        "dropped and retried. 0: no minimum."),
    cfg.Opt(
        "rate_limit", type=Size(),
        help="Maximum bytes a second for one transfer (or with K, M, G). Not set: no limit."),
    cfg.IntOpt(
        "retries", default=4, min=0,
        help="Retries in a row without new bytes, after which a transfer fails."),
    cfg.FloatOpt(
        "retry_backoff", default=0.5, min=0.0,
        help="Seconds to wait before the first retry; doubled for each further one, up to 16 "
        "times this value."),
    cfg.BoolOpt(
        "keep_partial",
        default=False,
        help="When a transfer fails or is interrupted, keep a hidden part file and its journal "
        "beside the destination, if a strong version or a required checksum can prove that the "
        "rest will match. The next download of the same image to the same destination resumes "
        "it. Removed after a day.",
    ),
    cfg.BoolOpt(
        "preallocate", default=False,
        help="Reserve disk space for the whole image before the first byte is written, if the "
        "file system supports it (fallocate). The file is then not sparse."),
    cfg.BoolOpt(
        "share_downloads", default=True,
        help="Share one transfer between simultaneous downloads of the same image to files: one "
        "fetches the data, the others read what it has stored. The backend must allow each caller "
        "to read the image, and each caller verifies its own copy."),
    cfg.StrOpt(
        "state_dir",
        help="Directory through which the processes of one user share transfers, on a local file "
        "system. It must belong to that user, with mode 0700, and is created if missing. Not set: "
        "a service shares within each broker only; the command uses "
        "$XDG_RUNTIME_DIR/imagebroker, or else $XDG_STATE_HOME/imagebroker."),
    cfg.StrOpt(
        "cache_dir",
        help="Directory of a cache of verified images. It must belong to the user of the service, "
        "with mode 0700, and is created if missing. Not set: no cache."),
    cfg.Opt(
        "cache_size", type=Size(), default=20 << 30, sample_default="20G",
        help="Maximum size of the cache (bytes, or with K, M, G, T). The least recently used "
        "images are removed first; images in use are never removed."),
    cfg.BoolOpt(
        "swarm", default=False,
        help="Experimental. Take images with a strong checksum from other hosts of the fleet that "
        "download them at the same time: each reads a share from the backend, with its own "
        "credentials. Needs imagebroker[swarm] and certificates of the fleet; see fleet.md."),
    cfg.StrOpt(
        "swarm_address",
        help="Address of this host at which other hosts of the fleet reach it."),
    cfg.StrOpt(
        "swarm_ports", default="7881-7888",
        help="Ports for other hosts, as FIRST-LAST: hosts call each other in the first half, and "
        "images travel in the second. Half of the range is the number of downloads that can be in "
        "swarms at the same time."),
    cfg.ListOpt(
        "swarm_members", default=[],
        help="Addresses of the hosts of the fleet, with a port if it is fixed, or DNS names that "
        "resolve to them. This host may be among them."),
    cfg.StrOpt(
        "swarm_members_dir",
        help="Directory on storage that all hosts of the fleet share and may write to: they find "
        "each other there."),
    cfg.StrOpt(
        "swarm_rack", default="",
        help="Name of the rack that this host is in. One host of a rack gets each chunk of an "
        "image from other racks, and passes it on within its own."),
    cfg.ListOpt(
        "swarm_rendezvous", default=[],
        help="HOST:PORT of `imagebroker swarm rendezvous`, where hosts find each other. Several: "
        "the first that answers is used."),
    cfg.StrOpt(
        "swarm_ca",
        help="File with the certificate of the fleet's own CA: a host with a certificate issued by "
        "it belongs to the fleet. `imagebroker swarm init` creates all three files."),
    cfg.StrOpt(
        "swarm_certificate",
        help="File with the certificate of this host. Each host needs its own."),
    cfg.StrOpt(
        "swarm_key",
        help="File with the key of this host's certificate."),
    cfg.StrOpt(
        "swarm_dir",
        help="Directory for images in transit, on a disk with enough space. It must belong to the "
        "user of the service, with mode 0700, and is created if missing."),
    cfg.Opt(
        "swarm_from", type=Size(), default=64 << 20, sample_default="64M",
        help="Minimum size of an image to be taken from other hosts (bytes, or with K, M, G, T)."),
    cfg.FloatOpt(
        "swarm_linger", default=15.0, min=0.0,
        help="Seconds for which a process goes on serving an image after its download."),
    cfg.Opt(
        "swarm_upload_limit", type=Size(),
        help="Maximum bytes a second that one download sends to other hosts (or with K, M, G). Not "
        "set: no limit."),
    cfg.Opt(
        "swarm_download_limit", type=Size(),
        help="Maximum bytes a second that one download takes from other hosts. Not set: no limit."),
    cfg.Opt(
        "swarm_backend_limit", type=Size(),
        help="Maximum bytes a second that one download in a swarm reads from the backend. Not set: "
        "no limit."),
    cfg.BoolOpt(
        "swarm_store_root", default=False,
        help="After a download, write the root of the image's hash tree into its record "
        "(imagebroker_btmh), if the caller may: other hosts can verify pieces with it. create "
        "and copy always do where swarm is on."),
    cfg.BoolOpt(
        "fsync", default=True,
        help="Flush an image and its directory entry to disk before reporting success. Without "
        "it, a power loss can lose the image; kill -9 still never leaves a partial one."),
    cfg.BoolOpt(
        "direct_io", default=True,
        help="Write images with O_DIRECT, bypassing the page cache, on file systems where that "
        "pays (ext4, XFS): it costs less CPU time and does not evict data that others use. Turn "
        "it off if images are read right after the download. No effect without fsync."),
    cfg.BoolOpt(
        "allow_md5", default=False,
        help="Accept md5 and sha1 where a checksum is required. They do not protect against "
        "attackers."),
    cfg.StrOpt(
        "checksum_keyring",
        help="File with OpenPGP keys, as exported by gpg --export. A checksum file that a call "
        "names by its URL is then accepted only with a signature by one of these keys. Needs "
        "imagebroker[openpgp]."),
    cfg.BoolOpt(
        "allow_unknown_size", default=False,
        help="Accept images with neither a known size nor a checksum."),
    cfg.BoolOpt(
        "allow_empty", default=False,
        help="Accept empty images even if neither a record nor a checksum says that they are "
        "empty."),
    cfg.BoolOpt(
        "inspect_formats", default=True,
        help="Inspect the content of every image: it must have the declared disk format and no "
        "other, and must not refer to other files. If off, only images that allowed_formats "
        "restricts are inspected."),
    cfg.ListOpt(
        "allowed_formats", default=[],
        help="Disk formats to accept, whatever the record declares (raw, qcow2, vmdk, vhd, vhdx, "
        "vdi, iso, luks). Empty: all of these."),
    cfg.Opt(
        "max_virtual_size", type=Size(), default=64 << 40, sample_default="64T",
        help="Refuse images with a larger virtual disk (bytes, or with K, M, G, T)."),
    cfg.IntOpt(
        "convert_timeout", default=3600, min=1,
        help="Seconds that qemu-img may take to convert an image to raw."),
    cfg.Opt(
        "convert_memory", type=Size(), default=2 << 30, sample_default="2G",
        help="Address space that qemu-img may use to convert an image (bytes, or with K, M, G)."),
    cfg.StrOpt(
        "convert_dir", default="/var/tmp",  # noqa: S108 - part files are made so that it is safe
        help="Directory for an image while it is converted to a device. On its way to a file, it "
        "is stored beside the file."),
    cfg.BoolOpt(
        "convert_unconfined", default=False,
        help="Run qemu-img without confinement where bubblewrap (bwrap) is missing or does not "
        "work. A malicious image that finds a bug in qemu-img can then do what the service can "
        "do. If off, such a host converts no images."),
    cfg.BoolOpt(
        "verify_signatures", default=False,
        help="Refuse images without a valid signature (properties img_signature...). Certificates "
        "are read from the key manager configured in [key_manager]. Needs "
        "imagebroker[signature]."),
    cfg.ListOpt(
        "trusted_certificate_ids", default=[],
        help="Ids of trusted certificates in the key manager, for calls that name none: issuers "
        "of signing certificates, up to the self-signed root."),
    cfg.BoolOpt(
        "enable_certificate_validation", default=True,
        help="Refuse a signature unless a trusted certificate issued its certificate. If off, any "
        "certificate in the key manager can sign, unless the call names trusted ones."),
    cfg.BoolOpt(
        "metrics", default=True,
        help="Count calls, bytes, seconds, retries and failures in the default registry of "
        "prometheus-client, if it is installed."),
    cfg.BoolOpt(
        "tracing", default=True,
        help="Record a span for each call, if OpenTelemetry's API is installed."),
))  # fmt: skip


def backend_options(require_checksum: bool = False) -> Sequence[cfg.Opt]:
    """The options that every backend has: the core implements them."""
    return reloadable((
        cfg.ListOpt(
            "endpoint", default=[],
            help="URI prefixes ending in /: refs that begin with one belong to this instance. For "
            "glance, also the URLs of its servers; other backends have an option of their own for "
            "that."),
        cfg.ListOpt(
            "allowed_networks", default=[],
            help="Networks to allow in addition to global addresses, for example 10.0.0.0/8."),
        cfg.ListOpt(
            "allowed_ports", default=[], item_type=types.Integer(min=1, max=65535),
            help="Ports to allow in addition to 80, 443, the default port of the scheme, and "
            "ports from 1024 up that no well-known service uses."),
        cfg.BoolOpt(
            "require_checksum", default=require_checksum,
            help="Refuse to download an image if neither the caller nor the record has a strong "
            "checksum for it."),
        cfg.StrOpt(
            "proxy", secret=True,
            help="HTTP proxy, as http://[user:password@]host:port. Write characters of the "
            "password other than letters and digits as %XX. If there is a config file, proxies "
            "in the environment are ignored. Protect a file that contains a password."),
    ))  # fmt: skip
