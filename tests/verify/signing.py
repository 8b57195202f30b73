"""Certificates, what they sign, and a key manager that keeps them in memory."""

from __future__ import annotations

import base64
import datetime
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from castellan.common.exception import ManagedObjectNotFoundError
from castellan.common.objects.opaque_data import OpaqueData
from castellan.common.objects.x_509 import X509
from castellan.key_manager.key_manager import KeyManager
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC)
HASHES: dict[str, Any] = {
    "SHA-224": hashes.SHA224(), "SHA-256": hashes.SHA256(), "SHA-384": hashes.SHA384(),
    "SHA-512": hashes.SHA512(),
}  # fmt: skip
#: Options that make it the key manager.
CONFIG = "\n[key_manager]\nbackend = tests.verify.signing.MemoryKeyManager\n"


class MemoryKeyManager(KeyManager):
    """A key manager of Castellan; what it holds, and how it fares, is the same for all of them."""

    stored: dict[str, Any] = {}
    asked: list[tuple[Any, str]] = []
    #: Called with the id before each answer.
    before_answer: Callable[[str], Any] = lambda name: None

    def __init__(self, configuration: Any) -> None:
        pass

    @classmethod
    def reset(cls) -> None:
        cls.stored, cls.asked = {}, []
        cls.before_answer = lambda name: None

    def get(self, context: Any, managed_object_id: str, metadata_only: bool = False) -> Any:
        type(self).asked.append((context, managed_object_id))
        type(self).before_answer(managed_object_id)
        if managed_object_id not in self.stored:
            raise ManagedObjectNotFoundError(uuid=managed_object_id)
        return self.stored[managed_object_id]

    def _unused(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    create_key = create_key_pair = store = delete = add_consumer = remove_consumer = _unused


@functools.cache
def key(kind: str, name: str = "") -> Any:
    """A private key; another one for each name."""
    if kind == "RSA-PSS":
        return rsa.generate_private_key(65537, 2048)
    if kind == "DSA":
        return dsa.generate_private_key(1024)
    curve = {"ECC_SECP384R1": ec.SECP384R1, "ECC_SECP521R1": ec.SECP521R1}.get(kind, ec.SECP256R1)
    return ec.generate_private_key(curve())


@dataclass(frozen=True)
class Issued:
    """A certificate and the key that belongs to it."""

    name: str
    kind: str
    key: Any
    certificate: x509.Certificate

    def stored(self, name: str | None = None) -> str:
        """Put into the key manager; the id it has there."""
        der = self.certificate.public_bytes(Encoding.DER)
        MemoryKeyManager.stored[name or self.name] = X509(der)
        return name or self.name

    def signature(self, data: bytes, method: str = "SHA-256") -> bytes:
        chosen = HASHES[method]
        if self.kind == "RSA-PSS":
            pss = padding.PSS(mgf=padding.MGF1(chosen), salt_length=padding.PSS.MAX_LENGTH)
            return bytes(self.key.sign(data, pss, chosen))
        if self.kind == "DSA":
            return bytes(self.key.sign(data, chosen))
        return bytes(self.key.sign(data, ec.ECDSA(chosen)))

    def properties(self, data: bytes, method: str = "SHA-256", **other: Any) -> dict[str, Any]:
        """The properties of an image with this content that it has signed."""
        return {
            "img_signature": base64.b64encode(self.signature(data, method)).decode(),
            "img_signature_hash_method": method,
            "img_signature_key_type": self.kind,
            "img_signature_certificate_uuid": self.name,
            **other,
        }


def issued(
    name: str,
    issuer: Issued | None = None,
    *,
    kind: str = "RSA-PSS",
    days: tuple[int, int] = (-1, 1),
    ca: bool = False,
    path_length: int | None = None,
    private: Any = None,
) -> Issued:
    """A certificate, by default an ordinary one; without an issuer it is self-signed."""
    private = private or key(kind, name)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "crl_sign", "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + datetime.timedelta(days=days[0]))
        .not_valid_after(NOW + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=ca, **usage), critical=True
        )
    )
    signer = private if issuer is None else issuer.key
    return Issued(name, kind, private, builder.sign(signer, hashes.SHA256()))


@functools.cache
def root() -> Issued:
    return issued("root", ca=True)


@functools.cache
def signer(kind: str = "RSA-PSS") -> Issued:
    """What the root has issued."""
    return issued(f"signer-{kind}", root(), kind=kind)


def secret(name: str, data: bytes) -> str:
    """Something in the key manager that is no certificate."""
    MemoryKeyManager.stored[name] = OpaqueData(data)
    return name
