"""Backends whose class, or whose way to open an image, breaks a clause."""

import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from oslo_config import cfg

from imagebroker.plugin import (
    API_VERSION,
    BackendError,
    BackendHost,
    Buffer,
    Context,
    Image,
    ImageData,
    ImageNotFound,
    ImageRef,
    ImageSource,
    RangeIgnored,
    RefForm,
    TransferError,
)
from imagebroker.testing.fakes.memory import CHUNK, MemoryBackend, MemorySource, Stored
from tests.testing import hookups
from tests.testing.broken.register import BROKEN, LEAKED, broken
from tests.testing.peers import (
    FolderBackend,
    StoringLineBackend,
)


@broken("C3")
class ApiVersionIsTheCores(MemoryBackend):
    api_version = API_VERSION


@broken("C3")
class ApiVersionIsInherited(MemoryBackend):
    pass


@broken("C4")
class NameIsNoScheme(MemoryBackend):
    name = "Memory!"


@broken("C5")
class RefFormIsAnothers(MemoryBackend):
    ref_form = RefForm(host=True, path=True)


@broken("C6")
class RepeatsAnOptionOfTheCore(MemoryBackend):
    options: Sequence[cfg.Opt] = (cfg.StrOpt("proxy", help="Proxy."),)


@broken("C6")
class OptionWithoutHelp(MemoryBackend):
    options: Sequence[cfg.Opt] = (cfg.StrOpt("folder"),)


@broken("C6")
class PasswordIsNoSecret(MemoryBackend):
    options: Sequence[cfg.Opt] = (cfg.StrOpt("password", help="Password."),)


@broken("C7")
class ConstructorConnects(MemoryBackend):
    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        with socket.socket() as sock:
            sock.connect_ex(("127.0.0.1", 9))


@broken("C7")
class ConstructorReadsAFile(MemoryBackend):
    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        Path("/etc/hostname").read_bytes()


@broken("C7")
class ConstructorStartsAThread(MemoryBackend):
    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        stop = threading.Event()
        LEAKED.append(stop.set)
        threading.Thread(target=stop.wait, daemon=True).start()


@broken("C7")
class OneDownloadAtATime(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        self.current = super().open(context, ref)
        time.sleep(0.01)
        return self.current


@broken("C8")
class DeleteWithoutItsArguments(MemoryBackend):
    def delete(self, ref: ImageRef) -> None:  # type: ignore[override]
        self.shelf.remove(ref.text)


@broken("C8")
class LeftOutButNotUnsupported(FolderBackend):
    def _unsupported(self, what: str) -> Any:
        return NotImplementedError(what)


BROKEN[-1] = ("C8", LeftOutButNotUnsupported, hookups.FolderContract)


@broken("C9")
class MissingIsAKeyError(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return MemorySource(Image(ref=ref.text), {}[ref.id])  # type: ignore[index]


@broken("C9")
class MissingIsAnEmptyImage(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        try:
            return super().open(context, ref)
        except ImageNotFound:
            return MemorySource(Image(ref=ref.text, size=0), Stored(Image(ref=ref.text), b""))


@broken("C9")
class ForbiddenIsTrouble(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        try:
            return super().open(context, ref)
        except ImageNotFound:
            raise
        except Exception as error:
            raise BackendError("something went wrong") from error


@broken("C9")
class OneSourceForAll(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        kept = self.__dict__.setdefault("kept", {})
        image, stored = super().get(context, ref), self._find(context, ref)
        return kept.setdefault(ref.text, ClosedForGood(image, stored))  # type: ignore[no-any-return]


class ClosedForGood(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        for chunk in super().read(start, stop):
            if self._closed.is_set():
                raise TransferError("closed")
            yield chunk


class Claiming(MemorySource):
    claims: Mapping[str, Any] = {}

    def __init__(self, image: Image, stored: Stored) -> None:
        super().__init__(replace(image, **self.claims), stored)


@broken("C10")
class ClaimsAnotherSize(Claiming):
    def __init__(self, image: Image, stored: Stored) -> None:
        self.claims = {"size": (image.size or 0) + 1}
        super().__init__(image, stored)


@broken("C10")
class ClaimsAnotherDigest(Claiming):
    claims = {"checksums": {"sha256": "0" * 64}}


@broken("C10")
class UnknownIsEmpty(Claiming):
    claims = {"name": "", "disk_format": ""}


@broken("C10")
class ImageRefIsNoRef(Claiming):
    claims = {"ref": "/var/lib/image"}


@broken("C11")
class VersionIsTheSize(Claiming):
    def __init__(self, image: Image, stored: Stored) -> None:
        self.claims = {"version": str(image.size)}
        super().__init__(image, stored)


@broken("C11")
class VersionIsTheTime(Claiming):
    def __init__(self, image: Image, stored: Stored) -> None:
        self.claims = {"version": str(time.monotonic_ns())}
        super().__init__(image, stored)


@broken("C12")
class SeekableThatIsNot(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        if start:
            raise RangeIgnored("cannot begin there")
        return super().read(start, stop)


@broken("C12")
class ReadOnce(MemorySource):
    used = False

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        if not self.used:
            self.used = True
            yield from super().read(start, stop)


@broken("C12")
class ReadsShareAPosition(MemorySource):
    at = 0

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        self.at, end = start, len(self._data) if stop is None else stop
        while self.at < end:
            chunk = self._data[self.at : min(self.at + CHUNK, end)]
            self.at += len(chunk)
            yield chunk


@broken("C12")
class SettlesLater(MemorySource):
    parallel_reads = 1

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        yield from super().read(start, stop)
        self.image = replace(self.image, name="known at last")


@broken("C12")
class LocalPathIsAnotherFile(MemorySource):
    local_path = Path("/etc/hostname")


@broken("C26")
class RefWithoutInstance(MemoryBackend):
    def _named(self, image: Image, ref: ImageRef) -> Image:
        return replace(image, ref=f"memory:{ref.id}")


@broken("C26", hookups.StoringContract)
class StoresSomewhereElse(StoringLineBackend):
    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        stored = super().create(context, image, data)
        return replace(stored, ref=stored.ref.replace(f"{self.host.title}:", "line:", 1))


@broken("C37")
class OpensTheRestOnly(MemoryBackend):
    """What begins later is an image of its own."""

    def open_at(self, context: Context, ref: ImageRef, start: int) -> ImageSource:
        source = super().open_at(context, ref, start)
        source.image = replace(source.image, size=(source.image.size or 0) - start)
        return source
