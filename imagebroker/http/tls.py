"""TLS as the deployer configured it."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from imagebroker.backends.backend import Options
from imagebroker.exceptions import ConfigError

if TYPE_CHECKING:
    import ssl

LOG = logging.getLogger(__name__)


class Tls:
    """Makes the contexts of an instance when they are first needed: loading takes 30 ms."""

    def __init__(
        self, options: Options, title: str, names: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """`title` is what messages call the instance's section.

        :param names: how the section calls options that have another name there.
        :raises ConfigError: the options contradict each other, or a file cannot be used.
        """
        self._options, self._title, self._names = options, title, names
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._lock = threading.Lock()
        if options.insecure and not options.allow_insecure:
            raise ConfigError(
                f"[{title}] insecure is set, and allow_insecure is not",
                hint=f"remove it, and set {self.shown('ca_file')} to the server's CA",
            )
        if options.key_file and not options.cert_file:
            raise ConfigError(
                f"[{title}] {self.shown('key_file')} is set, and {self.shown('cert_file')} is not",
                hint=f"set {self.shown('cert_file')} too",
            )
        for name in ("ca_file", "cert_file", "key_file"):
            self._check_file(name)
        if options.cert_file and not options.key_file and _is_open(options.cert_file):
            LOG.warning("every user of this host can read the key in %s", options.cert_file)
        if options.ca_file or options.cert_file:
            self.context(identified=True)  # what cannot be used shows now, not in a download

    def shown(self, name: str) -> str:
        """The name of an option in the section."""
        return self._names.get(name, name)

    def context(self, *, identified: bool) -> ssl.SSLContext:
        """`identified`: the server may see the client certificate."""
        identified = identified and bool(self._options.cert_file)
        with self._lock:
            if identified not in self._contexts:
                self._contexts[identified] = self._make(identified)
            return self._contexts[identified]

    def _make(self, identified: bool) -> ssl.SSLContext:
        import ssl

        options = self._options
        # Not `create_default_context`: it writes session keys where SSLKEYLOGFILE says.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = getattr(ssl.TLSVersion, options.min_tls.replace(".", "_"))
        context.hostname_checks_common_name = False
        context.set_alpn_protocols(["http/1.1"])
        try:
            if options.insecure:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            elif options.ca_file:
                context.load_verify_locations(options.ca_file)
            else:
                context.load_default_certs()
            if identified:
                # Never None, or OpenSSL would ask the terminal for one.
                passphrase = options.get("key_passphrase") or ""
                context.load_cert_chain(options.cert_file, options.key_file, passphrase)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"[{self._title}] cannot use the certificates: {error}",
                hint=self._remedy(error),
            ) from error
        return context

    def _remedy(self, error: Exception) -> str:
        certificate, key = self.shown("cert_file"), self.shown("key_file")
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            return f"set {key} to the key that belongs to the certificate in {certificate}"
        return (
            f"{self.shown('ca_file')}, {certificate} and {key} are PEM files"
            f"{self._passphrase_hint()}"
        )

    def _passphrase_hint(self) -> str:
        if "key_passphrase" not in self._options:
            return "; the key must not have a passphrase"
        return "; if the key has a passphrase, set key_passphrase"

    def _check_file(self, name: str) -> None:
        path, shown = self._options[name], self.shown(name)
        if not path:
            return
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise ConfigError(
                f"[{self._title}] {shown} {path!r} cannot be read: {error.strerror}",
                hint="correct the path of the PEM file, or let this user read it",
            ) from error
        if name == "key_file" and mode & (stat.S_IROTH | stat.S_IWOTH):
            raise ConfigError(
                f"[{self._title}] {shown} {path!r} is open to every user of this host",
                hint=f"chmod o= {path}, and treat the key as compromised",
            )


def _is_open(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False
