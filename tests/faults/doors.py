"""The doors between two tenants: how the bytes of the first come to lie on this host, and how a
second asks for them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagebroker
from tests.servers.web import File, Web

#: Zeros at its end, as in most disk images: whoever has no byte of it can send them.
DATA = bytes(range(251)) * 4 + hashlib.shake_256(b"secret").digest(150_000) + bytes(100_000)
_CUT = len(DATA) - 60_000
#: Seconds for what takes a moment.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Order:
    """What one tenant asks for."""

    ref: str
    context: Any = None
    how: dict[str, Any] = field(default_factory=dict)


@dataclass
class Got:
    """What came of it."""

    content: bytes = b""
    done: Any = None
    error: BaseException | None = None
    #: The digest of the entry that `load` named.
    loaded: str = ""


@dataclass(frozen=True)
class Door:
    #: How the first tenant's bytes come there, and how the second asks.
    fill: str
    ask: str = "path"


DOORS = {
    "cache": Door("cached"),
    "cache, loaded before": Door("loaded"),
    "cache load": Door("cached", "load"),
    "running transfer": Door("running"),
    "part file": Door("part"),
    "part file, complete": Door("complete part"),
    "location": Door("located"),
    "location, reader": Door("located", "reader"),
    "location, file object": Door("located", "object"),
}


class House:
    """One host: its folders, its brokers, and the doors."""

    def __init__(self, folder: Path, plain: imagebroker.Broker, direct: imagebroker.Broker) -> None:
        """`plain` has a cache in `folder / "cache"`; `direct` reads locations that are files."""
        self.folder, self.plain, self.direct = folder, plain, direct
        self._dest = folder / "dest"
        self._pause: _Pause | None = None

    def reset(self) -> None:
        for name in ("cache", "dest"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self._dest.mkdir()

    # -- the first tenant -------------------------------------------------------------------------

    def filled(self, door: Door, order: Order, cut: Callable[[], None]) -> Any:
        """A context in which the bytes of the first tenant are there. `cut`: break the next answer."""
        if door.fill == "cached":
            self.plain.download(order.context, order.ref, self._dest / "first", **order.how)
        elif door.fill == "loaded":
            self.plain.load(order.context, order.ref, **order.how)
        elif door.fill == "running":
            return self._running(order)
        elif door.fill in ("part", "complete part"):
            self._leave_part(order, cut, complete=door.fill == "complete part")
        return nullcontext()

    @contextmanager
    def _running(self, order: Order) -> Iterator[None]:
        """The transfer of the first stands still in its middle, until one who may follows it."""
        pause = self._pause = _Pause(self._dest)

        def lead() -> None:
            try:
                self.plain.download(
                    order.context, order.ref, self._dest / "first", cancel=pause, **order.how
                )
            except imagebroker.ImageBrokerError:
                pass  # what the test did to the image meanwhile
            finally:
                pause.reached.set()

        thread = threading.Thread(target=lead)
        thread.start()
        try:
            if not pause.reached.wait(_PATIENCE):
                raise AssertionError("the first transfer does not begin")
            yield
        finally:
            pause.go_on.set()
            thread.join(_PATIENCE)
            self._pause = None

    def _leave_part(self, order: Order, cut: Callable[[], None], *, complete: bool) -> None:
        cut()
        try:
            self.plain.download(
                order.context, order.ref, self._dest / "image", keep_partial=True, **order.how
            )
        except imagebroker.TransferError:
            pass
        [journal] = self._dest.glob(".*.imagebroker-journal")
        found = json.loads(journal.read_text())
        if found["stored"] < len(DATA) - 100_000:
            raise AssertionError(f"only {found['stored']} bytes were kept")
        if complete:  # as after a kill between the last note and the end
            [part] = self._dest.glob(".*.imagebroker-part")
            part.write_bytes(DATA)
            found["stored"], found["early"] = len(DATA), []
            found["digests"] = {
                name: hashlib.new(name, DATA).hexdigest() for name in found["digests"]
            }
            journal.write_text(json.dumps(found).ljust(4095) + "\n")

    # -- the second -------------------------------------------------------------------------------

    def ask(self, door: Door, order: Order, *, follows: bool = False) -> Got:
        """`follows`: the first transfer goes on as soon as bytes have come from it."""
        broker = self.direct if door.fill == "located" else self.plain
        target = self._dest / ("image" if door.fill.endswith("part") else "second")
        got = Got()
        cancel = _Following(self._dest, self._pause.go_on) if follows and self._pause else None
        try:
            if door.ask == "load":
                got.loaded = broker.load(order.context, order.ref, **order.how).digest
            if door.ask == "reader":
                with broker.open(order.context, order.ref, **order.how) as reader:
                    for chunk in reader:
                        got.content += chunk
            elif door.ask == "object":
                file = io.BytesIO()
                try:
                    got.done = broker.download(order.context, order.ref, file, **order.how)
                finally:
                    got.content = file.getvalue()
            else:
                got.done = broker.download(
                    order.context, order.ref, target, keep_partial=True, cancel=cancel, **order.how
                )
        except imagebroker.ImageBrokerError as error:
            got.error = error
        if target.exists():
            got.content = target.read_bytes()
            target.unlink()
        return got

    def was_used(self, door: Door, got: Got, sent: int) -> bool:
        """Whether the bytes came through the door: `sent` is what the server sent meanwhile."""
        if door.fill.endswith("part"):
            return sum(got.done.served.values()) < len(DATA) / 2
        if door.fill == "located":
            return got.done is None or got.done.source.startswith("file:")
        return sent < len(DATA) / 2


class _Pause:
    """A caller's `cancel`, which stops the call where bytes have arrived, and cancels nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.reached, self.go_on = threading.Event(), threading.Event()

    def is_set(self) -> bool:
        parts = self._folder.glob(".first.*.imagebroker-part")
        if not self.reached.is_set() and any(part.stat().st_size for part in parts):
            self.reached.set()
            self.go_on.wait(_PATIENCE)
        return False


class _Following:
    """The `cancel` of the second, which lets the first go on where it has bytes of it."""

    def __init__(self, folder: Path, go_on: threading.Event) -> None:
        self._folder, self._go_on = folder, go_on

    def is_set(self) -> bool:
        if any(part.stat().st_size for part in self._folder.glob(".second.*.imagebroker-part")):
            self._go_on.set()
        return False


def cut_web(web: Web, path: str) -> None:
    file: File = web.files[path]
    file.cut_after = _CUT
