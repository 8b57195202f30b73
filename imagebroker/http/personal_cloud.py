"""A person's own cloud: `OS_CLOUD` and `OS_*`, as openstackclient understands them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

from imagebroker.exceptions import ConfigError
from imagebroker.system.person import own_folder
from imagebroker.system.spelling import nearest

#: Variables in addition to those of keystoneauth's auth options.
_VARIABLES = {
    "OS_REGION_NAME": "region_name",
    "OS_INTERFACE": "interface",
    "OS_ENDPOINT_TYPE": "interface",
    "OS_CACERT": "cacert",
    "OS_CERT": "cert",
    "OS_KEY": "key",
}
#: Entries of a cloud, in addition to its `auth`.
_ENTRIES = {
    "auth_type": "auth_type",
    "region_name": "region_name",
    "endpoint_type": "interface",
    "interface": "interface",
    "cacert": "cacert",
    "cert": "cert",
    "key": "key",
}
_FILES = ("cacert", "cert", "key")
_USERS = ("OS_USERNAME", "OS_USER_ID", "OS_USERID")
_CREDENTIALS = ("OS_APPLICATION_CREDENTIAL_ID", "OS_APPLICATION_CREDENTIAL_NAME")
#: What nobody sets who does not want to log in.
_LOGIN = (*_USERS, "OS_PASSWORD", "OS_TOKEN", *_CREDENTIALS, "OS_APPLICATION_CREDENTIAL_SECRET")


def personal_cloud(service: str, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The cloud in the environment; empty if there is none.

    The options of keystoneauth by their names, `region_name`, `interface`, `cacert`, `cert`, `key`,
    `verify` (False), and `endpoint`, the URL of `service` that is used in place of the catalogue's.

    :raises ConfigError: the cloud of `OS_CLOUD` is not found, or half of a login is missing.
    """
    cloud = environ.get("OS_CLOUD")
    found = _from_clouds(cloud, service, environ) if cloud else _from_variables(environ)
    if found.get("auth_type") in _OF_A_DOMAIN:
        _add_domains(found, environ)
    return found


#: The auth types for which a user and a project are of a domain.
_OF_A_DOMAIN = ("password", "v3password")


def _add_domains(found: dict[str, Any], environ: Mapping[str, str]) -> None:
    """As openstackclient does: where no domain is named, it is the default one."""
    if any(found.get(f"default_domain_{each}") for each in ("id", "name")):
        return
    for owned, names in {
        "user": ("username",),
        "project": ("project_name", "tenant_name"),
    }.items():
        domains = (f"{owned}_domain_id", f"{owned}_domain_name")
        if any(found.get(each) for each in names) and not any(found.get(d) for d in domains):
            found[domains[0]] = environ.get("OS_DEFAULT_DOMAIN") or "default"


def _from_variables(environ: Mapping[str, str]) -> dict[str, Any]:
    from keystoneauth1 import exceptions, loading

    kind = environ.get("OS_AUTH_TYPE") or _likely_type(environ)
    if kind is None:
        return {}
    found: dict[str, Any] = {"auth_type": kind}
    for variable, option in _VARIABLES.items():
        if environ.get(variable):
            found.setdefault(option, environ[variable])
    try:
        known = loading.get_plugin_loader(kind).get_options()
    except exceptions.NoMatchingPlugin:
        return found  # refused with a better message when it is loaded
    for opt in known:
        values = (environ.get(name) for name in opt.argparse_envvars)
        value = next(filter(None, values), None)
        if value is not None:
            found[opt.dest] = value
    return found


def _likely_type(environ: Mapping[str, str]) -> str | None:
    """:raises ConfigError: half of a login is missing."""
    given = [name for name in ("OS_AUTH_URL", *_LOGIN) if environ.get(name)]
    if not given:
        return None
    if "OS_AUTH_URL" not in given:
        raise incomplete(given, "OS_AUTH_URL")
    if environ.get("OS_TOKEN"):
        return "token"
    if environ.get("OS_APPLICATION_CREDENTIAL_SECRET"):
        if not set(_CREDENTIALS) & set(given):
            raise incomplete(given, _CREDENTIALS[0])
        return "v3applicationcredential"
    if not set(_USERS) & set(given) and "OS_PASSWORD" not in given:
        if set(_CREDENTIALS) & set(given):
            raise incomplete(given, "OS_APPLICATION_CREDENTIAL_SECRET")
        raise incomplete(given, "OS_USERNAME")
    if "OS_PASSWORD" not in given:
        raise incomplete(given, "OS_PASSWORD")
    if not set(_USERS) & set(given):
        raise incomplete(given, "OS_USERNAME")
    return "password"


