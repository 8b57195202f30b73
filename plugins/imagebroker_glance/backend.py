"""Images in OpenStack's image service (Glance, API v2), by id.

python-glanceclient reads and changes records, keystoneauth gets tokens and endpoints, and both send
through `imagebroker.plugin.http`, and so through the host's checked connections. They are imported
when the backend is created or used, not with this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from imagebroker.plugin import (
    BackendHost,
    BackendLoadError,
    Finding,
    Gone,
    Image,
    ImageBackend,
    ImageData,
    ImageQuery,
    ImageRef,
    Member,
    RefForm,
    Store,
)
from imagebroker_glance.options import LazyOptions, check
from imagebroker_glance.shared import SharedDirectories

if TYPE_CHECKING:
    from imagebroker_glance.client import GlanceApi
    from imagebroker_glance.identity import Identity
    from imagebroker_glance.records import Records
    from imagebroker_glance.sessions import Sessions
    from imagebroker_glance.source import GlanceSource


class GlanceBackend(ImageBackend):
    """One Glance, or several API servers of one; refs are `glance:UUID`."""

    api_version = 1
    name = "glance"
    ref_form = RefForm(id=True, id_path="v2/images/")
    require_checksum = True
    options: ClassVar[Any] = LazyOptions()

    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        _check_installed()
        from imagebroker_glance.identity import Keystone
        from imagebroker_glance.personal import personal_options
        from imagebroker_glance.sessions import Sessions, make_client

        options = personal_options(host.options) if host.personal else host.options
        where = f"[backend:{host.title}]"
        check(options, where)
        self._shared = SharedDirectories(options.get("shared_directories") or {}, where)
        self._client = make_client(host, options)
        self._keystone = Keystone(host, options, self._client, where)
        self._sessions = Sessions(self._client)

    def open(self, context: Any, ref: ImageRef) -> GlanceSource:
        """Reads the record; the data is not requested yet."""
        from imagebroker_glance.sessions import Sessions
        from imagebroker_glance.source import GlanceSource, check_readable

        identity = self._ready(context)
        sessions = Sessions(self._client)
        try:
            api = self._api(sessions)
            raw, server = api.show(identity, str(ref.id))
            image = self._image(raw, server, locations=False)
            check_readable(image)
            return GlanceSource(api, identity, image, raw, server)
        except BaseException:
            sessions.close()
            raise

    def probe(self, context: Any, ref: ImageRef) -> Image:
        """A caller who can see a record may not be allowed to read its data: request one byte."""
        source = self.open(context, ref)
        try:
            source.check_permitted()
            return source.image
        finally:
            source.close()

    def get(
        self,
        context: Any,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        """Glance does not show deleted images; `show_deleted` cannot change that."""
        identity = self._ready(context)
        api = self._api(self._sessions)
        raw, server = api.show(identity, str(ref.id))
        if include_locations and "locations" not in raw:
            raw["locations"] = api.locations(identity, str(ref.id))
        image = self._image(raw, server, locations=include_locations)
        if image.deleted and not show_deleted:
            raise Gone(f"image {ref.id} was deleted", hint="use another image")
        if image.locations:
            local = self._shared.local(image.locations)
            image = replace(image, locations=(*local, *image.locations))
        return image

    def get_all(self, context: Any, query: ImageQuery) -> Iterator[Image]:
        from imagebroker_glance.listing import list_images

        def image_of(raw: Mapping[str, Any], url: str) -> Image:
            return self._image(raw, url, locations=False)

        return list_images(self._api(self._sessions), self._identity(context), query, image_of)

    def create(self, context: Any, image: Image, data: ImageData | None) -> Image:
        """With data, a failure removes the record again, or `UploadFailed` has its id."""
        return self._records(context).create(image, data)

    def update(
        self,
        context: Any,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        """First the fields, then the data if the image has none; Glance never replaces data."""
        return self._records(context).update(str(ref.id), changes, data, purge_props)

    def delete(self, context: Any, ref: ImageRef) -> None:
        self._records(context).delete(str(ref.id))

    def import_image(
        self, context: Any, ref: ImageRef, *, url: str | None, stores: Sequence[str]
    ) -> Iterator[int]:
        """Glance's `web-download`, or `copy-image` without a URL."""
        from imagebroker_glance.imports import import_image

        return import_image(
            self._api(self._sessions), self._identity(context), str(ref.id), url, stores
        )

    def stores(self, context: Any) -> list[Store]:
        from imagebroker_glance.service import stores

        return stores(self._api(self._sessions), self._ready(context))

    def members(self, context: Any, ref: ImageRef) -> list[Member]:
        from imagebroker_glance.service import members

        return members(self._api(self._sessions), self._ready(context), str(ref.id))

    def purge(self, context: Any, older_than: float, dry_run: bool) -> Iterator[Image]:
        """Removes records of dead uploads. Glance itself cleans up after deleted images."""
        from imagebroker_glance.records import MARK, UNFINISHED

        old = ImageQuery(filters={"status": list(UNFINISHED), "tag": MARK})
        before = datetime.now(UTC) - timedelta(seconds=older_than)
        for image in list(self.host.bounded(self.get_all(context, old))):  # deleting moves markers
            if image.updated_at is None or image.updated_at > before:
                continue
            if not dry_run:
                self._records(context).delete(str(image.id))
            yield image

    def check(self, context: Any) -> Iterator[Finding]:
        from imagebroker_glance.findings import check as try_out

        return try_out(self, self.host.options)

    def close(self) -> None:
        self._sessions.close()
        self._keystone.close()

    def _api(self, sessions: Sessions) -> GlanceApi:
        from imagebroker_glance.client import GlanceApi

        return GlanceApi(sessions, self._keystone)

    def _identity(self, context: Any) -> Identity:
        return self._keystone.identity(context)

    def _ready(self, context: Any) -> Identity:
        """The identity of a call that certainly sends a request, with its token."""
        from imagebroker_glance.early import importing

        identity = self._identity(context)
        with importing("imagebroker_glance.client"):
            identity.get_headers()
        return identity

    def _image(self, raw: Mapping[str, Any], url: str, *, locations: bool) -> Image:
        from imagebroker_glance.record import to_image

        return to_image(raw, url, self.host.ref, locations=locations)

    def _records(self, context: Any) -> Records:
        from imagebroker_glance.records import Records

        def image_of(raw: Mapping[str, Any], url: str) -> Image:
            return self._image(raw, url, locations=False)

        return Records(self._api(self._sessions), self._identity(context), image_of)


def _check_installed() -> None:
    """:raises BackendLoadError: a library is missing. glanceclient is only looked for: importing it
    takes long, and is done with the first request."""
    try:
        import keystoneauth1  # noqa: F401

        found = find_spec("glanceclient") is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise BackendLoadError(
            "the glance backend needs python-glanceclient and keystoneauth1, which are not all"
            " installed",
            hint="pip install 'imagebroker[glance]'",
        )
