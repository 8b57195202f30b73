"""A key or certificate that the ssh agent holds."""

from __future__ import annotations

from typing import Any

import paramiko

from imagebroker_scp.certificates import CERTIFICATE, Certificate


class HeldKey(paramiko.AgentKey):
    """Its refusal to sign is an answer, and not the end of the connection."""

    inner_key: Any
    public_blob: Any

    def __init__(self, held: paramiko.AgentKey) -> None:
        super().__init__(held.agent, held.blob, held.comment)
        self.fails_to_sign = False
        self.certificate: Certificate | None = None
        if self.name.endswith(CERTIFICATE):
            try:
                self.certificate = Certificate.of_blob(self.name, self.blob)
                self.public_blob = self.certificate.shown
            except ValueError:
                pass  # of a kind unknown here; the server may know it

    @property
    def public(self) -> bytes:
        """The public key, also where the agent holds a certificate of it."""
        return self.certificate.public if self.certificate else self.asbytes()

    def sign_ssh_data(self, data: Any, algorithm: str | None = None) -> Any:
        """An empty signature, which servers refuse, where the agent does not sign: it is locked,
        was not confirmed, or is gone. Then the next key has its turn."""
        # paramiko asks for the inner key; an agent may hold the certificate alone.
        for inner in dict.fromkeys((self.inner_key, None)):
            self.inner_key = inner
            try:
                return super().sign_ssh_data(data, algorithm)
            except (OSError, paramiko.SSHException):
                continue
        self.fails_to_sign = True
        return b""
