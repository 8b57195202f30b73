"""The options of a service that embeds a broker, from all sections that have them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from oslo_config import cfg

from imagebroker.config.settings import Inherited
from imagebroker.redaction import redact

LOG = logging.getLogger(__name__)

#: What an option of a service becomes: an option of ours (section and name), or what is said of it,
#: or what finds that out from its name.
Meaning = tuple[str, str] | str | Callable[[str], str]
#: By section and option; `*` is any other option of that section.
Meanings = Mapping[str, Mapping[str, Meaning]]
#: Where the catalogue leads is the decision of whoever runs Keystone, as it was before.
ANYWHERE = ["0.0.0.0/0", "::/0"]
#: Options of keystoneauth for which there is nothing to say here.
WITHOUT_MEANING: Mapping[str, Meaning] = {
    "debug": "has no effect: set the level of the logger imagebroker_glance",
    "max_version": "has no effect: version 2 of the API is used",
    "split_loggers": "has no effect: keystoneauth logs through imagebroker_glance",
    "collect_timing": "has no effect: metrics have the times",
    "connect_retries": "has no effect: [imagebroker] retries holds for connections, too",
    "connect_retry_delay": "has no effect: [imagebroker] retry_backoff is the first pause",
    "status_code_retries": "has no effect: [imagebroker] retries holds for these, too",
    "status_code_retry_delay": "has no effect: [imagebroker] retry_backoff is the first pause",
}
#: Options of ours whose values are no secrets.
_PLAIN = frozenset({
    "endpoint", "insecure", "cafile", "certfile", "keyfile", "timeout", "region_name",
    "service_type", "service_name", "valid_interfaces", "min_version", "retries",
    "verify_signatures", "enable_certificate_validation", "trusted_certificate_ids", "allow_md5",
    "direct_url_schemes", "ca_file", "min_tls", "allowed_paths", "pull_secret_file", "user",
    "pool", "ceph_conf", "mon_timeout", "connect_timeout", "send_service_user_token",
})  # fmt: skip

_DEFAULTS = (cfg.Locations.opt_default, cfg.Locations.set_default)


class ServiceOptions:
    """The options of a service's own configuration object.

    Options that nobody has registered are read from the files: those of keystoneauth depend on
    `auth_type`, and services register them when they first log in.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf

    @cached_property
    def _files(self) -> dict[str, dict[str, str]]:
        return _parsed(self._conf)

    def get(self, name: str, group: str | None = None, default: Any = None) -> Any:
        """The value of an option, its default included; `default` where there is no such option."""
        try:
            value = self._conf[name] if group is None else self._conf[group][name]
        except (cfg.Error, ValueError, KeyError):
            value = self._files.get(group or "DEFAULT", {}).get(name)
        return default if value is None else value

    def section(self, group: str) -> dict[str, Any]:
        """The options that are set in a section: in a file, or by the service itself."""
        found: dict[str, Any] = dict(self._files.get(group, {}))
        try:
            registered = list(self._conf[group])
        except cfg.NoSuchOptError:
            return found
        for name in registered:
            place = self._conf.get_location(name, group)
            if place is not None and place.location not in _DEFAULTS:
                found[name] = self.get(name, group)
        return found


def _parsed(conf: cfg.ConfigOpts) -> dict[str, dict[str, str]]:
    """The files that were read, as text by section and option."""
    found: dict[str, dict[str, str]] = {}
    for path in _files(conf):
        sections: dict[str, dict[str, list[str]]] = {}
        try:
            cfg.ConfigParser(str(path), sections).parse()
        except (cfg.ParseError, OSError, ValueError) as error:
            LOG.warning("%s cannot be read: %s", path, error)
            continue
        for group, options in sections.items():
            values = {name.replace("-", "_"): lines[-1] for name, lines in options.items()}
            found.setdefault(group, {}).update(values)
    return found


