"""The metadata service of a machine in AWS (IMDSv2), as far as it hands out the keys of its role."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime, timedelta

from tests.servers.raw import Connection, RawServer

_REQUEST = re.compile(rb"(GET|PUT) (\S+) HTTP/1\.1\r\n")
_KEYS = "/latest/meta-data/iam/security-credentials/"


class AwsMetadata(RawServer):
    """Asks for the token of a session, which only a PUT with a lifetime gets."""

    def __init__(self, access_key: str, secret_key: str, role: str | None = "images") -> None:
        super().__init__(self._talk)
        self._access_key, self._secret_key, self._role = access_key, secret_key, role
        #: How long keys that are asked for now are good.
        self.lifetime = timedelta(hours=6)
        #: Method and path of each request.
        self.asked: list[tuple[str, str]] = []
        self._tokens: set[str] = set()

    def times_asked_for_keys(self) -> int:
        return self.asked.count(("GET", f"{_KEYS}{self._role}"))

    def _talk(self, connection: Connection, index: int) -> None:
        while request := _REQUEST.match(head := connection.read_head()):
            method, path = request[1].decode(), request[2].decode()
            self.asked.append((method, path))
            fields = dict(re.findall(r"(?m)^([\w-]+): *(.*?)\r$", head.decode("latin-1").lower()))
            status, body = self._answer(method, path, fields)
            connection.sendall(
                f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )

    def _answer(self, method: str, path: str, fields: dict[str, str]) -> tuple[str, str]:
        if method == "PUT" and path == "/latest/api/token":
            if not fields.get("x-aws-ec2-metadata-token-ttl-seconds", "").isdigit():
                return "400 Bad Request", ""
            self._tokens.add(token := uuid.uuid4().hex)
            return "200 OK", token
        if fields.get("x-aws-ec2-metadata-token") not in self._tokens:
            return "401 Unauthorized", ""
        if self._role is not None and path == _KEYS:
            return "200 OK", self._role
        if self._role is not None and path == _KEYS + self._role:
            expires = datetime.now(UTC) + self.lifetime
            return "200 OK", json.dumps({
                "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": self._access_key,
                "SecretAccessKey": self._secret_key, "Token": "canary-of-a-session-4471",
                "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            })  # fmt: skip
        return "404 Not Found", ""
