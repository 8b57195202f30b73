"""The options of `[backend:swift]`: our own, and all of keystoneauth's."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from oslo_config import cfg

from imagebroker.plugin import http, keystone

MIB = 1024 * 1024
#: The auth type of Swift's own login (TempAuth), as swiftclient calls it.
V1 = "v1password"

#: In addition to keystoneauth's auth options.
OWN: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        "auth_type",
        help="How to log in: v1password for Swift's own login (TempAuth), or a type of "
        "keystoneauth (password, v3applicationcredential, ...). Without one, requests are "
        "anonymous, and storage_url must be set. Callers have their own tokens."),
    cfg.StrOpt("auth_section", help="Not supported: put the auth options in this section."),
    cfg.StrOpt(
        "storage_url", metavar="URL",
        help="URL of the account, such as https://swift.example.org/v1/AUTH_images, instead of "
        "the one that the login names."),
    cfg.StrOpt(
        "service_type", default="object-store",
        help="Type of the service in the catalogue."),
    cfg.StrOpt("service_name", help="Name of the service in the catalogue."),
    cfg.ListOpt(
        "valid_interfaces",
        help="Interfaces (public, internal, admin) to use from the catalogue, in order of "
        "preference. Not set: public."),
    cfg.StrOpt("region_name", help="Region of the endpoint in the catalogue."),
    cfg.StrOpt(
        "create_in", metavar="CONTAINER[/PREFIX]",
        help="Where create stores images and list looks for them."),
    cfg.IntOpt(
        "segment_size", default=32, min=1, max=5120,
        help="MiB in one segment of an image; one that is not larger is a single object."),
    cfg.IntOpt(
        "parallel_segments", default=4, min=1, max=32,
        help="Segments that are uploaded at once. Each one is in memory."),
    cfg.StrOpt(
        "segments_container",
        help="Container for segments. Not set: the container of create_in with _segments after its "
        "name."),
    cfg.StrOpt(
        "state_dir",
        help="Directory that records unfinished uploads: after one was killed, the next call sends "
        "only the segments that the server lacks. Not set: it sends all of them."),
    cfg.StrOpt(
        "tempurl_key", secret=True,
        help="Key of the account for temporary URLs (that of a container opens no segments). With "
        "it, they are the locations of images: anyone who has one can read the image until it "
        "expires."),
    cfg.StrOpt(
        "tempurl_digest", default="sha256", choices=["sha1", "sha256", "sha512"],
        help="Digest of temporary URLs; Ceph knows sha1 only."),
    cfg.IntOpt(
        "tempurl_seconds", default=86400, min=60,
        help="How long a temporary URL is valid."),
    # Basic authentication is no way to log in to Swift.
    *(option for option in http.OPTIONS if option.dest not in ("username", "password")),
)  # fmt: skip


@functools.cache
def backend_options() -> tuple[cfg.Opt, ...]:
    """All options of `[backend:swift]`; without keystoneauth only those for Swift's own login."""
    # `endpoint` is the core's option.
    taken = {"endpoint", *(opt.dest for opt in OWN)}
    found = {opt.dest: opt for opt in keystone.auth_options(taken)}
    for opt in _OF_V1:
        found.setdefault(opt.dest, opt)
    return OWN + tuple(found[dest] for dest in sorted(found))


_OF_V1 = (
    cfg.StrOpt("auth_url", help="Authentication URL"),
    cfg.StrOpt("username", help="Username"),
    cfg.StrOpt("password", secret=True, help="User's password"),
)


class LazyOptions:
    """Looks them up at first use: importing keystoneauth takes a quarter of a second."""

    def __get__(self, instance: object, owner: type | None = None) -> Sequence[cfg.Opt]:
        return backend_options()
