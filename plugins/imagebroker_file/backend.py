"""The file backend: `file:///path` below allowed directories, and the embedded store of images.

The two share the name. URIs are files of this host, which are only read; ids are images in a store
that this backend manages, with data in a directory and records in SQLite. The store must be on a
local file system: neither SQLite nor locks are reliable over NFS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from oslo_config import cfg

from imagebroker.plugin import (
    BackendHost,
    ConfigError,
    Finding,
    Image,
    ImageBackend,
    ImageData,
    ImageQuery,
    ImageRef,
    ImageSource,
    RefForm,
    UnsupportedOperation,
    own_folder,
)
from imagebroker_file.options import OPTIONS, STORE_DIR
from imagebroker_file.paths import Paths
from imagebroker_file.store import Store

if TYPE_CHECKING:
    from oslo_context.context import RequestContext

    Context = RequestContext | None


class FileBackend(ImageBackend):
    """Files of this host, and images in an embedded store."""

    api_version = 1
    name = "file"
    ref_form = RefForm(id=True, path=True)
    options: ClassVar[Sequence[cfg.Opt]] = OPTIONS

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError: a directory is not an absolute path."""
        super().__init__(host)
        allowed = [_absolute(host, "allowed_paths", path) for path in host.options.allowed_paths]
        self._paths = Paths(host, allowed, follow_links=bool(host.options.get("follow_links")))
        directory = host.options.store_dir or _default_store_dir(host)
        self._known_store = None if directory is None else Store(
            Path(_absolute(host, "store_dir", directory)),
            option=f"[{_group(host)}] store_dir",
            ref_of=host.ref,
            timeout=host.limits.stall_timeout,
            fsync=host.options.fsync,
        )  # fmt: skip

    @property
    def _store(self) -> Store:
        """:raises ConfigError: the user has no home directory for a store."""
        if self._known_store is None:
            raise ConfigError(
                f"no directory for the image store of the user id {os.geteuid()}: neither HOME nor "
                "XDG_DATA_HOME is set to an absolute path",
                hint="set HOME or XDG_DATA_HOME to a directory that this user can write to",
            )
        return self._known_store

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        if ref.id is None:
            return self._paths.open(ref)
        return self._store.open(context, ref.id.lower())

    def get(
        self,
        context: Context,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        """The record. Its locations are always empty."""
        if ref.id is None:
            image = super().get(context, ref)
        else:
            image = self._store.get(context, ref.id.lower(), show_deleted=show_deleted)
        return replace(image, locations=()) if include_locations else image

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        return self._store.get_all(context, query)

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        """Create an image in the store. Its data is stored completely, or not at all.

        :raises QuotaExceeded: the store's file system is full.
        """
        return self._store.create(context, image, data)

    def update(
        self,
        context: Context,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        """Change fields and data, both or neither."""
        return self._store.update(context, self._own_id(ref, "update"), changes, data, purge_props)

    def delete(self, context: Context, ref: ImageRef) -> None:
        self._store.delete(context, self._own_id(ref, "delete"))

    def purge(self, context: Context, older_than: float, dry_run: bool) -> Iterator[Image]:
        """Purge the store; files outside of it are never removed."""
        return self._store.purge(context, older_than, dry_run)

    def check(self, context: Context) -> Iterator[Finding]:
        from imagebroker_file.findings import check

        return check(self._store)

    def close(self) -> None:
        if self._known_store is not None:
            self._known_store.close()

    def _own_id(self, ref: ImageRef, verb: str) -> str:
        if ref.id is None:
            raise UnsupportedOperation(
                f"cannot {verb} {ref}: refs with a path are read-only",
                hint=f"{verb} the file itself, or create an image from it and use its id",
            )
        return ref.id.lower()


def _default_store_dir(host: BackendHost) -> str | None:
    """None if the user has no home directory, as in some batch systems and containers."""
    if not host.personal:
        return STORE_DIR
    folder = own_folder("XDG_DATA_HOME", ".local/share")
    return None if folder is None else str(folder / "imagebroker")


def _group(host: BackendHost) -> str:
    return ":".join(filter(None, ("backend", host.name, host.instance)))


def _absolute(host: BackendHost, option: str, path: str) -> str:
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ConfigError(
            f"[{_group(host)}] {option}: {path!r} is not an absolute path without '..'",
            hint=f"set {option} to a path that begins with / and has no '..'",
        )
    return "/" + os.path.normpath(path).lstrip("/")
