"""The user's own login: `ST_*` as swiftclient reads them, or the cloud of `OS_CLOUD` and `OS_*`.

Only for a person who runs the command.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from imagebroker.plugin import BackendLoadError, ConfigError, Options, keystone
from imagebroker_swift.options import V1

#: Options that say which account is meant, or who logs in.
_OF_A_LOGIN = ("auth_type", "auth_url", "storage_url", "username", "user_id", "password",
               "application_credential_id")  # fmt: skip
#: Swift's own login.
_OWN_LOGIN = {"ST_AUTH": "auth_url", "ST_USER": "username", "ST_KEY": "password"}
#: What is called otherwise here.
_NAMES = {
    "cacert": "ca_file", "cert": "cert_file", "key": "key_file", "endpoint": "storage_url",
    "interface": "valid_interfaces",
}  # fmt: skip


def personal_options(options: Options, environ: Mapping[str, str] = os.environ) -> Options:
    """`options`, and those of the user's login from the environment.

    What a config file sets stays. If it names an account itself, or credentials, the environment
    is not read: the password for one account must not be sent to another.

    :raises ConfigError: half of a login is missing, or the cloud of `OS_CLOUD` is not found.
    """
    if any(options.get(name) for name in _OF_A_LOGIN):
        return options
    found = _own_login(environ) or _of_cloud(environ)
    return Options({**options, **{k: v for k, v in found.items() if not options.get(k)}})


def _own_login(environ: Mapping[str, str]) -> dict[str, Any]:
    given = [name for name in _OWN_LOGIN if environ.get(name)]
    if not given:
        return {}
    version = environ.get("ST_AUTH_VERSION") or "1"
    if version not in ("1", "1.0"):
        raise ConfigError(
            f"ST_AUTH_VERSION is {version}, and ST_* are for version 1 only",
            hint="set OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME for Keystone, and "
            "unset ST_AUTH_VERSION, ST_AUTH, ST_USER and ST_KEY",
        )
    missing = [name for name in _OWN_LOGIN if name not in given]
    if not missing:
        found: dict[str, Any] = {option: environ[name] for name, option in _OWN_LOGIN.items()}
        return found | {"auth_type": V1} | _further(environ)
    if environ.get("OS_CLOUD") or environ.get("OS_AUTH_URL"):
        return {}
    raise keystone.incomplete(given, missing[0])


def _of_cloud(environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        cloud = keystone.personal_cloud("object_store", environ)
    except ImportError as error:
        raise BackendLoadError(
            f"logging in to Keystone needs keystoneauth, which cannot be imported: {error}",
            hint="pip install 'imagebroker[swift]'",
            scheme="swift",
        ) from error
    found = {_NAMES.get(name, name): value for name, value in cloud.items()}
    if found.pop("verify", True) is False:
        found.update(insecure=True, allow_insecure=True)
    if isinstance(found.get("valid_interfaces"), str):
        found["valid_interfaces"] = [found["valid_interfaces"].removesuffix("URL")]
    return found | _further(environ) if found else {}


def _further(environ: Mapping[str, str]) -> dict[str, Any]:
    """What holds for both kinds of login."""
    names = {"OS_STORAGE_URL": "storage_url", "OS_CACERT": "ca_file"}
    return {option: environ[name] for name, option in names.items() if environ.get(name)}
