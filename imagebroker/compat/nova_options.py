"""Nova's options about Glance, for a broker that is configured in nova.conf."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from imagebroker.compat.service_options import (
    ANYWHERE,
    WITHOUT_MEANING,
    Meanings,
    ServiceOptions,
    allowing_insecure,
    becomes,
    keystone_values,
    listed,
    prefix,
    service_token,
    truth,
)
from imagebroker.config.settings import Inherited, Settings
from imagebroker.registry import find_entry_points

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.broker import Broker

LOG = logging.getLogger(__name__)

#: Nova's defaults, which are not in the file: a command that reads it does not have Nova.
_INTERFACES = ["internal", "public"]
_RBD_TIMEOUT = 5
#: Older names of options of TLS.
_OLD_TLS = (
    ("glance", "api_insecure", "insecure"),
    ("ssl", "ca_file", "cafile"),
    ("ssl", "cert_file", "certfile"),
    ("ssl", "key_file", "keyfile"),
)
#: Nova's options of signatures, and the core's.
_SIGNATURES = {
    "verify_glance_signatures": "verify_signatures",
    "enable_certificate_validation": "enable_certificate_validation",
    "default_trusted_certificate_ids": "trusted_certificate_ids",
}
#: Nova's options of rbd, and those of `[backend:rbd]`.
_RBD = {
    "rbd_user": "user",
    "rbd_pool": "pool",
    "rbd_ceph_conf": "ceph_conf",
    "rbd_connect_timeout": "mon_timeout",
}


def broker_of(conf: cfg.ConfigOpts) -> Broker:
    """A broker on Nova's own configuration, which need not have a section for it.

    What `[imagebroker]` and `[backend:...]` set there counts; the rest is as Nova's options say.
    """
    from imagebroker.broker import Broker

    options = ServiceOptions(conf)
    if _wants_rbd(options) and not _has_rbd():
        LOG.warning(
            "[glance] enable_rbd_download is set, but Ceph's bindings (python3-rbd) are not "
            "installed: images are read through Glance"
        )
    return Broker(Settings(conf, inherited=lambda: inherited(conf)))


def inherited(conf: cfg.ConfigOpts) -> Inherited:
    """Nova's options as ours, by section."""
    options = ServiceOptions(conf)
    core: dict[str, Any] = {"enabled_schemes": ["glance"], "default_backend": "glance"}
    retries = options.get("num_retries", "glance", 3)
    core["retries"] = int(retries)
    for theirs, ours in _SIGNATURES.items():
        value = options.get(theirs, "glance")
        if ours == "trusted_certificate_ids":
            core[ours] = listed(value)
        else:
            core[ours] = truth(value)
    found = {"imagebroker": core, "backend:glance": _glance(options)}
    if _wants_rbd(options) and _has_rbd():
        core["enabled_schemes"] = ["glance", "rbd"]
        core["direct_url_schemes"] = ["rbd"]
        found["backend:rbd"] = _rbd(options)
    return found


def _glance(options: ServiceOptions) -> dict[str, Any]:
    values = {
        name: value
        for name in ("region_name", "service_type", "service_name")
        if (value := options.get(name, "glance"))
    }
    values["valid_interfaces"] = listed(options.get("valid_interfaces", "glance", _INTERFACES))
    if truth(options.get("send_service_user_token", "service_user")):
        login = keystone_values(options, "service_user")
        for name in ("region_name", "valid_interfaces", "service_type", "service_name"):
            login.pop(name, None)  # they would be of the service that checks the token
        values |= login
        if login.get("auth_type"):
            values["send_service_user_token"] = True
    values |= keystone_values(options, "glance")
    values["valid_interfaces"] = listed(values["valid_interfaces"])
    for group, old, new in _OLD_TLS:
        value = options.get(old, group)
        if new not in values and value not in (None, "", False):
            values[new] = value
    allowing_insecure(values, "[glance] insecure")
    servers = servers_of(options)
    if servers:
        values["endpoint"] = servers
    elif "endpoint" not in values:
        values["allowed_networks"] = ANYWHERE
    return values


def servers_of(options: ServiceOptions) -> list[str]:
    """The addresses of Glance that Nova's options name, as `prefix` writes them."""
    servers = listed(options.get("api_servers", "glance"))
    return [prefix(url) for url in servers or listed(options.get("endpoint_override", "glance"))]


def _rbd(options: ServiceOptions) -> dict[str, Any]:
    values = {ours: options.get(theirs, "glance") for theirs, ours in _RBD.items()}
    values["mon_timeout"] = max(1, int(values["mon_timeout"] or _RBD_TIMEOUT))
    return {name: value for name, value in values.items() if value not in (None, "")}


def _wants_rbd(options: ServiceOptions) -> bool:
    return truth(options.get("enable_rbd_download", "glance"))


def _has_rbd() -> bool:
    """Whether images can be read with it: the plugin needs Ceph's own bindings."""
    bindings = all(map(find_spec, ("rados", "rbd")))
    return bindings and "rbd" in find_entry_points()


def meanings(conf: cfg.ConfigOpts, ours: Inherited) -> Meanings:
    """What becomes of Nova's options about images, as `ours` has them."""
    options = ServiceOptions(conf)
    rbd = dict.fromkeys(
        ("enable_rbd_download", *_RBD), lambda name: _became_of_rbd(name, options, ours)
    )
    servers = listed(options.get("api_servers", "glance"))
    return {
        "glance": {
            **WITHOUT_MEANING,
            **{theirs: ("imagebroker", new) for theirs, new in _SIGNATURES.items()},
            **rbd,
            "num_retries": ("imagebroker", "retries"),
            "api_servers": ("backend:glance", "endpoint"),
            "api_insecure": ("backend:glance", "insecure"),
            "endpoint_override": (
                "has no effect: api_servers is set" if servers else ("backend:glance", "endpoint")
            ),
            "*": ("backend:glance", "*"),
        },
        "service_user": service_token(options, ours),
    }


def _became_of_rbd(name: str, options: ServiceOptions, ours: Inherited) -> str:
    if not _wants_rbd(options):
        return "has no effect: enable_rbd_download is off"
    if not _has_rbd():
        return "has no effect: install python3-rbd; images are read through Glance"
    if name == "enable_rbd_download":
        return "becomes [imagebroker] enabled_schemes = glance,rbd, direct_url_schemes = rbd"
    return becomes(ours, "backend:rbd", _RBD[name])
