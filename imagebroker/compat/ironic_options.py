"""Ironic's options about images, for a broker that is configured in ironic.conf."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from imagebroker.compat.service_options import (
    ANYWHERE,
    WITHOUT_MEANING,
    Meanings,
    ServiceOptions,
    allowing_insecure,
    becomes,
    keystone_values,
    listed,
    truth,
)
from imagebroker.config.settings import Inherited, Settings

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.broker import Broker

LOG = logging.getLogger(__name__)

#: Ironic's defaults, which are not in the file: a command that reads it does not have Ironic.
_PATHS = ["/var/lib/ironic"]
_VERIFY_SECONDS = 5
#: Options of an adapter of keystoneauth, which Ironic gives defaults of its own.
_ADAPTER = ("valid_interfaces", "region_name", "service_type", "service_name")


def broker_of(conf: cfg.ConfigOpts) -> Broker:
    """A broker on Ironic's own configuration, which need not have a section for it.

    What `[imagebroker]` and `[backend:...]` set there counts; the rest is as Ironic's options say.
    Where Ironic accepts what a broker refuses, Ironic's default holds, and is logged once.
    """
    from imagebroker.broker import Broker

    _warn(ServiceOptions(conf))
    return Broker(Settings(conf, inherited=lambda: inherited(conf)))


def asking_broker_of(conf: cfg.ConfigOpts) -> Broker:
    """The same for `validate_href` and `show`, which conductors call while somebody waits."""
    from imagebroker.broker import Broker

    return Broker(Settings(conf, inherited=lambda: asking(conf)))


def asking(conf: cfg.ConfigOpts) -> Inherited:
    """Ironic's options as ours for `validate_href` and `show`: no retries, and little patience."""
    found = inherited(conf)
    seconds = ServiceOptions(conf).get("webserver_verify_timeout", default=_VERIFY_SECONDS)
    own = {"connect_timeout": float(seconds), "stall_timeout": float(seconds), "retries": 0}
    return {**found, "imagebroker": {**found["imagebroker"], **own}}


def inherited(conf: cfg.ConfigOpts) -> Inherited:
    """Ironic's options as ours, by section."""
    options = ServiceOptions(conf)
    paths = listed(options.get("file_url_allowed_paths", "conductor", _PATHS))
    schemes = ["glance", "http", "https", "oci"] + (["file"] if paths else [])
    core: dict[str, Any] = {
        "enabled_schemes": schemes,
        "default_backend": "glance",
        "allow_unknown_size": True,
        "allow_md5": truth(options.get("allow_md5_checksum", "agent")),
    }
    timeout = options.get("webserver_connection_timeout")
    if timeout:
        core |= {"connect_timeout": float(timeout), "stall_timeout": float(timeout)}
    if direct := options.get("allowed_direct_url_schemes", "glance"):
        core["direct_url_schemes"] = listed(direct)
    return {
        "imagebroker": core,
        "backend:glance": _glance(options),
        "backend:http": {"allowed_networks": ANYWHERE, **_tls(options)},
        "backend:oci": {"allowed_networks": ANYWHERE, **_registries(options)},
        "backend:file": {"allowed_paths": paths, "follow_links": True},
    }


def _glance(options: ServiceOptions) -> dict[str, Any]:
    values = keystone_values(options, "glance")
    for name in _ADAPTER:
        if name not in values and (value := options.get(name, "glance")):
            values[name] = value
    if values.get("auth_type"):
        values["send_service_user_token"] = True
    if "endpoint" not in values:
        values["allowed_networks"] = ANYWHERE
    return {"require_checksum": False, **values}


def _registries(options: ServiceOptions) -> dict[str, Any]:
    verify = options.get("verify_ca", "oci")
    values = _tls(options) if verify is None else _tls(options, "[oci] verify_ca", verify)
    if secrets := options.get("authentication_config", "oci"):
        values["pull_secret_file"] = secrets
    return values


def _tls(
    options: ServiceOptions, name: str = "webserver_verify_ca", verify: Any = None
) -> dict[str, Any]:
    """`verify`: True, False, or a file of certificates; by default what Ironic's option says."""
    values: dict[str, Any] = {}
    verify = str(options.get("webserver_verify_ca", default="True") if verify is None else verify)
    if verify.lower() in ("false", "0", "no", "off", "f", "n"):
        values = allowing_insecure({"insecure": True}, f"{name} = False")
    elif not truth(verify) and os.path.exists(verify):
        values["ca_file"] = verify
    minimum = options.get("webserver_tls_minimum_version")
    if minimum in ("1.2", "1.3"):
        values["min_tls"] = f"TLSv{minimum}"
    return values


def credentials(options: ServiceOptions, href: str) -> dict[str, str]:
    """What the server of an href is told.

    Nothing without `image_server_auth_strategy = http_basic`, or if the server is not one of
    `image_server_auth_hosts`.

    :raises ValueError: the strategy needs a user and a password; its text names what is missing.
    """
    if options.get("image_server_auth_strategy", "deploy") != "http_basic":
        return {}
    if not _is_known(options, urlsplit(href).hostname or ""):
        return {}
    names = ("image_server_user", "image_server_password")
    user, password = (options.get(name, "deploy") for name in names)
    missing = [name for name, value in zip(names, (user, password), strict=True) if not value]
    if missing:
        raise ValueError(f"Missing {missing} fields from HTTP(S) basic auth config")
    return {"username": str(user), "password": str(password)}


