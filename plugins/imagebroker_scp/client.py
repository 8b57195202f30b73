"""Opens sessions: checks which servers, users and keys the options allow."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection
from contextlib import AbstractContextManager
from ipaddress import IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote_to_bytes, urlsplit

from imagebroker.plugin import BackendHost, ConfigError, ImageRef, PolicyViolation, own_login
from imagebroker_scp.aliases import is_alias
from imagebroker_scp.connection import Connection, Peer
from imagebroker_scp.credentials import Offer, configured_key, is_closed, personal_keys, ssh_folder
from imagebroker_scp.key_lifetime import KeyLifetime
from imagebroker_scp.known_hosts import SSH_PORT, HostKeys, KnownHosts
from imagebroker_scp.releases import TESTED, own_reader
from imagebroker_scp.sftp import Sftp

LOG = logging.getLogger(__name__)

DEFAULT_KNOWN_HOSTS = "/etc/imagebroker/known_hosts"


class Endpoint:
    """A directory in the option `endpoint`: `scp://[user@]host[:port]/directory/`."""

    def __init__(self, uri: str) -> None:
        """:raises ConfigError: it is not of this form."""
        # The core has checked it with the grammar of refs; this only splits it.
        self.prefix = uri.rstrip("/") + "/"
        parts = urlsplit(self.prefix)
        if parts.scheme != "scp" or not parts.hostname:
            raise ConfigError(
                f"invalid endpoint {uri!r} of the scp backend",
                hint="write it as scp://host/directory/",
            )
        host = parts.hostname
        self.host = str(IPv6Address(host)) if ":" in host else host
        self.port = parts.port or SSH_PORT
        self.user = parts.username
        #: The directory on the server, ending in a slash.
        self.directory = unquote_to_bytes(parts.path)

    def holds(self, ref: ImageRef) -> bool:
        """Whether the ref names a file beneath the directory."""
        return (
            (ref.host, ref.port or SSH_PORT) == (self.host, self.port)
            and ref.path_bytes.startswith(self.directory)
            and ref.path_bytes != self.directory
        )


class Session:
    """An SFTP session with its own connection; a context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        try:
            self.sftp = Sftp(connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """End the connection; from any thread, even while another waits for it."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Sessions:
    """Opens sessions for one instance of the backend, if its options allow them."""

    def __init__(
        self, host: BackendHost, key_lifetime: KeyLifetime, tested: Collection[str] | None
    ) -> None:
        """`tested`: the releases of paramiko whose packets are read here; None: `TESTED`.

        :raises ConfigError: options contradict each other, or one is not supported.
        """
        self._host, self._key_lifetime = host, key_lifetime
        self._own_reader = own_reader(TESTED if tested is None else tested)
        options = host.options
        if options.get("proxy"):
            raise ConfigError(
                "the scp backend does not support a proxy", hint="remove proxy from its section"
            )
        self.endpoints = tuple(Endpoint(uri) for uri in options.get("endpoint") or ())
        for endpoint in self.endpoints:
            if options.username and endpoint.user not in (None, options.username):
                raise ConfigError(
                    f"the endpoint {endpoint.prefix} and username have different users",
                    hint="set the user in only one of them",
                )
        #: Whether to use the scp protocol for servers without SFTP.
        self.legacy: bool = options.legacy_scp
        if self.legacy and self.endpoints:
            raise ConfigError(
                "legacy_scp cannot be combined with endpoint: the scp protocol does not reveal "
                "links that lead out of its directory",
                hint="remove legacy_scp, or endpoint",
            )
        self._known = KnownHosts(self._known_hosts_files())

    def check_key(self) -> None:
        """:raises ConfigError, NotAuthorized: there is no key that could be used."""
        with self._keys():
            pass

    @property
    def known_hosts(self) -> Path:
        """The file to add a host to."""
        return self._known.files[0]

    @property
    def has_no_hosts(self) -> bool:
        """Whether every host is unknown."""
        return self._known.is_empty

    def _known_hosts_files(self) -> list[Path]:
        configured = Path(self._host.options.known_hosts)
        if self._host.personal and str(configured) == DEFAULT_KNOWN_HOSTS:
            return _personal_known_hosts()
        return [configured]

    def endpoint_of(self, ref: ImageRef) -> Endpoint | None:
        """The endpoint above `ref`; None if no endpoint is configured.

        :raises PolicyViolation: endpoints are configured, but `ref` is not beneath one.
        """
        if not self.endpoints:
            return None
        for endpoint in self.endpoints:
            if endpoint.holds(ref):
                return endpoint
        raise PolicyViolation(
            f"{ref} is not beneath an endpoint of the scp backend",
            hint="use a file beneath endpoint, or add its directory to endpoint",
        )

    def for_ref(self, ref: ImageRef) -> tuple[Session, Endpoint | None]:
        """A session with the server of a ref, and the endpoint above the ref.

        :raises PolicyViolation: the ref is not beneath an endpoint, has another user than the
            configured one, or an unknown host.
        :raises NoSftp: the server has no sftp subsystem.
        """
        endpoint = self.endpoint_of(ref)
        user = self._user_for(ref, endpoint)
        return Session(self._connected(ref.host or "", ref.port or SSH_PORT, user)), endpoint

    def running(self, command: bytes, ref: ImageRef) -> Connection:
        """A connection to the server of a ref that runs a command; no endpoint is set.

        :raises PolicyViolation: as for `for_ref`.
        """
        user = self._user_for(ref, None)
        return self._connected(ref.host or "", ref.port or SSH_PORT, user, command)

    def _user_for(self, ref: ImageRef, endpoint: Endpoint | None) -> str | None:
        configured = self._host.options.username or (endpoint.user if endpoint else None)
        if configured and ref.user not in (None, configured):
            raise PolicyViolation(
                f"{ref} has another user than the configured one",
                hint=f"omit the user, or use {configured}",
            )
        return configured or ref.user

    def for_endpoint(self, endpoint: Endpoint) -> Session:
        """A session with the server of an endpoint."""
        user = self._host.options.username or endpoint.user
        return Session(self._connected(endpoint.host, endpoint.port, user))

    def _connected(
        self, host: str, port: int, user: str | None, command: bytes | None = None
    ) -> Connection:
        """Log in to a server.

        :raises PolicyViolation: the host is unknown.
        :raises ConfigError: no user or no key is configured.
        """
        known = self._known_keys(host, port)
        if user is None and self._host.personal:
            user = own_login()
        if user is None:
            raise ConfigError(
                f"no user to log in as on {host}",
                hint="name the user in the ref: scp://USER@HOST/PATH"
                if self._host.personal
                else "set username of the scp backend, or name the user: scp://USER@HOST/PATH",
            )
        strict = self._host.options.require_strict_kex
        with self._keys() as offer:
            peer = Peer(host, port, user)
            return Connection(
                self._host,
                peer,
                known,
                offer,
                strict_kex=strict,
                keys=self._key_lifetime,
                own_reader=self._own_reader,
                command=command,
            )

    def _known_keys(self, host: str, port: int) -> HostKeys:
        known = self._known.lookup(host, port)
        if known.keys:
            return known
        folder = ssh_folder() if self._host.personal else None
        if folder is not None and is_alias(host, folder):
            raise PolicyViolation(
                f"{host} is a Host of {folder / 'config'}, which is not read",
                hint=f"see what it stands for with: ssh -G {host}   and write "
                "scp://USER@HOSTNAME:PORT/PATH",
            )
        where = f"{host} port {port}" if port != SSH_PORT else host
        what = "has only a @cert-authority line" if known.has_authority else "is not"
        file = self._known.files[0]
        raise PolicyViolation(
            f"the ssh host {where} {what} in {file}",
            hint=f"get its key with: ssh-keyscan -p {port} {host}   compare it with the one from "
            f"the server's admin, then add the line to {shlex.quote(str(file))}",
            option="known_hosts",
        )

    def _keys(self) -> AbstractContextManager[Offer]:
        options = self._host.options
        if options.identity_file:
            return configured_key(Path(options.identity_file), options.identity_passphrase)
        if self._host.personal:
            return personal_keys()
        raise ConfigError(
            "the scp backend has no key to log in with",
            hint="set identity_file to a private key",
        )


def _personal_known_hosts() -> list[Path]:
    """The user's own files and those of the host, as by default in ssh."""
    folder = ssh_folder()
    if folder is not None and is_closed(folder):
        LOG.warning("this user cannot read %s: its known_hosts is not used", folder)
        folder = None
    own = [] if folder is None else [folder / "known_hosts", folder / "known_hosts2"]
    return [*own, Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2")]
