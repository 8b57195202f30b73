"""A plugin for version 1 of the plugin API, as somebody may have published it. Never edited.

When the contract grows, this file stays as it is and must go on working: its digest stands in
`test_frozen.py`. It overrides every method of version 1 with exactly the arguments of version 1, and
uses all that `BackendHost` had then.
"""

import hashlib
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from oslo_config import cfg

from imagebroker.plugin import (
    ACTIVE,
    BackendHost,
    Buffer,
    ConfigError,
    Conflict,
    Image,
    ImageBackend,
    ImageChanged,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    RefForm,
    TransferError,
    UploadFailed,
)


class Frozen1Backend(ImageBackend):
    """Images in a folder, by id; and on a server that sends `path` from `start` when it is told."""

    api_version = 1
    name = "frozen1"
    ref_form = RefForm(id=True, host=True, port=True, path=True)
    options = (
        cfg.StrOpt("folder", help="Where the images are."),
        cfg.StrOpt("password", secret=True, help="Told to the server."),
    )
    require_checksum = False

    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        if not host.options.folder:
            raise ConfigError("frozen1: folder is not set", hint="set folder in [backend:frozen1]")
        self.folder = Path(host.options["folder"])
        self.records: dict[str, Image] = {}
        self.lock = threading.Lock()

    def open(self, context: Any, ref: ImageRef) -> ImageSource:
        if ref.id is None:
            return ServerSource(self.host, ref)
        return FolderSource(self.folder, self.get(context, ref))

    def get(
        self,
        context: Any,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        if ref.id is None:
            source = ServerSource(self.host, ref)
            source.close()
            return source.image
        if ref.id not in self.records:
            raise ImageNotFound(f"{ref}: no such image", hint="list the images")
        return self.records[ref.id]

    def get_all(self, context: Any, query: ImageQuery) -> Iterator[Image]:
        found = [
            image
            for image in self.records.values()
            if all(getattr(image, name) == value for name, value in query.filters.items())
        ]
        found.sort(key=lambda image: str(getattr(image, query.sort_key)))
        if query.sort_dir == "desc":
            found.reverse()
        if query.marker is not None:
            found = found[[image.id for image in found].index(query.marker) + 1 :]
        yield from found[: query.limit]

    def create(self, context: Any, image: Image, data: ImageData | None) -> Image:
        image_id = image.id or str(uuid.uuid4())
        with self.lock:
            if image_id in self.records:
                raise Conflict(f"{image_id} exists", hint="choose another id")
            stored = replace(image, id=image_id, ref=self.host.ref(image_id), status="queued")
            if data is not None:
                stored = self._with_data(stored, data)
            self.records[image_id] = stored
        return stored

    def _with_data(self, image: Image, data: ImageData) -> Image:
        path, hasher, size = self.folder / str(image.id), hashlib.sha256(), 0
        try:
            with open(path, "wb") as file:
                for chunk in data:
                    file.write(chunk)
                    hasher.update(chunk)
                    size += len(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if data.size is not None and data.size != size:
            path.unlink()
            raise UploadFailed(f"{size} bytes instead of {data.size}")
        digest = hasher.hexdigest()
        return replace(
            image, status=ACTIVE, size=size, version=digest, checksums={"sha256": digest}
        )

    def update(
        self,
        context: Any,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        image = self.get(context, ref)
        fields = dict(changes)
        if "properties" in fields or purge_props:
            kept = {} if purge_props else dict(image.properties)
            kept |= fields.get("properties") or {}
            fields["properties"] = {k: v for k, v in kept.items() if v is not None}
        image = replace(image, **fields)
        if data is not None:
            if image.status == ACTIVE:
                raise Conflict(f"{ref} has data", hint="create another image")
            image = self._with_data(image, data)
        self.records[str(image.id)] = image
        return image

    def delete(self, context: Any, ref: ImageRef) -> None:
        self.get(context, ref)
        del self.records[str(ref.id)]
        (self.folder / str(ref.id)).unlink(missing_ok=True)

    def close(self) -> None:
        self.records.clear()


class FolderSource(ImageSource):
    """A file, through a descriptor that `open_beneath` checked."""

    seekable = True
    parallel_reads = 2

    def __init__(self, folder: Path, image: Image) -> None:
        self.image = image
        self._path = folder / str(image.id)
        self._closed = False

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            end = int(self.image.size or 0) if stop is None else stop
            while start < end:
                chunk = os.pread(fd, min(65536, end - start), start)
                if not chunk:
                    raise ImageChanged(f"{self.image.ref} was cut")
                start += len(chunk)
                yield chunk
        finally:
            os.close(fd)

    def close(self) -> None:
        self._closed = True


class ServerSource(ImageSource):
    """Bytes of a server. One line is the question, one line the answer: `SIZE VERSION`, or `-`."""

    seekable = True

    def __init__(self, host: BackendHost, ref: ImageRef) -> None:
        self._host, self._ref = host, ref
        self._socket, line = self._ask(0)
        size, version = line.split()
        self.image = Image(ref=ref.text, size=int(size), version=version)
        self._first = True

    def _ask(self, start: int) -> tuple[Any, str]:
        sock = self._host.connect(str(self._ref.host), int(self._ref.port or 0), timeout=5.0)
        try:
            sock.sendall(f"{self._ref.path} {start}\n".encode())
            line = b""
            while not line.endswith(b"\n") and len(line) < 200:
                byte = sock.recv(1)
                if not byte:
                    raise TransferError(f"{self._ref}: the server said nothing")
                line += byte
        except BaseException:
            sock.close()
            raise
        if line == b"-\n":
            sock.close()
            raise ImageNotFound(f"{self._ref}: no such image")
        return sock, line.decode()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        if start or not self._first:
            self._socket.close()
            self._socket, line = self._ask(start)
            if line.split()[1] != self.image.version:
                raise ImageChanged(f"{self.image.ref} is another image now")
        self._first = False
        left = int(self.image.size or 0) - start if stop is None else stop - start
        while left:
            chunk = self._socket.recv(min(left, self._host.limits.chunk_size))
            if not chunk:
                raise TransferError(f"{self.image.ref} was cut")
            left -= len(chunk)
            yield chunk

    def close(self) -> None:
        self._socket.close()
