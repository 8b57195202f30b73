"""For the tests of the glance backend: backends, and a Glance that does as it is told."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from imagebroker_glance import GlanceBackend
from oslo_context.context import RequestContext

from imagebroker.model.reference import ImageRef, parse
from imagebroker.plugin import BackendHost, ImageSource, Limits, Options
from imagebroker.policy.addresses import Policy, networks
from tests.servers.raw import Connection, RawServer

ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
REF = parse(f"glance:{ID}")
DATA = bytes(range(256)) * 1000
TOKEN = "gAAAAcanary-of-the-caller"
#: Short enough that a test of a stall ends soon, long enough for a busy machine.
STALL = 0.5
CORE = {
    "endpoint": [], "allowed_networks": [], "allowed_ports": [], "require_checksum": True,
    "proxy": None,
}  # fmt: skip


def make_host(
    *,
    instance: str | None = None,
    stall: float = 5,
    personal: bool = False,
    reach: str = "127.0.0.0/8",
    **options: Any,
) -> BackendHost:
    """A host as the core makes it, allowed to connect to this machine."""
    defaults = {opt.dest: opt.default for opt in GlanceBackend.options}
    return BackendHost(
        name="glance",
        instance=instance,
        options=Options({**defaults, **CORE, **options}),
        limits=Limits(connect_timeout=5, stall_timeout=stall),
        personal=personal,
        policy=Policy(allowed_networks=networks([reach])),
    )


def make_backend(**options: Any) -> GlanceBackend:
    return GlanceBackend(make_host(**options))


def asking(stub: Stub, **options: Any) -> GlanceBackend:
    """A backend whose one endpoint is `stub`."""
    return make_backend(endpoint=[stub.endpoint], **options)


def caller(token: str | None = TOKEN) -> RequestContext:
    return RequestContext(auth_token=token)


def ref_of(image_id: str) -> ImageRef:
    return parse(f"glance:{image_id}")


@contextmanager
def opened(
    backend: GlanceBackend, ref: ImageRef = REF, context: Any = None
) -> Iterator[ImageSource]:
    source = backend.open(context or caller(), ref)
    try:
        yield source
    finally:
        source.close()


def fetched(backend: GlanceBackend, ref: ImageRef = REF, context: Any = None) -> bytes:
    """All bytes of an image."""
    with opened(backend, ref, context) as source:
        return b"".join(source.read())


def record(data: bytes = DATA, **changes: Any) -> dict[str, Any]:
    """A record as Glance has it for an active image with these bytes."""
    return {
        "id": ID, "name": "stub", "status": "active", "visibility": "shared", "owner": "red",
        "os_hidden": False, "protected": False, "tags": [], "size": len(data), "virtual_size": None,
        "disk_format": "raw", "container_format": "bare", "min_disk": 0, "min_ram": 0,
        "checksum": hashlib.md5(data).hexdigest(), "os_hash_algo": "sha512",
        "os_hash_value": hashlib.sha512(data).hexdigest(), "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z", "self": f"/v2/images/{ID}",
        "file": f"/v2/images/{ID}/file", "schema": "/v2/schemas/image", **changes,
    }  # fmt: skip


def answer(status: int = 200, body: bytes = b"", *headers: str, length: bool = True) -> bytes:
    """An answer as it goes over the wire."""
    lines = [f"HTTP/1.1 {status} Something", *headers]
    if length and status != 204:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def json_answer(document: Any, status: int = 200, *headers: str) -> bytes:
    return answer(status, json.dumps(document).encode(), "Content-Type: application/json", *headers)


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


#: Returns the whole answer, or None where it has dealt with the connection itself.
Answering = Callable[[Request, Connection], bytes | None]


class Stub(RawServer):
    """An HTTP server of which every answer is a function's; connections are kept alive."""

    def __init__(self, answering: Answering, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._talk, tls=tls)
        self.answering = answering
        self.requests: list[Request] = []
        #: Called with each request's head, before its body is read.
        self.before_body: Callable[[bytes], object] = lambda head: None

    @property
    def endpoint(self) -> str:
        return f"{self.url}/"

    def count(self, method: str, ending: str) -> int:
        return sum(r.method == method and r.path.endswith(ending) for r in self.requests)

    def _talk(self, connection: Connection, index: int) -> None:
        while head := connection.read_head():
            self.before_body(head)
            request = _parse(head, connection)
            self.requests.append(request)
            said = self.answering(request, connection)
            if said is None:
                return
            connection.sendall(said)


def _parse(head: bytes, connection: Connection) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = connection.read_exactly(int(headers.get("content-length", 0)))
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b"".join(_chunks(connection))
    parts = urlsplit(target)
    query = parse_qsl(parts.query, keep_blank_values=True)
    return Request(method, parts.path, query, headers, body)


def _chunks(connection: Connection) -> Iterator[bytes]:
    while size := int(connection.read_head(b"\r\n") or b"0", 16):
        yield connection.read_exactly(size)
        connection.read_head(b"\r\n")
    connection.read_head(b"\r\n")


class OneImage:
    """Answers about one image; what differs from a good Glance is set from outside."""

    def __init__(self, data: bytes = DATA, **changes: Any) -> None:
        self.data = data
        self.record = record(data, **changes)
        #: Called instead, where a test wants another answer.
        self.show: Answering | None = None
        self.file: Answering | None = None

    def __call__(self, request: Request, connection: Connection) -> bytes | None:
        if request.path == f"/v2/images/{ID}":
            return self.show(request, connection) if self.show else json_answer(self.record)
        if request.path == f"/v2/images/{ID}/file":
            return self.file(request, connection) if self.file else self.good_file(request)
        return answer(404, b"no such thing")

    def good_file(self, request: Request) -> bytes:
        """As the file store answers, ranges included."""
        kind = "Content-Type: application/octet-stream"
        wanted = request.headers.get("range")
        if wanted is None:
            return answer(200, self.data, kind)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) + 1 if last else len(self.data)
        where = f"Content-Range: bytes {start}-{end - 1}/{len(self.data)}"
        return answer(206, self.data[start:end], kind, where)
