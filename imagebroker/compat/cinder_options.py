"""What a cinder.conf says about Glance, for a broker that lives in Cinder's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imagebroker.compat.service_options import (
    ServiceOptions,
    allowing_insecure,
    keystone_values,
    prefix,
    truth,
)
from imagebroker.config.settings import Inherited, Settings

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.broker import Broker

#: Where the catalogue leads is the decision of whoever runs Keystone, as it was before.
_ANYWHERE = ["0.0.0.0/0", "::/0"]
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
    retries = options.get("glance_num_retries")
    if retries is not None:
        core["retries"] = int(retries)
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
    servers = options.get("glance_api_servers")
    if servers:
        listed = servers.split(",") if isinstance(servers, str) else servers
        values["endpoint"] = [prefix(url) for url in listed if url.strip()]
    elif "endpoint" not in values:
        values["allowed_networks"] = _ANYWHERE
        values |= _in_catalogue(options.get("glance_catalog_info"))
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
