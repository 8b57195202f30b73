"""OpenSSH's user certificates: parsed, and checked for validity."""

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

#: The suffix of their type names.
CERTIFICATE = "-cert-v01@openssh.com"


@dataclass(frozen=True)
class Certificate:
    """One certificate."""

    #: As paramiko sends it to a server.
    shown: PublicBlob
    #: The public key in it.
    public: bytes
    #: Why it is not valid now, which a server would not say; the predicate of a sentence.
    problem: str | None

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """:raises ValueError: it is not a certificate, or damaged."""
        try:
            found = load_ssh_public_identity(line.strip())
            if not isinstance(found, SSHCertificate):
                raise ValueError("a public key without a certificate")
            public = found.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            shown = PublicBlob.from_string(line.decode())
        except Exception as error:
            # The libraries raise all kinds of errors for damaged data.
            raise ValueError("not an OpenSSH certificate") from error
        return cls(shown, base64.b64decode(public.split()[1]), _problem(found))

    @classmethod
    def of_blob(cls, kind: str, blob: bytes) -> Self:
        """:raises ValueError: as for `parse`."""
        return cls.parse(kind.encode() + b" " + base64.b64encode(blob))


def _problem(found: SSHCertificate) -> str | None:
    now = datetime.now(UTC).timestamp()
    if found.type != SSHCertificateType.USER:
        return "is a host certificate"
    if now >= found.valid_before:
        when = datetime.fromtimestamp(found.valid_before, UTC)
        return f"is a certificate that expired at {when:%Y-%m-%d %H:%M} UTC"
    if now < found.valid_after:
        return "is a certificate that is not valid yet"
    return None
