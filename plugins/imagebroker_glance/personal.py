"""The user's own cloud: `OS_CLOUD` and `OS_*`, only for a person who runs the command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

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
    "endpoint_type": "interface",
    "interface": "interface",
    "cacert": "cafile",
    "cert": "certfile",
    "key": "keyfile",
}
_FILES = ("cafile", "certfile", "keyfile")


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
    entries = [_read(base, environ, name) for base in ("clouds", "secure")]
    profile = next((e["profile"] for e in reversed(entries) if e.get("profile")), None)
    if profile is not None:
        entries.insert(0, _profile(str(profile), environ))
    cloud: dict[str, Any] = {}
    for entry in entries:
        cloud = {**cloud, **entry, "auth": {**cloud.get("auth", {}), **entry.get("auth", {})}}
    auth = {key.replace("-", "_"): value for key, value in cloud["auth"].items()}
    if not auth:
        raise ConfigError(
            f"no clouds.yaml has the cloud {name!r} (OS_CLOUD)",
            hint="add it to ./clouds.yaml, ~/.config/openstack/clouds.yaml or"
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
        found.update(insecure=True, allow_insecure=True)
    if cloud.get("image_endpoint_override"):
        found["endpoint"] = [cloud["image_endpoint_override"]]
    return {**auth, **found}


def _type_of(auth: Mapping[str, Any]) -> str:
    """What logs in with these, where nothing names it."""
    if auth.get("application_credential_secret"):
        return "v3applicationcredential"
    return "token" if auth.get("token") else "password"


def _profile(name: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """What several clouds share. The profiles that openstacksdk brings with it are not known."""
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
    entry = clouds.get(name) if isinstance(clouds, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("auth") or {}, dict):
        return {}
    return {**entry, "auth": entry.get("auth") or {}}


def _as_written(yaml: Any) -> Any:
    """A safe loader that takes nothing for a number, a date or a truth: `password: 0123`, `no`."""

    class AsWritten(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar[Any] = {
            first: [each for each in found if each[0].endswith((":null", ":merge"))]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return AsWritten