def incomplete(given: list[str], missing: str) -> ConfigError:
    """The error where variables are set, and one that belongs to them is not."""
    verb = "is" if len(given) == 1 else "are"
    return ConfigError(
        f"the environment has half of a login: {' and '.join(given)} {verb} set, but {missing} is "
        "not",
        hint=f"export {missing}=…, or unset {' '.join(given)}",
    )


def _from_clouds(name: str, service: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The cloud `name` in clouds.yaml, merged with secure.yaml."""
    entries = [_read(base, environ, name) for base in ("clouds", "secure")]
    profile = next((e["profile"] for e in reversed(entries) if e.get("profile")), None)
    if profile is not None:
        entries.insert(0, _profile(str(profile), environ))
    cloud: dict[str, Any] = {}
    for entry in entries:
        cloud = {**cloud, **entry, "auth": {**cloud.get("auth", {}), **entry.get("auth", {})}}
    auth = {key.replace("-", "_"): value for key, value in cloud["auth"].items()}
    if not auth:
        near = nearest(name, map(str, _clouds("clouds", environ, "clouds")))
        raise ConfigError(
            f"no clouds.yaml has the cloud {name!r} (OS_CLOUD)",
            hint=f"export OS_CLOUD={quote(near[0])}, if that is meant"
            if near
            else "add it to ./clouds.yaml, ~/.config/openstack/clouds.yaml or"
            " /etc/openstack/clouds.yaml, with its auth_url",
        )
    if profile is not None and "auth_url" not in auth:
        raise ConfigError(
            f"the cloud {name!r} has the profile {profile!r}, which no clouds-public.yaml has",
            hint=f"write the auth_url of {profile} into the auth of {name}, in clouds.yaml",
        )
    found = {option: cloud[key] for key, option in _ENTRIES.items() if cloud.get(key)}
    found.setdefault("auth_type", _type_of(auth))
    found.update({key: os.path.expanduser(found[key]) for key in _FILES if key in found})
    if str(cloud.get("verify", True)).lower() in ("false", "no", "off", "0"):
        found["verify"] = False
    if url := cloud.get(f"{service}_endpoint_override"):
        found["endpoint"] = url
    return {**auth, **found}


def _type_of(auth: Mapping[str, Any]) -> str:
    """The auth type for these options, if none is named."""
    if auth.get("application_credential_secret"):
        return "v3applicationcredential"
    return "token" if auth.get("token") else "password"


def _profile(name: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """A profile, which several clouds can share. Those built into openstacksdk are not known."""
    return _read("clouds-public", environ, name, key="public-clouds")


def _first(base: str, chosen: str | None, environ: Mapping[str, str]) -> Path | None:
    own = own_folder("XDG_CONFIG_HOME", ".config", environ)
    folders = (Path(), *([own / "openstack"] if own else ()), Path("/etc/openstack"))
    files = [folder / f"{base}{ending}" for folder in folders for ending in (".yaml", ".yml")]
    candidates = [Path(chosen)] if chosen else files
    return next((path for path in candidates if path.is_file()), None)


#: Variables that name a file.
_CHOSEN = {
    "clouds": "OS_CLIENT_CONFIG_FILE", "secure": "OS_CLIENT_SECURE_FILE",
    "clouds-public": "OS_CLIENT_VENDOR_FILE",
}  # fmt: skip


def _read(base: str, environ: Mapping[str, str], name: str, key: str = "clouds") -> dict[str, Any]:
    """The entry of a cloud in a file; empty if there is none."""
    entry = _clouds(base, environ, key).get(name)
    if not isinstance(entry, dict) or not isinstance(entry.get("auth") or {}, dict):
        return {}
    return {**entry, "auth": entry.get("auth") or {}}


def _clouds(base: str, environ: Mapping[str, str], key: str) -> dict[Any, Any]:
    """The entries of a file by name; empty if there is no such file.

    :raises ConfigError: it cannot be read.
    """
    path = _first(base, environ.get(_CHOSEN[base]), environ)
    if path is None:
        return {}
    import yaml  # type: ignore[import-untyped]  # comes with oslo.config

    try:
        content = _as_written(yaml)(path.read_text(encoding="utf-8-sig")).get_single_data()
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"cannot read {path}: {type(error).__name__}",
            hint="check its permissions and that it is valid YAML",
        ) from None
    clouds = content.get(key) if isinstance(content, dict) else None
    return clouds if isinstance(clouds, dict) else {}


def _as_written(yaml: Any) -> Any:
    """A safe loader that takes nothing for a number, a date or a truth: `password: 0123`, `no`."""

    class AsWritten(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar[Any] = {
            first: [each for each in found if each[0].endswith((":null", ":merge"))]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return AsWritten
