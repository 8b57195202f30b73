"""OpenSSH's user certificates: whose they are, and whether they count now."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)
from paramiko.pkey import PublicBlob

#: How the names of their types end.
CERTIFICATE = "-cert-v01@openssh.com"


@dataclass(frozen=True)
class Certificate:
    """One that was read."""

    #: As paramiko shows it to a server.
    shown: PublicBlob
    #: The public key that it is about.
    public: bytes
    #: Why it does not count now, which a server would not say. Completes a sentence.
    problem: str | None

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """:raises ValueError: it is no certificate, or damaged."""
        try:
            found = load_ssh_public_identity(line.strip())
            if not isinstance(found, SSHCertificate):
                raise ValueError("a public key without a certificate")
            public = found.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            shown = PublicBlob.from_string(line.decode())
        except Exception as error:
            # Libraries meet damage with all sorts of errors.
            raise ValueError("no certificate of OpenSSH") from error
        return cls(shown, base64.b64decode(public.split()[1]), _problem(found))

    @classmethod
    def of_blob(cls, kind: str, blob: bytes) -> Self:
        """:raises ValueError: as for `parse`."""
        return cls.parse(kind.encode() + b" " + base64.b64encode(blob))


def _problem(found: SSHCertificate) -> str | None:
    now = datetime.now(UTC).timestamp()
    if found.type != SSHCertificateType.USER:
        return "is the certificate of a host"
    if now >= found.valid_before:
        when = datetime.fromtimestamp(found.valid_before, UTC)
        return f"is a certificate that expired at {when:%Y-%m-%d %H:%M} UTC"
    if now < found.valid_after:
        return "is a certificate that is not valid yet"
    return None
