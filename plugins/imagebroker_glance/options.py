"""The options of `[backend:glance]`: our own, and all of keystoneauth's."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from oslo_config import cfg

from imagebroker.plugin import ConfigError, Options, keystone

#: In addition to keystoneauth's auth options. Options of the core (`endpoint`, ...) are not here.
OWN: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        "auth_type",
        deprecated_name="auth_plugin",
        help="Auth type of the service itself, by keystoneauth's name: password,"
        " v3applicationcredential, ... If not set, only callers with a token are served.",
    ),
    cfg.StrOpt("auth_section", help="Not supported: put the auth options in this section."),
    cfg.StrOpt("endpoint_override", help="Not supported: use endpoint."),
    cfg.StrOpt(
        "cafile",
        help="PEM file with the CA certificates to trust. Not set: those of the system.",
    ),
    cfg.StrOpt("certfile", help="PEM file with a client certificate."),
    cfg.StrOpt("keyfile", help="PEM file with the key of the client certificate."),
    cfg.BoolOpt("insecure", default=False, help="Accept any certificate. Needs allow_insecure."),
    cfg.BoolOpt(
        "allow_insecure",
        default=False,
        help="Confirms insecure: anyone on the network path can then read and change everything.",
    ),
    cfg.StrOpt(
        "min_tls",
        default="TLSv1.2",
        choices=["TLSv1.2", "TLSv1.3"],
        help="Minimum version of TLS.",
    ),
    cfg.FloatOpt(
        "timeout",
        min=0.1,
        help="Seconds without a byte after which a connection is dropped. Not set: the core's"
        " stall_timeout.",
    ),
    cfg.StrOpt("service_type", default="image", help="Type of the service in the catalogue."),
    cfg.StrOpt("service_name", help="Name of the service in the catalogue."),
    cfg.ListOpt(
        "valid_interfaces",
        help="Interfaces (public, internal, admin) to use from the catalogue, in order of"
        " preference. Not set: public.",
    ),
    cfg.StrOpt("interface", help="A single interface; valid_interfaces takes several."),
    cfg.StrOpt("region_name", help="Region of the endpoint in the catalogue."),
    cfg.StrOpt("min_version", help="Minimum version of the image API; version 2 is used."),
    cfg.DictOpt(
        "shared_directories",
        default={},
        help="Directories of the image service's file store that are mounted on this host, as"
        " ID:SERVER_DIRECTORY:LOCAL_DIRECTORY,... ID is the one in the store's metadata file."
        " Images in them are read as local files, if direct_url_schemes has file and"
        " allowed_paths of the file backend has LOCAL_DIRECTORY.",
    ),
    cfg.BoolOpt(
        "send_service_user_token",
        default=False,
        help="Send the service's own token together with the caller's, so that long transfers can"
        " continue after the caller's token has expired.",
    ),
)


@functools.cache
def backend_options() -> tuple[cfg.Opt, ...]:
    """All options of `[backend:glance]`; without keystoneauth only our own."""
    # `endpoint` (of none, http_basic, admin_token) is the core's option instead.
    taken = {"endpoint", *(opt.dest for opt in OWN)}
    return OWN + tuple(keystone.auth_options(taken))


class LazyOptions:
    """Looks them up at first use: importing keystoneauth takes a quarter of a second."""

    def __get__(self, instance: object, owner: type | None = None) -> Sequence[cfg.Opt]:
        return backend_options()


def check(options: Options, where: str) -> None:
    """Refuse combinations that cannot work.

    :raises ConfigError: names the option and the remedy.
    """
    for name, remedy in (
        ("auth_section", "put the auth options in this section"),
        ("endpoint_override", "set endpoint to the URL, with a / at the end"),
    ):
        if options.get(name):
            raise ConfigError(f"{where}: {name} is not supported", hint=remedy)
    keystone.check_complete(options, where)
    _check_endpoints(options, where)
    _check_catalogue(options, where)


def _check_endpoints(options: Options, where: str) -> None:
    for url in options.get("endpoint") or ():
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{where}: the endpoint {url!r} is not an http or https URL",
                hint="write it like https://host:9292/",
            )
        if url.rstrip("/").rpartition("/")[2] in ("v1", "v2"):
            raise ConfigError(
                f"{where}: the endpoint {url!r} includes a version",
                hint="write it without the version: https://host:9292/",
            )


def _check_catalogue(options: Options, where: str) -> None:
    for name in interfaces(options):
        if name.removesuffix("URL") not in ("public", "internal", "admin"):
            raise ConfigError(
                f"{where}: unknown interface {name!r}",
                hint="set valid_interfaces to public, internal or admin",
            )
    version = options.get("min_version")
    if version and version.lstrip("v").partition(".")[0] not in ("1", "2"):
        raise ConfigError(
            f"{where}: min_version is {version}, but this backend uses version 2",
            hint="remove min_version",
        )


def interfaces(options: Options) -> list[str]:
    """The interfaces to use from a catalogue, in order of preference."""
    if options.get("valid_interfaces"):
        return list(options["valid_interfaces"])
    return [options.get("interface") or "public"]
