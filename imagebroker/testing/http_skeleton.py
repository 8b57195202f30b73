"""The files of a new backend that differ if its service speaks HTTP."""

from __future__ import annotations

HTTP_FILES = {
    "@PACKAGE@/__init__.py": '''
"""Images behind @NAME@: refs: a service that speaks HTTP, until you make it yours."""

from imagebroker.plugin import ImageBackend, RefForm, http
from oslo_config import cfg


class @CLASS@Backend(ImageBackend):
    api_version = 1  # of the contract that this was written for: a number, so that it stays
    name = "@NAME@"  # its options stand in [backend:@NAME@]
    ref_form = RefForm(authority=True, path=True, opaque_path=True)  # @NAME@://shelf/image.qcow2
    servers = ("endpoint_url",)  # allowed without allowed_networks
    options = [
        *http.OPTIONS,
        cfg.StrOpt("endpoint_url", help="URL of the service."),
        cfg.StrOpt("token", secret=True, help="Token of the service."),
    ]

    def __init__(self, host):
        super().__init__(host)
        self._client = http.Client(host)  # TLS, proxies, redirects, limits: all as configured

    def open(self, context, ref):
        return http.HttpSource(self._client, ref, self._url(ref), headers=self._headers())

    def open_at(self, context, ref, start):
        return http.HttpSource(
            self._client, ref, self._url(ref), headers=self._headers(), start=start
        )

    def probe(self, context, ref):
        return http.probe(self._client, ref, self._url(ref), self._headers())

    def get(self, context, ref, *, include_locations=False, show_deleted=False):
        return http.record(self._client, ref, self._url(ref), self._headers())

    def _url(self, ref):
        name = ref.text.partition("://")[2]  # as it was written, percent-encoded
        return f"{self.host.options.endpoint_url.rstrip('/')}/{name}"

    def _headers(self):
        token = self.host.options.token
        return {"Authorization": f"Bearer {token}"} if token else {}
''',
    "@PACKAGE@/contract.py": '''
"""How the conformance kit gets at this backend: `imagebroker backend test @NAME@` runs it.

It starts a small server of its own. Start the real service instead where you can.
"""

import hashlib
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import testtools
from imagebroker.testing import BackendContract

from @PACKAGE@ import @CLASS@Backend


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # the kit breaks connections


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        images = self.server.images
        data = images.get(self.path)
        if data is None or self.path in self.server.forbidden:
            self.answer(404 if data is None else 403, b"")
            return
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        wanted = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers["Range"] or "")
        if self.headers["If-Range"] not in (None, etag):
            wanted = None
        if wanted is None:
            self.answer(200, data, ETag=etag)
            return
        start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        if start >= len(data):
            self.answer(416, b"")
            return
        place = f"bytes {start}-{stop - 1}/{len(data)}"
        self.answer(206, data[start:stop], **{"ETag": etag, "Content-Range": place})

    do_HEAD = do_GET

    def answer(self, status, data, **fields):
        self.send_response(status)
        for name, value in {**fields, "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


class @CLASS@Contract(BackendContract, testtools.TestCase):
    """Needed are make_backend and publish; what other hooks test is skipped without them."""

    def setUp(self):
        super().setUp()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.images, self.server.forbidden = {}, set()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    def make_backend(self):
        url = f"http://127.0.0.1:{self.server.server_port}"
        return @CLASS@Backend(self.make_host(@CLASS@Backend, endpoint_url=url))

    def publish(self, data):
        path = f"/shelf/{uuid.uuid4().hex}.img"
        self.server.images[path] = data
        return f"@NAME@:/{path}"

    def replace(self, ref, data):
        self.server.images[self._path(ref)] = data

    def forbid(self, ref):
        self.server.forbidden.add(self._path(ref))

    def take_away(self, ref):
        del self.server.images[self._path(ref)]

    def _path(self, ref):
        return "/" + ref.partition("://")[2]
''',
    "@NAME@.conf": """
[imagebroker]
enabled_schemes = @NAME@

[backend:@NAME@]
endpoint_url = http://127.0.0.1:8000
""",
    "README.md": """
# imagebroker-@NAME@

Images behind `@NAME@:` refs, for [imagebroker](https://pypi.org/project/imagebroker/).

    python -m pip install .
    python -m http.server --bind 127.0.0.1 --directory @FOLDER@/images 8000 &
    imagebroker --config-file @NAME@.conf download @NAME@://shelf/hello.img

Put this into the configuration of a service:

    [imagebroker]
    enabled_schemes = @NAME@

    [backend:@NAME@]
    endpoint_url = https://images.example.org

## Working on it

    python -m pip install -e '.[test]'
    imagebroker backend test @NAME@     # the conformance kit, with a report to read
    python -m pytest                    # the same, beside tests of your own

`@PACKAGE@/__init__.py` is the backend, `@PACKAGE@/contract.py` says how the kit gets at it.
""",
    "images/shelf/hello.img": "Hello from @NAME@.\n",
}
