"""A backend whose images do what a test tells them; a whole implementation of the contract."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagebroker.plugin import (
    Buffer,
    Image,
    ImageBackend,
    ImageNotFound,
    ImageRef,
    ImageSource,
    RefForm,
    TransferError,
)


@dataclass
class Script:
    """One image, and how it behaves."""

    data: bytes = b""
    chunk: int = 1000
    #: What the record claims; by default the truth.
    size: int | None = -1
    version: str | None = None
    checksums: dict[str, str] = field(default_factory=dict)
    image_id: str | None = None
    #: Further fields of the record.
    record: dict[str, Any] = field(default_factory=dict)
    seekable: bool = True
    parallel_reads: int = 1
    local_path: Path | None = None
    #: For each attempt: the byte at which it breaks, and what it raises there.
    breaks: list[tuple[int, Exception | None]] = field(default_factory=list)
    #: Called before each chunk with its offset.
    before_chunk: Callable[[int], None] = lambda offset: None
    before_open: Callable[[], None] = lambda: None
    on_close: Callable[[], None] = lambda: None
    open_error: Exception | None = None
    #: Called with the caller's context before anything is read; raises for whom may not.
    may_read: Callable[[Any], None] = lambda context: None
    opened: int = 0
    closed: int = 0
    #: The starts that were asked for.
    reads: list[int] = field(default_factory=list)
    #: The same with the stops.
    spans: list[tuple[int, int | None]] = field(default_factory=list)
    #: Iterators that live now, and the most that ever did.
    alive: int = 0
    most_alive: int = 0


IMAGES: dict[str, Script] = {}
LOCK = threading.Lock()


class ScriptedBackend(ImageBackend):
    api_version = 1
    name = "scripted"
    ref_form = RefForm(id=True, host=True, path=True)

    def open(self, context: Any, ref: ImageRef) -> ImageSource:
        script = IMAGES.get(ref.path or ref.id or "")
        if script is None:
            raise ImageNotFound(f"{ref}: no such image")
        script.opened += 1
        script.before_open()
        if script.open_error is not None:
            raise script.open_error
        return ScriptedSource(ref.text, script, context)


class RecordBackend(ScriptedBackend):
    """For backends with records of their own (`get`): whoever asks for leave to read opens nothing."""

    def probe(self, context: Any, ref: ImageRef) -> Image:
        IMAGES[ref.id or ""].may_read(context)
        return self.get(context, ref)


class ScriptedSource(ImageSource):
    def __init__(self, text: str, script: Script, context: Any = None) -> None:
        self._context = context
        size = len(script.data) if script.size == -1 else script.size
        self.image = Image(
            ref=text,
            id=script.image_id,
            size=size,
            version=script.version,
            checksums=script.checksums,
            **script.record,
        )
        self.seekable = script.seekable
        self.parallel_reads = script.parallel_reads
        self.local_path = script.local_path
        self._script = script
        self._closed = threading.Event()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        script = self._script
        script.may_read(self._context)
        with LOCK:
            script.alive += 1
            script.most_alive = max(script.alive, script.most_alive)
        try:
            yield from self._read(start, stop)
        finally:
            with LOCK:
                script.alive -= 1

    def _read(self, start: int, stop: int | None) -> Iterator[Buffer]:
        script = self._script
        script.reads.append(start)
        script.spans.append((start, stop))
        breaks_at, error = script.breaks.pop(0) if script.breaks else (None, None)
        end = len(script.data) if stop is None else stop
        for offset in range(start, end, script.chunk):
            script.before_chunk(offset)
            upto = min(offset + script.chunk, end)
            if breaks_at is not None and breaks_at < upto:
                if breaks_at > offset:
                    yield script.data[offset:breaks_at]
                raise error or TransferError(f"cut at byte {breaks_at}")
            yield script.data[offset:upto]

    def close(self) -> None:
        self._script.closed += 1
        self._closed.set()
        self._script.on_close()
