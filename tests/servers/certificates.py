"""TLS certificates for 127.0.0.1: a good one, those that a client must refuse, those of clients."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAMES = "localhost", "127.0.0.1"


def write_certificates(directory: Path) -> Path:
    """Write ``good``, ``wrong-host``, ``expired``, ``not-yet-valid``, ``no-intermediate`` and
    ``self-signed`` .pem; return the CA's file.

    Each file holds key and chain, as nginx and ``ssl.SSLContext.load_cert_chain`` take them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ca = trustme.CA()
    ca_file = directory / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    now = datetime.datetime.now(datetime.UTC)
    yesterday, tomorrow = now - datetime.timedelta(days=1), now + datetime.timedelta(days=1)
    for name, certificate in {
        "good": ca.issue_cert(*NAMES),
        "wrong-host": ca.issue_cert("wrong.example"),
        "expired": ca.issue_cert(*NAMES, not_after=yesterday),
        "not-yet-valid": ca.issue_cert(*NAMES, not_before=tomorrow),
    }.items():
        certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / f"{name}.pem"))
    below = ca.create_child_ca().issue_cert(*NAMES)
    alone = below.private_key_pem.bytes() + below.cert_chain_pems[0].bytes()
    (directory / "no-intermediate.pem").write_bytes(alone)
    below.private_key_and_cert_chain_pem.write_to_path(str(directory / "intermediate.pem"))
    (directory / "self-signed.pem").write_bytes(self_signed())
    return ca_file


def self_signed() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    alternatives = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
