"""Images behind http and https URLs; read-only.

Nothing but the backend's section configures it: no environment variable, no netrc, no cookies.
"""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.plugin import (
    BackendHost,
    Finding,
    Image,
    ImageBackend,
    ImageRef,
    ImageSource,
    RefForm,
    http,
)
from imagebroker_http.options import OPTIONS


class HttpBackend(ImageBackend):
    """Serves the refs of http and https."""

    api_version = 1
    name = "http"
    ref_form = RefForm(host=True, port=True, path=True, query=True, opaque_path=True)
    options = OPTIONS
    served_checksums = "the server's digest field"
    serves_pages = True

    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        self._client = http.Client(host, token=host.options.token)

    def open(self, context: object, ref: ImageRef) -> ImageSource:
        return http.HttpSource(self._client, ref)

    def open_at(self, context: object, ref: ImageRef, start: int) -> ImageSource:
        return http.HttpSource(self._client, ref, start=start)

    def probe(self, context: object, ref: ImageRef) -> Image:
        return http.probe(self._client, ref)

    def revalidate(self, context: object, ref: ImageRef, version: str) -> Image:
        return http.probe(self._client, ref, version=version)

    def get(
        self,
        context: object,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        return http.record(self._client, ref)

    def check(self, context: object) -> Iterator[Finding]:
        from imagebroker_http.findings import check

        return check(self.host, self._client)
