"""Cinder's options about Glance, for a broker that is configured in cinder.conf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imagebroker.compat.service_options import (
    ANYWHERE,
    WITHOUT_MEANING,
    Meanings,
    ServiceOptions,
    allowing_insecure,
    keystone_values,
    listed,
    prefix,
    service_token,
    shown,
    truth,
)
from imagebroker.config.settings import Inherited, Settings

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.broker import Broker

#: Cinder's defaults, which are not in the file: a command that reads it does not have Cinder.
_RETRIES, _CATALOGUE = 3, "image:glance:publicURL"
#: Cinder's options and those of `[backend:glance]` for the same.
_RENAMED = {
    "glance_ca_certificates_file": "cafile",
    "glance_certfile": "certfile",
    "glance_keyfile": "keyfile",
    "glance_request_timeout": "timeout",
    "glance_api_insecure": "insecure",
}


def broker_of(conf: cfg.ConfigOpts) -> Broker:
    """A broker on Cinder's own configuration, which need not have a section for it.

    What `[imagebroker]` and `[backend:glance]` set there counts; the rest is as Cinder's options
    say.
    """
    from imagebroker.broker import Broker

    return Broker(Settings(conf, inherited=lambda: inherited(conf)))


def inherited(conf: cfg.ConfigOpts) -> Inherited:
    """Cinder's options as ours, by section."""
    options = ServiceOptions(conf)
    core: dict[str, Any] = {"enabled_schemes": ["glance"], "default_backend": "glance"}
    core["retries"] = int(options.get("glance_num_retries", default=_RETRIES))
    return {"imagebroker": core, "backend:glance": _glance(options)}


def _glance(options: ServiceOptions) -> dict[str, Any]:
    values = keystone_values(options, "glance")
    send = truth(options.get("send_service_user_token", "service_user"))
    if send and not values.get("auth_type"):
        values = {**keystone_values(options, "service_user"), **values}
    if send and values.get("auth_type"):
        values["send_service_user_token"] = True
    for theirs, ours in _RENAMED.items():
        value = options.get(theirs)
        if value not in (None, False, ""):
            values[ours] = value
    allowing_insecure(values, "glance_api_insecure")
    if servers := listed(options.get("glance_api_servers")):
        values["endpoint"] = [prefix(url) for url in servers]
    elif "endpoint" not in values:
        values["allowed_networks"] = ANYWHERE
        values |= _in_catalogue(options.get("glance_catalog_info", default=_CATALOGUE))
    return values


def _in_catalogue(info: Any) -> dict[str, Any]:
    """`<service_type>:<service_name>:<endpoint_type>`; Cinder does not look at the name either."""
    kind, _, rest = str(info or "").partition(":")
    interface = rest.rpartition(":")[2].removesuffix("URL")
    found: dict[str, Any] = {}
    if kind:
        found["service_type"] = kind
    if interface in ("public", "internal", "admin"):
        found["valid_interfaces"] = [interface]
    return found


def meanings(conf: cfg.ConfigOpts, ours: Inherited) -> Meanings:
    """What becomes of Cinder's options about images, as `ours` has them."""
    options = ServiceOptions(conf)
    servers = listed(options.get("glance_api_servers"))
    return {
        "DEFAULT": {
            **{theirs: ("backend:glance", new) for theirs, new in _RENAMED.items()},
            "glance_api_servers": ("backend:glance", "endpoint"),
            "glance_num_retries": ("imagebroker", "retries"),
            "glance_catalog_info": lambda name: _became_of_catalogue(ours, bool(servers)),
            "glance_api_ssl_compression": "has no effect: TLS does not compress any more",
            "glance_core_properties": "stays Cinder's",
            "split_loggers": WITHOUT_MEANING["split_loggers"],
            "auth_strategy": _became_of_strategy(options),
            "allowed_direct_url_schemes": (
                "is not taken over: set [imagebroker] direct_url_schemes"
            ),
            "verify_glance_signatures": "stays Cinder's: its own code checks signatures",
        },
        "glance": {
            **WITHOUT_MEANING,
            "endpoint_override": ("backend:glance", "endpoint"),
            "*": ("backend:glance", "*"),
        },
        "service_user": service_token(options, ours),
    }


def _became_of_strategy(options: ServiceOptions) -> str:
    if options.get("auth_strategy", default="keystone") == "keystone":
        return "applies: images need a token of Keystone"
    return "has no effect: a caller without a token of Keystone is refused"


def _became_of_catalogue(ours: Inherited, named: bool) -> str:
    if named:
        return "has no effect: glance_api_servers is set"
    found = ours["backend:glance"]
    names = [name for name in ("service_type", "valid_interfaces") if name in found]
    text = ", ".join(f"{name} = {shown(found[name])}" for name in names)
    return f"becomes [backend:glance] {text}"
