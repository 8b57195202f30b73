"""Whom the backend may talk to, as whom, and the sessions that come of it."""

from __future__ import annotations

import logging
import shlex
from contextlib import AbstractContextManager
from ipaddress import IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote_to_bytes, urlsplit

from imagebroker.plugin import BackendHost, ConfigError, ImageRef, PolicyViolation, own_login
from imagebroker_scp.connection import Connection, Peer
from imagebroker_scp.credentials import Offer, configured_key, is_closed, personal_keys, ssh_folder
from imagebroker_scp.key_lifetime import KeyLifetime
from imagebroker_scp.known_hosts import SSH_PORT, HostKeys, KnownHosts
from imagebroker_scp.sftp import Sftp

LOG = logging.getLogger(__name__)

DEFAULT_KNOWN_HOSTS = "/etc/imagebroker/known_hosts"


class Endpoint:
    """A directory that the deployer named as `scp://[user@]host[:port]/directory/`."""

    def __init__(self, uri: str) -> None:
        """:raises ConfigError: it is none."""
        # The core has parsed it with the grammar of refs; this only takes it apart.
        self.prefix = uri.rstrip("/") + "/"
        parts = urlsplit(self.prefix)
        if parts.scheme != "scp" or not parts.hostname:
            raise ConfigError(
                f"the endpoint {uri!r} of the scp backend is not one",
                hint="write scp://host/directory/",
            )
        host = parts.hostname
        self.host = str(IPv6Address(host)) if ":" in host else host
        self.port = parts.port or SSH_PORT
        self.user = parts.username
        #: The directory on the server, ending in a slash.
        self.directory = unquote_to_bytes(parts.path)

    def holds(self, ref: ImageRef) -> bool:
        """Whether the ref names something beneath the directory."""
        return (
            (ref.host, ref.port or SSH_PORT) == (self.host, self.port)
            and ref.path_bytes.startswith(self.directory)
            and ref.path_bytes != self.directory
        )


class Session:
    """SFTP over a connection of its own; a context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        try:
            self.sftp = Sftp(connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """End the connection; from any thread, also while another waits for it."""
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
    """Opens sessions for one instance of the backend, as far as its options allow."""

    def __init__(self, host: BackendHost, key_lifetime: KeyLifetime) -> None:
        """:raises ConfigError: options contradict each other, or one is not supported."""
        self._host, self._key_lifetime = host, key_lifetime
        options = host.options
        if options.get("proxy"):
            raise ConfigError(
                "the scp backend cannot use a proxy", hint="remove proxy from its section"
            )
        self.endpoints = tuple(Endpoint(uri) for uri in options.get("endpoint") or ())
        for endpoint in self.endpoints:
            if options.username and endpoint.user not in (None, options.username):
                raise ConfigError(
                    f"the endpoint {endpoint.prefix} and username name different users",
                    hint="name the user in one of them",
                )
        #: Whether servers without SFTP are read with the scp protocol.
        self.legacy: bool = options.legacy_scp
        if self.legacy and self.endpoints:
            raise ConfigError(
                "legacy_scp cannot be kept beneath an endpoint of the scp backend",
                hint="with the scp protocol nobody sees where a link on the server leads: remove "
                "legacy_scp, or endpoint",
            )
        self._known = KnownHosts(self._known_hosts_files())

    def _known_hosts_files(self) -> list[Path]:
        configured = Path(self._host.options.known_hosts)
        if self._host.personal and str(configured) == DEFAULT_KNOWN_HOSTS:
            return _personal_known_hosts()
        return [configured]

    def endpoint_of(self, ref: ImageRef) -> Endpoint | None:
        """The endpoint that holds `ref`; None where none is configured.

        :raises PolicyViolation: some are configured, and none holds it.
        """
        if not self.endpoints:
            return None
        for endpoint in self.endpoints:
            if endpoint.holds(ref):
                return endpoint
        raise PolicyViolation(
            f"{ref} is not beneath an endpoint of the scp backend",
            hint="only files beneath endpoint may be used while it is set",
        )

    def for_ref(self, ref: ImageRef) -> tuple[Session, Endpoint | None]:
        """A session with the server of a ref, and the endpoint that holds it.

        :raises PolicyViolation: the ref is outside of all endpoints, names another user than the
            configured one, or an unknown host.
        :raises NoSftp: the server has none.
        """
        endpoint = self.endpoint_of(ref)
        user = self._user_for(ref, endpoint)
        return Session(self._connected(ref.host or "", ref.port or SSH_PORT, user)), endpoint

    def running(self, command: bytes, ref: ImageRef) -> Connection:
        """A connection to the server of a ref, on which a command runs; no endpoint is set.

        :raises PolicyViolation: as for `for_ref`.
        """
        user = self._user_for(ref, None)
        return self._connected(ref.host or "", ref.port or SSH_PORT, user, command)

    def _user_for(self, ref: ImageRef, endpoint: Endpoint | None) -> str | None:
        configured = self._host.options.username or (endpoint.user if endpoint else None)
        if configured and ref.user not in (None, configured):
            raise PolicyViolation(
                f"{ref} names another user than the configured one",
                hint=f"leave the user out, or write {configured}",
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
        :raises ConfigError: there is no user, or no key that can be used.
        """
        known = self._known_keys(host, port)
        if user is None and self._host.personal:
            user = own_login()
        if user is None:
            raise ConfigError(
                f"no user is known for {host}",
                hint="name the user in the ref: scp://USER@HOST/PATH"
                if self._host.personal
                else "set username in the section of the scp backend, or write scp://USER@HOST/...",
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
                command=command,
            )

    def _known_keys(self, host: str, port: int) -> HostKeys:
        known = self._known.about(host, port)
        if known.keys:
            return known
        where = f"{host} port {port}" if port != SSH_PORT else host
        what = "has only a @cert-authority line" if known.has_authority else "is not"
        file = self._known.files[0]
        raise PolicyViolation(
            f"the ssh host {where} {what} in {file}",
            hint=f"get its key with: ssh-keyscan -p {port} {host}   compare it with what the "
            f"server's administrator says, then add the line to {shlex.quote(str(file))}",
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
            hint="set identity_file to the private key that it may use",
        )


def _personal_known_hosts() -> list[Path]:
    """A person's own files, and those of the machine, as ssh has them by default."""
    folder = ssh_folder()
    if folder is not None and is_closed(folder):
        LOG.warning(
            "%s may not be looked into by this user; its known_hosts does not count", folder
        )
        folder = None
    own = [] if folder is None else [folder / "known_hosts", folder / "known_hosts2"]
    return [*own, Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2")]
