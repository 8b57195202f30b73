"""Objects of one account, through Swift's API.

Swift's API is plain HTTP, so requests and bytes go over the core's connections; keystoneauth gets
tokens of Keystone. The record of an image is in the metadata of its object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from imagebroker.plugin import (
    BackendHost,
    Conflict,
    Context,
    Finding,
    Image,
    ImageBackend,
    ImageChanged,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    InvalidImageRef,
    Location,
    RefForm,
    UnsupportedOperation,
    http,
    objects,
    printable,
)
from imagebroker_swift.client import PAGE, Account, Server
from imagebroker_swift.options import MIB, LazyOptions
from imagebroker_swift.record import MAX_METADATA, headers_for, image_of, lasting_headers
from imagebroker_swift.source import SwiftSource, settled

#: Of a login that comes from the environment.
_SECRETS = ("password", "token", "application_credential_secret")


class SwiftBackend(ImageBackend):
    """Objects of one account."""

    api_version = 1
    name = "swift"
    ref_form = RefForm(authority=True, path=True, opaque_path=True)
    options: ClassVar[Any] = LazyOptions()
    servers = ("auth_url", "storage_url")
    record_fields = objects.FIELDS
    serves_pages = True

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError, BackendLoadError: an option is wrong; keystoneauth is missing."""
        if host.personal:
            from imagebroker_swift.personal import personal_options

            host = replace(host, options=personal_options(host.options))
            host.conceal(*(host.options.get(name) for name in _SECRETS))
        super().__init__(host)
        self._place = objects.Place.configured(host, "container")
        self._server = Server(host)
        host.conceal(host.options.tempurl_key)

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return self.open_at(context, ref, 0)

    def open_at(self, context: Context, ref: ImageRef, start: int) -> ImageSource:
        account, container, key = self._where(context, ref)

        def record(head: http.Head) -> Image:
            return image_of(self.host.uri(container, key), key, head)

        return SwiftSource(account, ref, account.url(container, key), record, start)

    def probe(self, context: Context, ref: ImageRef) -> Image:
        account, container, key = self._where(context, ref)
        record, _ = self._record(account, container, key)
        url = account.url(container, key)
        return settled(record, http.probe(self._server.http, ref, url, account.login))

    def get(
        self,
        context: Context,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        account, container, key = self._where(context, ref)
        record, _ = self._record(account, container, key)
        if not include_locations:
            return record
        return replace(record, locations=self._locations(account, container, key))

    def _locations(self, account: Account, container: str, key: str) -> tuple[Location, ...]:
        options = self.host.options
        if not options.tempurl_key:
            return ()
        from imagebroker_swift.temporary import temporary_url

        url = temporary_url(
            account.url(container, key), options.tempurl_key, options.tempurl_digest,
            options.tempurl_seconds,
        )  # fmt: skip
        self.host.conceal(url.partition("?")[2])
        return (Location(url),)

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        """The objects below `create_in`. Their records are in their metadata: one request each."""
        place = self._place.needed_to("list images")
        account = self._server.account(context)
        size = min(query.page_size or PAGE, PAGE)
        return query.apply(self.host.bounded(self._objects(account, place, size)))

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        """Store an object named `image.name` below `create_in`."""
        from imagebroker_swift.upload import SwiftObject

        place, options = self._place.needed_to("create images"), self.host.options
        if data is None:
            raise InvalidImageRef(
                "the swift backend cannot create an image without data", hint="pass its data"
            )
        account, key = self._server.account(context), place.key(image.name)
        ref = self.host.uri(place.bucket, key)
        new = replace(image, ref=ref, created_at=datetime.now(UTC))
        layout = objects.Layout(options.segment_size * MIB, options.parallel_segments)
        there = SwiftObject(account, ref, place.bucket, key, self._segments_container)
        objects.Upload(self.host, there, layout, new, data).run()
        return self._record(account, place.bucket, key)[0]

    @property
    def _segments_container(self) -> str:
        return self.host.options.segments_container or f"{self._place.bucket}_segments"

    def update(
        self,
        context: Context,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        """Give an object other metadata; that of other programs stays."""
        account, container, key = self._where(context, ref)
        record, head = self._record(account, container, key, itself=True)
        if data is not None:
            raise Conflict(f"{ref} has its data already", hint="create another image")
        if (target := head.get("x-symlink-target")) is not None:
            raise UnsupportedOperation(
                f"{ref} is a link to {printable(target, 200)}, and has no record of its own",
                hint="update what it leads to",
            )
        new = objects.metadata_of(objects.changed(record, changes, purge_props), MAX_METADATA)
        fields = {**lasting_headers(head), **headers_for(new)}
        account.ask(ref, "POST", account.url(container, key), fields)
        stored, _ = self._record(account, container, key)
        if stored.version != record.version:
            raise ImageChanged(
                f"{ref} was replaced while its record was changed",
                hint="look at the image, and update it again",
            )
        return stored

    def delete(self, context: Context, ref: ImageRef) -> None:
        """The object, and the segments that it consists of; of a link, the link alone."""
        from imagebroker_swift import segments

        account, container, key = self._where(context, ref)
        record, head = self._record(account, container, key, itself=True)
        objects.check_unprotected(record)
        segments.delete(account, ref, container, key, head)

    def purge(self, context: Context, older_than: float, dry_run: bool) -> Iterator[Image]:
        """Remove segments below `create_in` of uploads that nobody goes on with."""
        from imagebroker_swift.segments import abandoned

        place = self._place.needed_to("purge uploads")
        account = self._server.account(context)
        return abandoned(
            account, self.host, place, self._segments_container, older_than, dry_run=dry_run
        )

    def check(self, context: Context) -> Iterator[Finding]:
        from imagebroker_swift.findings import check

        yield from check(self._server.account(context), self._place, self.host.options)

    def close(self) -> None:
        self._server.close()

    def _where(self, context: Context, ref: ImageRef) -> tuple[Account, str, str]:
        """Whose object it is, its container and its key."""
        return self._server.account(context), ref.authority or "", ref.key

    def _record(
        self, account: Account, container: str, key: str, *, itself: bool = False
    ) -> tuple[Image, http.Head]:
        """:param itself: look at a link, not at what it leads to."""
        ref = self.host.uri(container, key)
        url = account.url(container, key, symlink="get" if itself else None)
        head = account.ask(ref, "HEAD", url).head
        return image_of(ref, key, head), head

    def _objects(self, account: Account, place: objects.Place, page: int) -> Iterator[Image]:
        for each in account.listed(place.bucket, place.prefix, page):
            key = each["name"]
            folder = each.get("content_type") == "application/directory"
            if folder or not objects.can_be_named(key):
                continue
            try:
                yield self._record(account, place.bucket, key)[0]
            except ImageNotFound:
                continue  # deleted meanwhile
