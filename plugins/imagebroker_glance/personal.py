"""The user's own cloud: `OS_CLOUD` and `OS_*`, only for a person who runs the command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagebroker.plugin import ConfigError, Options, own_folder

#: Variables in addition to those of keystoneauth's auth options.
_VARIABLES = {
    "OS_REGION_NAME": "region_name",
    "OS_INTERFACE": "interface",
    "OS_ENDPOINT_TYPE": "interface",
    "OS_CACERT": "cafile",
    "OS_CERT": "certfile",
    "OS_KEY": "keyfile",
}
#: Options that say which cloud is meant, or who logs in.
_OF_A_CLOUD = ("auth_type", "auth_url", "endpoint", "username", "user_id", "password",
               "application_credential_id")  # fmt: skip
#: Entries of a cloud, in addition to its `auth`.
_ENTRIES = {
    "auth_type": "auth_type",
    "region_name": "region_name",
    "interface": "interface",
    "cacert": "cafile",
    "cert": "certfile",
    "key": "keyfile",
}


def personal_options(options: Options, environ: Mapping[str, str] = os.environ) -> Options:
    """`options`, and those of the user's cloud from the environment.

    What a config file sets stays. If it names a cloud itself, or credentials, the environment is
    not read: the password for one cloud must not be sent to another.

    :raises ConfigError: the cloud of `OS_CLOUD` is not found.
    """
    if any(options.get(name) for name in _OF_A_CLOUD):
        return options
    cloud = environ.get("OS_CLOUD")
    found = _from_clouds(cloud, environ) if cloud else _from_variables(environ)
    return Options({**options, **{k: v for k, v in found.items() if not options.get(k)}})


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
            name = "endpoint" if opt.dest == "endpoint" else opt.dest
            found[name] = [value] if name == "endpoint" else value
    return found


def _likely_type(environ: Mapping[str, str]) -> str | None:
    if not environ.get("OS_AUTH_URL"):
        return None
    if environ.get("OS_TOKEN"):
        return "token"
    application = environ.get("OS_APPLICATION_CREDENTIAL_SECRET")
    return "v3applicationcredential" if application else "password"


def _from_clouds(name: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The cloud `name` in clouds.yaml, merged with secure.yaml."""
    cloud: dict[str, Any] = {}
    for base in ("clouds", "secure"):
        variable = "OS_CLIENT_CONFIG_FILE" if base == "clouds" else "OS_CLIENT_SECURE_FILE"
        entry = _read(_first(base, environ.get(variable), environ), name)
        cloud = {**cloud, **entry, "auth": {**cloud.get("auth", {}), **entry.get("auth", {})}}
    if not cloud["auth"]:
        raise ConfigError(
            f"no clouds.yaml has the cloud {name!r} (OS_CLOUD)",
            hint="add it to ./clouds.yaml, ~/.config/openstack/clouds.yaml or"
            " /etc/openstack/clouds.yaml, with its auth_url (vendor profiles are not supported)",
        )
    found = {option: cloud[key] for key, option in _ENTRIES.items() if cloud.get(key)}
    found.setdefault("auth_type", "password")
    if cloud.get("verify") is False:
        found.update(insecure=True, allow_insecure=True)
    if cloud.get("image_endpoint_override"):
        found["endpoint"] = [cloud["image_endpoint_override"]]
    return {**{key.replace("-", "_"): value for key, value in cloud["auth"].items()}, **found}


def _first(base: str, chosen: str | None, environ: Mapping[str, str]) -> Path | None:
    own = own_folder("XDG_CONFIG_HOME", ".config", environ)
    folders = (Path(), *([own / "openstack"] if own else ()), Path("/etc/openstack"))
    files = [folder / f"{base}{ending}" for folder in folders for ending in (".yaml", ".yml")]
    candidates = [Path(chosen)] if chosen else files
    return next((path for path in candidates if path.is_file()), None)


def _read(path: Path | None, name: str) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml  # type: ignore[import-untyped]  # comes with oslo.config

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"cannot read {path}: {type(error).__name__}",
            hint="check its permissions and that it is valid YAML",
        ) from None
    clouds = content.get("clouds") if isinstance(content, dict) else None
    entry = clouds.get(name) if isinstance(clouds, dict) else None
    auth = entry.get("auth", {}) if isinstance(entry, dict) else {}
    return entry if isinstance(entry, dict) and isinstance(auth, dict) else {}
