"""A key or certificate in the ssh agent."""

from __future__ import annotations

from typing import Any

import paramiko

from imagebroker_scp.certificates import CERTIFICATE, Certificate


class HeldKey(paramiko.AgentKey):
    """A key in the agent; if the agent does not sign, the next key is tried."""

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
                pass  # of an unknown type; the server may know it

    @property
    def public(self) -> bytes:
        """The public key, even if the agent has a certificate for it."""
        return self.certificate.public if self.certificate else self.asbytes()

    def sign_ssh_data(self, data: Any, algorithm: str | None = None) -> Any:
        """An empty signature, which servers refuse, if the agent does not sign: it is locked, the
        user did not confirm, or it is gone. Then the next key is tried."""
        # paramiko uses the inner key; an agent may have only the certificate.
        for inner in dict.fromkeys((self.inner_key, None)):
            self.inner_key = inner
            try:
                return super().sign_ssh_data(data, algorithm)
            except (OSError, paramiko.SSHException):
                continue
        self.fails_to_sign = True
        return b""
