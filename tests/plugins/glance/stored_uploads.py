"""A Glance of a few lines that stores images."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.plugins.glance_stub import Request, answer, json_answer, record
from tests.servers.raw import Connection


class Store:
    """A Glance of a few lines that stores images; single answers can be replaced."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        #: `(method, last part of the path)` to what to answer instead.
        self.instead: dict[tuple[str, str], Any] = {}

    def __call__(self, request: Request, connection: Connection) -> bytes | None:
        parts = request.path.split("/")[3:]
        key = (request.method, "file" if parts[1:] == ["file"] else "image" if parts else "images")
        if key in self.instead:
            said = self.instead[key]
            return said(request, connection) if callable(said) else said  # type: ignore[no-any-return]
        return self.good(request)

    def good(self, request: Request) -> bytes:
        parts = request.path.split("/")[3:]
        if request.method == "POST":
            made = {
                **record(
                    b"",
                    status="queued",
                    size=None,
                    os_hash_value=None,
                    os_hash_algo=None,
                    checksum=None,
                ),
                **request.json,
            }
            self.images[made["id"]] = made
            return json_answer(made, 201)
        image = self.images.get(parts[0])
        if image is None:
            return answer(404)
        if request.method == "DELETE":
            if image["protected"]:
                return answer(403)
            del self.images[parts[0]]
            return answer(204)
        if request.method == "PUT":
            image.update(
                status="active",
                size=len(request.body),
                os_hash_algo="sha512",
                os_hash_value=hashlib.sha512(request.body).hexdigest(),
            )
            return answer(204)
        if request.method == "PATCH":
            for each in request.json:
                image[each["path"][1:]] = each.get("value")
        return json_answer(image)