def _is_known(options: ServiceOptions, host: str) -> bool:
    """Whether a server may have the credentials of the configuration: as Ironic decides it."""
    known = [each.lower() for each in listed(options.get("image_server_auth_hosts", "deploy"))]
    if not known:
        return truth(options.get("image_server_auth_permit_unknown_hosts", "deploy", True))
    return any(host.endswith(each) if each[0] == "." else host == each for each in known)


def for_server(origin: str, secrets: Mapping[str, str]) -> dict[str, Any]:
    """The values of `[backend:http]` that send credentials to one web server, and to no other.

    :param origin: its scheme, host and port as a URL, with a `/` at the end.
    """
    return {"endpoint": [origin], "username": None, "password": None, "token": None, **secrets}


def broker_with(
    conf: cfg.ConfigOpts, group: str, own: Mapping[str, Any], base: Inherited | None = None
) -> Broker:
    """A broker with the same configuration but for some values of a section.

    :param base: Ironic's options as ours, if not those for a download.
    """
    from oslo_config import cfg

    from imagebroker.broker import Broker

    options, base = ServiceOptions(conf), inherited(conf) if base is None else base
    values = {each: {**base.get(each, {}), **options.section(each)} for each in base}
    values[group] = {**values[group], **own}
    empty = cfg.ConfigOpts()
    empty([], project="imagebroker", default_config_files=[], default_config_dirs=[])
    return Broker(Settings(empty, inherited=lambda: values))


def _warn(options: ServiceOptions) -> None:
    """Say where Ironic's default is weaker than a broker's, as long as nobody has decided."""
    for group, option, why in (
        ("backend:http", "allowed_networks", "images may come from any address, also of this site"),
        ("backend:file", "follow_links", "links below file_url_allowed_paths may lead anywhere"),
        ("backend:glance", "require_checksum", "images without a checksum are not verified"),
        ("imagebroker", "allow_unknown_size", "an answer without a length may be cut off unseen"),
    ):
        if option not in options.section(group):
            LOG.warning("as before, %s; [%s] %s decides", why, group, option)


def meanings(conf: cfg.ConfigOpts, ours: Inherited) -> Meanings:
    """What becomes of Ironic's options about images, as `ours` has them."""
    sent = "is sent to the server of each href, and to none that it redirects to"
    return {
        "DEFAULT": {
            "webserver_verify_ca": lambda name: _became_of_ca(ours, "http"),
            "webserver_connection_timeout": lambda name: (
                becomes(ours, "imagebroker", "connect_timeout") + ", and stall_timeout"
            ),
            "webserver_verify_timeout": "holds for validate_href and show, which do not retry",
            "webserver_tls_minimum_version": ("backend:http", "min_tls"),
            "webserver_tls_ciphers": "has no effect: the ciphers are those of the system",
            "allow_image_access_via_auth_token": _OWN_RULE,
            "ignore_project_check_for_admin_tasks": _OWN_RULE,
        },
        "deploy": {
            "image_server_auth_strategy": sent,
            "image_server_user": sent,
            "image_server_password": sent,
            "image_server_auth_hosts": "applies",
            "image_server_auth_permit_unknown_hosts": "applies",
        },
        "conductor": {
            "file_url_allowed_paths": (
                ("backend:file", "allowed_paths") if ours["backend:file"]["allowed_paths"]
                else "becomes [imagebroker] enabled_schemes without file"
            ),
            "disable_support_for_checksum_files": "applies",
        },
        "oci": {
            "verify_ca": lambda name: _became_of_ca(ours, "oci"),
            "authentication_config": ("backend:oci", "pull_secret_file"),
            "permit_fallback_to_http_transport": "has no effect: set [backend:oci] plain_http",
            "secure_cdn_registries": "has no effect: no secret follows a redirect",
        },
        "agent": {"allow_md5_checksum": ("imagebroker", "allow_md5")},
        "glance": {
            **WITHOUT_MEANING,
            **dict.fromkeys(_TEMPORARY, "stays Ironic's: its own code signs temporary URLs"),
            "allowed_direct_url_schemes": ("imagebroker", "direct_url_schemes"),
            "num_retries": "has no effect: [imagebroker] retries holds for the bytes, too",
            "endpoint_override": ("backend:glance", "endpoint"),
            "*": ("backend:glance", "*"),
        },
    }  # fmt: skip


def _became_of_ca(ours: Inherited, name: str) -> str:
    values, section = ours[f"backend:{name}"], f"backend:{name}"
    if values.get("insecure"):
        return f"becomes [{section}] insecure = True, with allow_insecure"
    if "ca_file" in values:
        return becomes(ours, section, "ca_file")
    return f"becomes [{section}] ca_file: the authorities of the system"


_OWN_RULE = "stays Ironic's: its own code decides who may use an image"
#: Options of temporary URLs, which agents read images with.
_TEMPORARY = (
    "swift_temp_url_key", "swift_temp_url_duration", "swift_temp_url_cache_enabled",
    "swift_temp_url_expected_download_start_delay", "swift_endpoint_url", "swift_api_version",
    "swift_account", "swift_account_prefix", "swift_container",
    "swift_store_multiple_containers_seed",
)  # fmt: skip
