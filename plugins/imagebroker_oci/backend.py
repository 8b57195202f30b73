"""`OciBackend`: images in the repositories of registries."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from imagebroker.plugin import (
    BackendHost,
    ConfigError,
    Conflict,
    Context,
    Finding,
    Image,
    ImageBackend,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    InvalidImageRef,
    PolicyViolation,
    RefForm,
    UnsupportedOperation,
    peer,
    records,
)
from imagebroker_oci.choice import Disk, check_arch, check_disktype, chosen, disk_of
from imagebroker_oci.chunks import ChunkSource, plan
from imagebroker_oci.client import Registry
from imagebroker_oci.layers import TarSource
from imagebroker_oci.manifests import Descriptor, Document
from imagebroker_oci.names import Choice, Name, parse, repository_of
from imagebroker_oci.options import OPTIONS
from imagebroker_oci.records import image_of, is_protected
from imagebroker_oci.source import BlobSource

if TYPE_CHECKING:
    from oslo_config import cfg

LOG = logging.getLogger(__name__)

#: Indexes that lead to indexes.
_MAX_STEPS = 3
#: Bytes of the config of a container image.
_MAX_CONFIG = 1024 * 1024
_IMAGE_CONFIGS = (
    "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json",
)  # fmt: skip


class OciBackend(ImageBackend):
    """Registries, with the pull secrets of one instance."""

    api_version = 1
    name = "oci"
    ref_form = RefForm(host=True, port=True, path=True, query=True, instance=True)
    options: ClassVar[Sequence[cfg.Opt]] = OPTIONS
    record_fields = records.FIELDS

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError: an option is wrong."""
        super().__init__(host)
        self._registry = Registry(host)
        self._place = _place(host)

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return self.open_at(context, ref, 0)

    def open_at(self, context: Context, ref: ImageRef, start: int) -> ImageSource:
        name, manifest, disk = self._found(ref)
        record = image_of(ref.text, name, manifest, disk)
        if disk.layout == "tar":
            return TarSource(self._registry, ref, name, disk.layers, record)
        if disk.layout == "chunks":
            chunks = plan(self._registry, name, manifest, disk.layers)
            return ChunkSource(self._registry, ref, name, chunks, record)
        return BlobSource(self._registry, ref, name, disk.layers[0], record, start)

    def get(
        self,
        context: Context,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        name, manifest, disk = self._found(ref)
        if disk.layout == "blob":
            return image_of(ref.text, name, manifest, disk)
        return super().get(context, ref)

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        """The tags of the repository `create_in`. Their records are in their manifests: one
        request each."""
        place = self._needs_place("list images")
        return query.apply(self.host.bounded(self._listed(place)))

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        """Store an artefact in the repository `create_in`, with the tag `image.name`."""
        from imagebroker_oci.upload import Upload, checked_tag

        place = self._needs_place("create images")
        if data is None:
            raise InvalidImageRef(
                "the oci backend cannot create an image without data", hint="pass its data"
            )
        name = place.with_tag(checked_tag(image.name))
        new = replace(image, created_at=datetime.now(UTC))
        return self._record(name, Upload(self._registry, name, new, data).run())

    def update(
        self,
        context: Context,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        """Give a tag another manifest, with the same disk and another record."""
        from imagebroker_oci.records import changed_manifest
        from imagebroker_oci.upload import put_manifest

        name, choice = parse(ref)
        if data is not None:
            raise Conflict(f"{ref} has its data already", hint="create another image")
        if choice or name.digest is not None:
            raise UnsupportedOperation(
                f"{ref} names a manifest by its digest, and a manifest cannot be changed",
                hint="name it by its tag alone",
            )
        manifest = self._registry.document(name)
        if manifest.is_index:
            raise UnsupportedOperation(
                f"{ref} is an index of several images", hint="update one of them, in its own tag"
            )
        disk = disk_of(name, manifest, choice)
        record = image_of(ref.text, name, manifest, disk)
        new = changed_manifest(manifest, disk, record, changes, purge_props)
        return self._record(name, put_manifest(self._registry, name.with_tag(name.reference), new))

    def delete(self, context: Context, ref: ImageRef) -> None:
        from imagebroker_oci.removal import remove

        name, choice = parse(ref)
        if choice:
            raise UnsupportedOperation(
                f"{ref} is one of several images of an index",
                hint=f"delete the whole index: {self.host.title}://{name}",
            )
        found = self._registry.document(name)
        if not found.is_index and is_protected(found):
            raise PolicyViolation(
                f"{ref} is protected",
                hint=f"remove its protection first: imagebroker update {ref} --no-protected",
            )
        remove(self._registry, name, found)

    def _record(self, name: Name, manifest: Document) -> Image:
        """Of an image that this instance has stored, or lists."""
        disk = disk_of(name, manifest, Choice())
        return image_of(f"{self.host.title}://{name}", name, manifest, disk)

    def _listed(self, place: Name) -> Iterator[Image]:
        try:
            tags = self._registry.tags(place)
        except ImageNotFound:
            return  # nothing was pushed yet
        for tag in tags:
            name = place.with_tag(tag)
            try:
                _, manifest, _ = self._manifest(name, Choice())
                yield self._record(name, manifest)
            except (ImageNotFound, InvalidImageRef, UnsupportedOperation) as error:
                LOG.info("%s is not listed: %s", name, error)

    def check(self, context: Context) -> Iterator[Finding]:
        from imagebroker_oci.findings import check

        return check(self._registry, self._place)

    def close(self) -> None:
        self._registry.close()

    def _found(self, ref: ImageRef) -> tuple[Name, Document, Disk]:
        """The manifest that a ref leads to, and the disk in it."""
        name, choice = parse(ref)
        steps, found, disk = self._manifest(name, choice)
        if not steps:
            self._check_choice(name, choice, found, disk)
        return name, found, disk

    def _manifest(self, name: Name, choice: Choice) -> tuple[int, Document, Disk]:
        """How many indexes lead to a manifest, the manifest, and the disk in it."""
        found = self._registry.document(name)
        steps = 0
        while found.is_index:
            steps += 1
            if steps > _MAX_STEPS:
                peer.malformed(str(name), "its indexes lead to further indexes")
            found = self._registry.document(name, known=chosen(name, found, choice))
        return steps, found, disk_of(name, found, choice)

    def _check_choice(self, name: Name, choice: Choice, manifest: Document, disk: Disk) -> None:
        """Where no index has led to a manifest, it says itself what it is."""
        check_disktype(name, choice, manifest, disk)
        if choice.arch is not None:
            check_arch(name, choice, self._architecture(name, manifest.config))

    def _architecture(self, name: Name, config: Descriptor | None) -> str | None:
        if config is None or config.media_type not in _IMAGE_CONFIGS:
            return None
        who = f"the config of {name}"
        found = peer.document(self._registry.blob(name, config, _MAX_CONFIG), dict, who)
        return peer.text(found.get("architecture"), "architecture", who)

    def _needs_place(self, what: str) -> Name:
        if self._place is None:
            raise UnsupportedOperation(
                f"the oci backend cannot {what} without a repository",
                hint="set create_in to REGISTRY[:PORT]/REPOSITORY",
            )
        return self._place


def _place(host: BackendHost) -> Name | None:
    text = host.options.create_in
    if not text:
        return None
    found = repository_of(text.removeprefix("oci://"))
    if found is None:
        raise ConfigError(
            f"[backend:{host.title}] create_in: {text!r} is not a repository",
            hint="write it as REGISTRY[:PORT]/REPOSITORY, in lower case and without a tag",
            option="create_in",
        )
    return found
