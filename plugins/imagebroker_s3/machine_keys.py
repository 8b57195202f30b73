"""The keys of this machine's role, from the metadata service of AWS (IMDSv2).

Only with `credentials = metadata`, which is the deployer's permission for exactly these requests:
no ref, no redirect and no proxy leads there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from imagebroker.plugin import (
    BackendError,
    BackendHost,
    ImageBrokerError,
    MalformedAnswer,
    NotAuthorized,
    Options,
    http,
    peer,
)

_SESSION = "/latest/api/token"
_ROLES = "/latest/meta-data/iam/security-credentials/"
#: Seconds that a token is good for: one is used for the two requests that follow it.
_SESSION_SECONDS = 60
_MAX_ANSWER = 64 * 1024
#: Options that are for the server with the images.
_NOT_FOR_IT = ("endpoint", "proxy", "username", "password", "cert_file", "key_file")


class MachineKeys:
    """Asks for keys; they are good for some hours."""

    def __init__(self, host: BackendHost) -> None:
        self._url = host.options.metadata_url.rstrip("/")
        options = Options({**host.options, **dict.fromkeys(_NOT_FOR_IT)})
        self._host = dataclasses.replace(host.for_server(self._url), options=options)
        self._client = http.Client(self._host)

    def ask(self) -> dict[str, str]:
        """The keys of the moment, with the names that botocore gives them.

        :raises NotAuthorized: this machine has no role.
        :raises TransferError, BackendError: the service does not answer, or not as it should.
        """
        pools = self._client.pools()
        try:
            token = self._answer(
                pools,
                "PUT",
                _SESSION,
                {"X-aws-ec2-metadata-token-ttl-seconds": str(_SESSION_SECONDS)},
            ).strip()
            fields = {"X-aws-ec2-metadata-token": token.decode("ascii", "replace")}
            self._host.conceal(*fields.values())
            lines = self._answer(pools, "GET", _ROLES, fields).split()
            if not lines:
                raise self._no_role()
            path = _ROLES + quote(lines[0].decode("utf-8", "replace"), safe="")
            return self._keys(self._answer(pools, "GET", path, fields))
        except ImageBrokerError as error:
            if error.retryable:
                error.hint = (
                    "check metadata_url; from a container, the service answers only if its hop "
                    "limit is 2 or more: aws ec2 modify-instance-metadata-options "
                    "--http-put-response-hop-limit 2 --instance-id ID"
                )
            raise
        finally:
            pools.close()

    def _answer(
        self, pools: http.Pools, method: str, path: str, fields: Mapping[str, str]
    ) -> bytes:
        place = self._client.start(self._url + path)
        body = b"" if method == "PUT" else None
        answer = pools.send(method, place, [*self._client.fields(place), *fields.items()], body)
        found = answer.read(_MAX_ANSWER, seconds=self._host.limits.stall_timeout)
        status = answer.head.status
        if status == 404 and path == _ROLES:
            raise self._no_role()
        if status != 200:
            raise BackendError(
                f"the metadata service at {self._url} answers HTTP {status}",
                hint="check metadata_url, and that the service is enabled on this machine",
                retryable=status >= 500,
            )
        return found

    def _no_role(self) -> NotAuthorized:
        return NotAuthorized(
            f"the metadata service at {self._url} has no keys: this machine has no role",
            hint="give the machine an instance profile, or set access_key and secret_key",
        )

    def _keys(self, answer: bytes) -> dict[str, str]:
        found: Mapping[str, Any] = peer.document(answer, dict, self._url)
        names = ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")
        values = [found.get(name) for name in names]
        if not all(isinstance(value, str) and value for value in values):
            raise MalformedAnswer(f"the metadata service at {self._url} sends no keys")
        access_key, secret_key, token, expires = map(str, values)
        self._host.conceal(secret_key, token)
        return {
            "access_key": access_key, "secret_key": secret_key, "token": token,
            "expiry_time": expires,
        }  # fmt: skip
