"""The user's own cloud: `OS_CLOUD` and `OS_*`, only for a person who runs the command."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from imagebroker.plugin import Options, keystone

#: Options that say which cloud is meant, or who logs in.
_OF_A_CLOUD = ("auth_type", "auth_url", "endpoint", "username", "user_id", "password",
               "application_credential_id")  # fmt: skip
#: What is called otherwise here.
_NAMES = {"cacert": "cafile", "cert": "certfile", "key": "keyfile"}

_VERSION = re.compile(r"/v2(\.\d+)?/?\Z")


def personal_options(options: Options, environ: Mapping[str, str] = os.environ) -> Options:
    """`options`, and those of the user's cloud from the environment.

    What a config file sets stays. If it names a cloud itself, or credentials, the environment is
    not read: the password for one cloud must not be sent to another.

    :raises ConfigError: the cloud of `OS_CLOUD` is not found, or half of a login is missing.
    """
    if any(options.get(name) for name in _OF_A_CLOUD):
        return options
    cloud = keystone.personal_cloud("image", environ)
    found: dict[str, Any] = {_NAMES.get(name, name): value for name, value in cloud.items()}
    if found.pop("verify", True) is False:
        found.update(insecure=True, allow_insecure=True)
    if "endpoint" in found:
        # openstacksdk takes it with or without the version of the API.
        found["endpoint"] = [_VERSION.sub("/", found["endpoint"])]
    return Options({**options, **{k: v for k, v in found.items() if not options.get(k)}})
