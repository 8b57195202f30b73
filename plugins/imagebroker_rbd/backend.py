"""The rbd backend: images and snapshots in the pools of one Ceph cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from imagebroker.plugin import (
    BackendError,
    BackendHost,
    ConfigError,
    Conflict,
    Context,
    Finding,
    Image,
    ImageBackend,
    ImageBrokerError,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    InvalidImageRef,
    NotAuthorized,
    RefForm,
    UnsupportedOperation,
    records,
)
from imagebroker_rbd.client import Cluster
from imagebroker_rbd.errors import protected, translated
from imagebroker_rbd.image_state import ImageState, user_snapshots
from imagebroker_rbd.leftovers import abandoned
from imagebroker_rbd.names import UPLOAD, Place, can_be_named, new_name, place_of
from imagebroker_rbd.operations import OpenImage
from imagebroker_rbd.options import OPTIONS
from imagebroker_rbd.personal import personal_options
from imagebroker_rbd.records import (
    Record,
    image_of,
    key_of,
    record_of,
    text_of,
)
from imagebroker_rbd.removal import remove, remove_snapshot
from imagebroker_rbd.source import MIB, RbdSource
from imagebroker_rbd.upload import Upload

if TYPE_CHECKING:
    from oslo_config import cfg


class RbdBackend(ImageBackend):
    """The images of one cluster, as one Ceph user sees them."""

    api_version = 1
    name = "rbd"
    ref_form = RefForm(authority=True, path=True)
    options: ClassVar[Sequence[cfg.Opt]] = OPTIONS
    record_fields = records.FIELDS

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError, BackendLoadError: an option is wrong, or a module is missing."""
        if host.personal:
            host = replace(host, options=personal_options(host.options))
        super().__init__(host)
        pool: str = host.options.pool or ""
        self._pool, _, self._namespace = pool.partition("/")
        if "/" in self._namespace or (pool and not self._pool):
            raise ConfigError(
                f"[backend:{host.title}] pool: {host.options.pool!r} is not a pool",
                hint="write it as POOL or POOL/NAMESPACE",
            )
        if not host.options.snapshot or set(host.options.snapshot) & set("/@\0"):
            raise ConfigError(
                f"[backend:{host.title}] snapshot: {host.options.snapshot!r} is not a valid name",
                hint="set snapshot to a name without / and @",
            )
        self._cluster = Cluster(host)

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        place = self._place(ref)
        opened = self._opened(place)
        try:
            state = ImageState(opened, place, place.uri(self.host))
            image = self._image(opened, state, place)[0]
        except BaseException:
            opened.close()
            raise
        options = self.host.options
        # A caller with small chunks has little memory, or wants to see each byte early.
        chunk = min(options.chunk_size * MIB, 4 * self.host.limits.chunk_size)
        return RbdSource(
            opened, state, image, place, chunk=chunk, operations=options.parallel_operations
        )

    def get(
        self,
        context: Context,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        return self._record(self._place(ref))[0]

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        """The snapshots of the images in `pool`, and the images that have none."""
        self._needs_pool("list images")
        return query.apply(self.host.bounded(self._images()))

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        """Store an image named `image.name` in `pool`, with a snapshot."""
        self._needs_pool("create images")
        if data is None:
            raise InvalidImageRef(
                "the rbd backend cannot create an image without data", hint="pass its data"
            )
        place = Place(self._pool, new_name(image.name), self.host.options.snapshot, self._namespace)
        now = datetime.now(UTC)
        new = replace(image, ref=place.uri(self.host), created_at=now)
        with self._watched():
            Upload(self._cluster, self.host, place, new, data).run()
        return self._record(place)[0]

    def clone(self, context: Context, image: Image, source: ImageSource) -> Image | None:
        """A clone of a snapshot in the same cluster, with a snapshot of its own."""
        if not isinstance(source, RbdSource) or source.place.snapshot is None or not self._pool:
            return None
        if not (source.image.version or "").startswith(f"{self._cluster.fsid}/"):
            return None
        place = Place(self._pool, new_name(image.name), self.host.options.snapshot, self._namespace)
        new = replace(
            image, ref=place.uri(self.host), created_at=datetime.now(UTC),
            checksums=source.image.checksums,
        )  # fmt: skip
        try:
            with self._watched():
                Upload(self._cluster, self.host, place, new, parent=source.place).run()
        except (BackendError, ImageNotFound, NotAuthorized):
            # Not protected, as old clusters need it, or this user has no rights there.
            return None
        try:
            source.confirm()
        except BaseException:
            remove(self._cluster, place, new.ref)
            raise
        return self._record(place)[0]

    def update(
        self,
        context: Context,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        """Note other fields in the metadata of the image."""
        place = self._place(ref)
        image, record = self._record(place)
        if data is not None:
            raise Conflict(f"{ref} has its data already", hint="create another image")
        new = replace(records.changed(image, changes, purge_props), updated_at=datetime.now(UTC))
        text = text_of(new, whole_image=record.is_whole_image)
        doing = f"cannot update {image.ref}"
        with self._opened(place.at(None), writable=True) as opened:
            snapshot_id = _id_of(opened, place, doing)
            opened.call(doing, "metadata_set", key_of(snapshot_id), text)
        return self._record(place)[0]

    def delete(self, context: Context, ref: ImageRef) -> None:
        """Remove an image with its snapshots, or a snapshot and the image that was made for it."""
        place = self._place(ref)
        image, record = self._record(place)
        if image.protected:
            raise protected(ref)
        with self._watched():
            if place.snapshot is None:
                self._check_protected(place)
                remove(self._cluster, place, image.ref)
                return
            left = remove_snapshot(self._cluster, place, image.ref)
            if record.is_whole_image and not left:
                remove(self._cluster, place, image.ref)

    def purge(self, context: Context, older_than: float, dry_run: bool) -> Iterator[Image]:
        """Remove uploads in `pool` that nobody goes on with."""
        self._needs_pool("purge uploads")
        place = Place(self._pool, "", None, self._namespace)
        return abandoned(self._cluster, self.host, place, older_than, dry_run=dry_run)

    def check(self, context: Context) -> Iterator[Finding]:
        fsid = self._cluster.fsid
        yield Finding(f"the cluster {fsid} accepts the key of client.{self.host.options.user}",
                      option="user")  # fmt: skip
        if self._pool:
            with (
                self._cluster.pool(self._pool, self._namespace) as pool,
                translated(f"cannot list the pool {self._pool}"),
            ):
                self._cluster.rbd.list(pool)
            yield Finding(f"the pool {self.host.options.pool} can be listed", option="pool")

    def close(self) -> None:
        self._cluster.close()

    def _place(self, ref: ImageRef) -> Place:
        """What a ref names.

        :raises ImageNotFound: it is in another cluster.
        """
        place = place_of(ref)
        if place.fsid is not None and place.fsid != (own := self._cluster.fsid):
            raise ImageNotFound(
                f"{ref} is in another Ceph cluster: this one is {own}",
                hint=f"add [backend:rbd:NAME] for it, with endpoint = rbd://{place.fsid}/",
            )
        return place

    def _opened(self, place: Place, *, writable: bool = False) -> OpenImage:
        with self._watched():
            return self._cluster.open(place, place.uri(self.host), writable=writable)

    def _record(self, place: Place) -> tuple[Image, Record]:
        with self._opened(place) as opened, self._watched():
            return self._image(opened, ImageState(opened, place, place.uri(self.host)), place)

    def _image(self, opened: OpenImage, state: ImageState, place: Place) -> tuple[Image, Record]:
        doing = f"cannot read {place.uri(self.host)}"
        try:
            text = opened.call(doing, "metadata_get", key_of(state.snapshot_id))
        except KeyError:
            text = None
        record = record_of(text)
        if state.snapshot_id is None:
            created = opened.call(doing, "create_timestamp")
        else:
            created = opened.call(doing, "get_snap_timestamp", state.snapshot_id)
        image = image_of(
            place.uri(self.host), place.image, record, size=opened.call(doing, "size"),
            version=state.version(self._cluster.fsid), created=created.replace(tzinfo=UTC),
        )  # fmt: skip
        return image, record

    def _images(self) -> Iterator[Image]:
        doing = f"cannot list the pool {self._pool}"
        with self._cluster.pool(self._pool, self._namespace) as pool, translated(doing):
            names = self._cluster.rbd.list(pool)
        for name in names:
            place = Place(self._pool, name, None, self._namespace)
            if name.startswith(UPLOAD) or not can_be_named(place):
                continue
            try:
                yield from self._listed(place, doing)
            except ImageNotFound:
                continue  # deleted meanwhile

    def _listed(self, place: Place, doing: str) -> Iterator[Image]:
        with self._opened(place) as opened:
            snapshots = [each["name"] for each in user_snapshots(opened, doing)]
            if not snapshots:
                yield self._image(opened, ImageState(opened, place, place.uri(self.host)), place)[0]
        for name in snapshots:
            if can_be_named(place.at(name)):
                yield self._record(place.at(name))[0]

    def _check_protected(self, place: Place) -> None:
        """:raises PolicyViolation: the record of a snapshot says that it must not be deleted."""
        with self._opened(place) as opened:
            names = [s["name"] for s in user_snapshots(opened, f"cannot read {place.image}")]
        for name in names:
            if (image := self._record(place.at(name))[0]).protected:
                raise protected(image.ref)

    def _watched(self) -> Any:
        return _Watched(self._cluster)

    def _needs_pool(self, what: str) -> None:
        if not self._pool:
            raise UnsupportedOperation(
                f"the rbd backend cannot {what} without a pool",
                hint=f"write pool = NAME into [backend:{self.host.title}]",
            )


class _Watched:
    """Inside the block, errors tell whether the cluster has dropped the connection."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ImageBrokerError):
            self._cluster.drop_if_dead(error)


def _id_of(opened: OpenImage, place: Place, doing: str) -> int | None:
    """The id of a snapshot; None for the image itself."""
    if place.snapshot is None:
        return None
    for each in user_snapshots(opened, doing):
        if each["name"] == place.snapshot:
            return int(each["id"])
    raise ImageNotFound(f"{doing}: there is no such snapshot")
