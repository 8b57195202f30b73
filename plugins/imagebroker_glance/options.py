"""The options of `[backend:glance]`: our own few, and all that keystoneauth knows."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from oslo_config import cfg

from imagebroker.plugin import ConfigError, Options, entry_points

LOG = logging.getLogger(__name__)

#: Beside keystoneauth's auth options. What the core registers itself (`endpoint`, ...) is not here.
OWN: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        "auth_type",
        deprecated_name="auth_plugin",
        help="How the service itself authenticates, as keystoneauth names it: password,"
        " v3applicationcredential, ... Without it, only callers with a token are served.",
    ),
    cfg.StrOpt("auth_section", help="Not supported: write the auth options into this section."),
    cfg.StrOpt("endpoint_override", help="Not supported: use endpoint."),
    cfg.StrOpt(
        "cafile",
        help="PEM file of the certificate authorities to trust; the system's when not set.",
    ),
    cfg.StrOpt("certfile", help="PEM file of a client certificate."),
    cfg.StrOpt("keyfile", help="PEM file of the client certificate's key."),
    cfg.BoolOpt("insecure", default=False, help="Accept any certificate; needs allow_insecure."),
    cfg.BoolOpt(
        "allow_insecure",
        default=False,
        help="Confirms insecure: anybody on the way may then read and change everything.",
    ),
    cfg.StrOpt(
        "min_tls",
        default="TLSv1.2",
        choices=["TLSv1.2", "TLSv1.3"],
        help="Oldest version of TLS that is spoken.",
    ),
    cfg.FloatOpt(
        "timeout",
        min=0.1,
        help="Seconds without a byte after which a server counts as gone; stall_timeout of the"
        " core when not set.",
    ),
    cfg.StrOpt("service_type", default="image", help="Type of the service in the catalogue."),
    cfg.StrOpt("service_name", help="Name of the service in the catalogue."),
    cfg.ListOpt(
        "valid_interfaces",
        help="Interfaces (public, internal, admin) to look for in the catalogue, best first;"
        " public when not set.",
    ),
    cfg.StrOpt("interface", help="One interface; valid_interfaces takes several."),
    cfg.StrOpt("region_name", help="Region whose endpoint is taken from the catalogue."),
    cfg.StrOpt("min_version", help="Lowest image API version that is wanted; this is version 2."),
    cfg.DictOpt(
        "shared_directories",
        default={},
        help="Directories of the image service's file store that are mounted on this host, as"
        " ID:SERVER_DIRECTORY:LOCAL_DIRECTORY,... ID is what the store's metadata file says. Their"
        " images are then read as local files, where direct_url_schemes has file and"
        " allowed_paths of the file backend has LOCAL_DIRECTORY.",
    ),
    cfg.BoolOpt(
        "send_service_user_token",
        default=False,
        help="Send the service's own token beside the caller's, so that long transfers outlive it.",
    ),
)


@functools.cache
def backend_options() -> tuple[cfg.Opt, ...]:
    """Every option that `[backend:glance]` may hold; without keystoneauth only our own."""
    # `endpoint` (of none, http_basic, admin_token) is the core's list of prefixes.
    taken = {"endpoint", *(opt.dest for opt in OWN)}
    found: dict[str, cfg.Opt] = {}
    for opt in _auth_options():
        if opt.dest not in taken:
            found.setdefault(opt.dest, _oslo(opt))
    return OWN + tuple(found[dest] for dest in sorted(found))


def _auth_options() -> Iterator[Any]:
    """Those of every auth type that can be used here.

    Not `get_available_plugin_loaders`: that logs an error for each type whose own dependencies
    (lxml, Kerberos, ...) are not installed.
    """
    for point in sorted(entry_points("keystoneauth1.plugin"), key=lambda each: each.name):
        try:
            loader = point.load()()
            options = loader.get_options() if loader.available else []
        except Exception as error:
            LOG.debug("the auth type %s cannot be used: %s", point.name, error)
            continue
        yield from options


def _oslo(opt: Any) -> cfg.Opt:
    """A keystoneauth option for oslo.config: never required, as each auth type needs others."""
    return cfg.StrOpt(
        opt.dest,
        help=opt.help,
        secret=opt.secret,
        deprecated_opts=[cfg.DeprecatedOpt(old.dest) for old in opt.deprecated],
    )


class LazyOptions:
    """Looks them up when they are first read: importing keystoneauth takes a quarter second."""

    def __get__(self, instance: object, owner: type | None = None) -> Sequence[cfg.Opt]:
        return backend_options()


def check(options: Options, where: str) -> None:
    """Refuse combinations that cannot work.

    :raises ConfigError: naming the option and the remedy.
    """
    for name, remedy in (
        ("auth_section", "write the auth options into this section"),
        ("endpoint_override", "write the URL, ending in /, as endpoint"),
    ):
        if options.get(name):
            raise ConfigError(f"{where}: {name} is not supported", hint=remedy)
    if options.get("insecure") and not options.get("allow_insecure"):
        raise ConfigError(
            f"{where}: insecure is set, and allow_insecure is not",
            hint="name the server's certificate authority in cafile instead",
        )
    if options.get("keyfile") and not options.get("certfile"):
        raise ConfigError(f"{where}: keyfile is set, and certfile is not", hint="set certfile too")
    _check_endpoints(options, where)
    _check_catalogue(options, where)


def _check_endpoints(options: Options, where: str) -> None:
    for url in options.get("endpoint") or ():
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{where}: the endpoint {url!r} is no http or https URL",
                hint="write it as https://host:9292/",
            )
        if url.rstrip("/").rpartition("/")[2] in ("v1", "v2"):
            raise ConfigError(
                f"{where}: the endpoint {url!r} names a version",
                hint="write it without: https://host:9292/",
            )


def _check_catalogue(options: Options, where: str) -> None:
    for name in interfaces(options):
        if name.removesuffix("URL") not in ("public", "internal", "admin"):
            raise ConfigError(
                f"{where}: the interface {name!r} is unknown",
                hint="valid_interfaces holds public, internal or admin",
            )
    version = options.get("min_version")
    if version and version.lstrip("v").partition(".")[0] not in ("1", "2"):
        raise ConfigError(
            f"{where}: min_version is {version}, and this backend speaks version 2",
            hint="leave min_version out",
        )


def interfaces(options: Options) -> list[str]:
    """Which interfaces to look for in a catalogue, best first."""
    if options.get("valid_interfaces"):
        return list(options["valid_interfaces"])
    return [options.get("interface") or "public"]