def _files(conf: cfg.ConfigOpts) -> list[Path]:
    try:
        found = [Path(name) for name in conf.config_file or []]
        for folder in getattr(conf, "config_dir", None) or []:
            found += sorted(Path(folder).glob("*.conf"))
    except cfg.Error:  # a configuration object that was never called
        return []
    return found


#: Options of keystoneauth by which a session is configured, and ours for the same.
_SESSION: Mapping[str, str] = {
    "cafile": "cafile",
    "certfile": "certfile",
    "keyfile": "keyfile",
    "insecure": "insecure",
    "timeout": "timeout",
}
#: Those of a section that mean something else here, or nothing.
_OTHERS = frozenset({"auth_section", "endpoint_override", "endpoint"})


def keystone_values(options: ServiceOptions, group: str) -> dict[str, Any]:
    """keystoneauth's options in a section, for a `[backend:glance]`.

    `auth_section` is followed. Whoever wrote `insecure` there has decided, so it is taken over,
    with a warning.
    """
    values = options.section(group)
    seen = {group}
    while (named := values.get("auth_section")) and named not in seen:
        seen.add(named)
        values = {**options.section(named), **{k: v for k, v in values.items() if k in _SESSION}}
    found = {name: value for name, value in values.items() if name not in _OTHERS}
    override = values.get("endpoint_override")
    if override:
        found["endpoint"] = [prefix(override)]
    return allowing_insecure(found, f"[{group}] insecure")


def allowing_insecure(values: dict[str, Any], option: str) -> dict[str, Any]:
    """The same, with the confirmation that we ask for where the service asks for none."""
    if truth(values.get("insecure")):
        LOG.warning(
            "%s is set: certificates are not verified, and anyone on the network path can read and "
            "change images", option,
        )  # fmt: skip
        values["insecure"] = values["allow_insecure"] = True
    return values


def service_token(options: ServiceOptions, ours: Inherited) -> Mapping[str, Meaning]:
    """What the options of `[service_user]` become."""
    if not ours["backend:glance"].get("send_service_user_token"):
        return {"*": "has no effect: no service token is sent"}
    return {"auth_strategy": "has no effect: images need a login", "*": ("backend:glance", "*")}


def told(options: ServiceOptions, ours: Inherited, meanings: Meanings) -> Iterator[tuple[str, str]]:
    """Where each option stands that is set and means something, and what becomes of it."""
    for group, known in meanings.items():
        for name in sorted(options.section(group)):
            meaning = known.get(name, known.get("*"))
            if meaning is None:
                continue  # it has nothing to do with images
            if isinstance(meaning, tuple):
                section, option = meaning
                what = becomes(ours, section, name if option == "*" else option)
            else:
                what = meaning if isinstance(meaning, str) else meaning(name)
            yield f"[{group}] {name}", what


def becomes(ours: Inherited, section: str, option: str) -> str:
    """`becomes [section] option = value`, without the value where it may be a secret."""
    value = ours.get(section, {}).get(option)
    if value is None and option in _PLAIN:
        return f"has no effect: [{section}] {option} keeps its default"
    return f"becomes [{section}] {option}" + (f" = {shown(value)}" if option in _PLAIN else "")


def shown(value: Any) -> str:
    return redact(",".join(map(str, value)) if isinstance(value, list) else value, 200)


def listed(value: Any) -> list[str]:
    """A list that may have been read as text."""
    found = value.split(",") if isinstance(value, str) else value or []
    return [each.strip() for each in map(str, found) if each.strip()]


def truth(value: Any) -> bool:
    """Of an option that may have been read as text."""
    return str(value or "").lower() in ("true", "1", "yes", "on", "t", "y")


def prefix(url: str) -> str:
    """The URL of a Glance as our `endpoint` wants it: without a version, with a `/` at the end."""
    url = url.strip().rstrip("/")
    if "//" not in url:
        url = f"http://{url}"
    head, _, last = url.rpartition("/")
    return f"{head if last in ('v1', 'v2', 'v2.0') else url}/"
