"""Credentials for registries: pull secrets in docker's config format."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagebroker.plugin import BackendHost, ConfigError, own_home, printable
from imagebroker_oci.names import Name

LOG = logging.getLogger(__name__)

#: Bytes of a file with credentials.
_MAX_FILE = 1024 * 1024
#: Under what docker keeps the login of its own registry.
_HUB_KEYS = ("docker.io", "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True)
class Login:
    """What a registry, or its token server, wants to see. One of three."""

    username: str = ""
    password: str = field(default="", repr=False)
    #: For the token server, in place of a password (`identitytoken`).
    refresh_token: str = field(default="", repr=False)
    #: For the registry itself (`registrytoken`).
    bearer: str = field(default="", repr=False)

    @property
    def basic(self) -> str | None:
        """The value of an Authorization header."""
        if not self.username:
            return None
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


class PullSecrets:
    """The files with credentials of one instance. They are read at each use: they are renewed."""

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError: the configured file cannot be used."""
        self._host = host
        self._configured: str | None = host.options.pull_secret_file or None
        #: A registry, and docker's program that may have the login for it.
        self._unasked: tuple[str, str] | None = None
        if self._configured:
            _warn_if_open(self._configured)
            self._read(self._configured)

    def find(self, name: Name) -> Login | None:
        """The login for a repository; None: nobody.

        :raises ConfigError: a file cannot be used.
        """
        for path in self._files():
            found = self._find(self._read(path), name)
            if found is not None:
                basic = (found.basic or "").removeprefix("Basic ")
                self._host.conceal(found.password, found.refresh_token, found.bearer, basic)
                return found
        return None

    @property
    def hint(self) -> str:
        """What to do where the registry refuses us."""
        if self._configured:
            return f"check the credentials in {self._configured}"
        if self._host.personal:
            if self._unasked is not None:
                registry, helper = self._unasked
                return (
                    f"the login is kept by docker-credential-{helper}, which is not asked; log in "
                    f"with: skopeo login {registry}"
                )
            return "log in with: docker login, podman login or skopeo login"
        return "set pull_secret_file to a file with the credentials for this registry"

    def _files(self) -> Iterator[str]:
        if self._configured:
            yield self._configured
        elif self._host.personal:
            yield from (path for path in _own_files() if os.path.exists(path))

    def _read(self, path: str) -> Mapping[str, Any]:
        try:
            with open(path, "rb") as file:
                text = file.read(_MAX_FILE + 1)
            found = json.loads(text) if len(text) <= _MAX_FILE else None
        except OSError as error:
            raise self._unusable(path, f"cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError):
            found = None  # the text of the error may hold a password
        if not isinstance(found, dict) or not isinstance(found.get("auths", {}), dict):
            raise self._unusable(path, "does not have docker's config format")
        return found

    def _unusable(self, path: str, what: str) -> ConfigError:
        title = f"[backend:{self._host.title}] pull_secret_file " if self._configured else ""
        return ConfigError(
            f"{title}{path!r} {what}",
            hint='write it as {"auths": {"registry.example.org": {"auth": "…"}}}, or let docker, '
            "podman or skopeo login write it",
            option="pull_secret_file" if self._configured else None,
        )

    def _find(self, config: Mapping[str, Any], name: Name) -> Login | None:
        entries = {_key(key): value for key, value in config.get("auths", {}).items()}
        for key in _keys(name):
            if isinstance(entry := entries.get(key), dict) and (login := _login(entry)):
                return login
        helpers = config.get("credHelpers")
        helper = helpers.get(name.registry) if isinstance(helpers, dict) else None
        helper = helper or config.get("credsStore")
        if helper:
            self._unasked = name.registry, printable(str(helper), 40)
        return None


def _own_files() -> Iterator[str]:
    """Of the person at the shell, in the order in which skopeo and docker look for them."""
    environ = os.environ
    if environ.get("REGISTRY_AUTH_FILE"):
        yield environ["REGISTRY_AUTH_FILE"]
    if environ.get("XDG_RUNTIME_DIR"):
        yield str(Path(environ["XDG_RUNTIME_DIR"], "containers", "auth.json"))
    else:
        yield f"/run/containers/{os.getuid()}/auth.json"
    home = own_home()
    if home is not None:
        yield str(Path(home, ".config", "containers", "auth.json"))
    if environ.get("DOCKER_CONFIG"):
        yield str(Path(environ["DOCKER_CONFIG"], "config.json"))
    elif home is not None:
        yield str(Path(home, ".docker", "config.json"))


def _key(text: str) -> str:
    """What an entry is for: some programs write it as a URL."""
    bare = text.partition("://")[2] or text
    for ending in ("/", "/v1", "/v2"):
        bare = bare.removesuffix(ending)
    return bare.lower()


def _keys(name: Name) -> Iterator[str]:
    """What an entry for a repository may be called, the most special first."""
    registries = [name.registry, *(_HUB_KEYS if name.is_hub else ())]
    parts = name.repository.split("/")
    for registry in registries:
        for count in range(len(parts), 0, -1):
            yield f"{registry}/{'/'.join(parts[:count])}"
    yield from registries


def _login(entry: Mapping[str, Any]) -> Login | None:
    """The login in an entry; None if there is none."""
    texts = {name: value for name, value in entry.items() if isinstance(value, str)}
    username, password = texts.get("username", ""), texts.get("password", "")
    if texts.get("auth"):
        try:
            pair = base64.b64decode(texts["auth"], validate=True).decode()
        except (binascii.Error, ValueError):
            LOG.warning("an entry in a pull secret has an auth that is not base64")
            return None
        username, _, password = pair.partition(":")
    if texts.get("identitytoken"):
        return Login(refresh_token=texts["identitytoken"])
    if texts.get("registrytoken"):
        return Login(bearer=texts["registrytoken"])
    return Login(username, password.strip("\0")) if username else None


def _warn_if_open(path: str) -> None:
    try:
        if os.stat(path).st_mode & stat.S_IROTH:
            LOG.warning("every user of this host can read the credentials in %s", path)
    except OSError:
        pass  # reading it says so
