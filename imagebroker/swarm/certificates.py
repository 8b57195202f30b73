"""The fleet's own certificates: who has one is a host of the fleet.

They are for the fleet alone: every one bears the same name, which libtorrent compares with that of
a torrent, and its host's, for people.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from imagebroker.exceptions import ConfigError, DestinationError, InvalidImageRef

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

#: The name in every certificate, and of every torrent.
NAME = "imagebroker-swarm"
CA, CA_KEY = "ca.pem", "ca.key"
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")
_DAYS_OF_CA, _DAYS_OF_HOST = 3650, 825


class Identity(NamedTuple):
    """The files with which a host shows who it is."""

    ca: Path
    certificate: Path
    key: Path

    def check(self) -> None:
        """:raises ConfigError: a file is missing, or they do not belong together."""
        for option, path in zip(_OPTIONS, self, strict=True):
            if not os.access(path, os.R_OK):
                raise ConfigError(
                    f"{option}: {path} is missing, or not readable by this user",
                    hint="create certificates with: imagebroker swarm init DIRECTORY HOST",
                    option=option,
                )
        self.client()

    @property
    def fingerprint(self) -> str:
        text = self.certificate.read_text()
        first = text[: text.index(_END) + len(_END)]
        return fingerprint(ssl.PEM_cert_to_DER_cert(first[first.index(_BEGIN) :]))

    def server(self) -> ssl.SSLContext:
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def client(self) -> ssl.SSLContext:
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, side: int) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"swarm_certificate: {self.certificate}, {self.key} and {self.ca} cannot be used "
                f"together: {error}",
                hint="name the certificate and key of this host, and the CA that signed it",
                option="swarm_certificate",
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def fingerprint(certificate: bytes) -> str:
    """Of a certificate in DER."""
    return hashlib.sha256(certificate).hexdigest()


def is_of_fleet(certificate: object) -> bool:
    """Whether what `getpeercert` returns bears the name of the fleet's certificates."""
    names = certificate.get("subjectAltName", ()) if isinstance(certificate, dict) else ()
    return ("DNS", NAME) in names


_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_OPTIONS = ("swarm_ca", "swarm_certificate", "swarm_key")


def init(directory: Path, hosts: Sequence[str]) -> list[Path]:
    """Make a CA in `directory`, unless it is there, and a certificate for each host.

    :returns: the files that were written.
    :raises InvalidImageRef: a name is none of a host. :raises DestinationError: a file cannot be
        written, or a host has a certificate already.
    """
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise InvalidImageRef(f"{host!r} is not the name of a host")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = [] if (directory / CA).exists() else _new_authority(directory)
        for host in hosts:
            written += _new_host(directory, host)
    except OSError as error:
        raise DestinationError.wrap(error, f"cannot write to {directory}") from error
    return written


def _new_authority(directory: Path) -> list[Path]:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _signed(f"{NAME} CA", key, None, key, _DAYS_OF_CA)
    return _written(directory / CA, directory / CA_KEY, certificate, key)


def _new_host(directory: Path, host: str) -> list[Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    authority = x509.load_pem_x509_certificate((directory / CA).read_bytes())
    signer = load_pem_private_key((directory / CA_KEY).read_bytes(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise DestinationError(f"{directory / CA_KEY} is not a key that this command has made")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _signed(host, key, authority, signer, _DAYS_OF_HOST)
    return _written(directory / f"{host}.pem", directory / f"{host}.key", certificate, key)


def _signed(
    name: str,
    key: EllipticCurvePrivateKey,
    authority: x509.Certificate | None,
    signer: EllipticCurvePrivateKey,
    days: int,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.BasicConstraints(
                ca=authority is None, path_length=0 if authority is None else None
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    if authority is not None:
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        names = [x509.DNSName(NAME), x509.DNSName(name)]
        builder = builder.add_extension(
            x509.SubjectAlternativeName(names), critical=False
        ).add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    else:
        builder = builder.add_extension(_only_signs(), critical=True)
    return builder.sign(signer, hashes.SHA256())


def _only_signs() -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _written(
    public: Path, private: Path, certificate: x509.Certificate, key: EllipticCurvePrivateKey
) -> list[Path]:
    """:raises OSError: one of them is there already."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for path, content, mode in (
        (private, secret, 0o600),
        (public, certificate.public_bytes(Encoding.PEM), 0o644),
    ):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
    return [public, private]
