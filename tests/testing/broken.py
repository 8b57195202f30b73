"""Backends with one bug each. `broken(clause)` names the clause of the contract that it breaks."""

from __future__ import annotations

import array
import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from oslo_config import cfg

from imagebroker.plugin import (
    API_VERSION,
    BackendError,
    BackendHost,
    Buffer,
    Context,
    Image,
    ImageBackend,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    RangeIgnored,
    RefForm,
    TransferError,
)
from imagebroker.testing import BackendContract
from imagebroker.testing.memory import CHUNK, MemoryBackend, MemorySource, Stored
from tests.testing import hookups
from tests.testing.peers import (
    FolderBackend,
    FolderSource,
    LineBackend,
    LineSource,
    StoringLineBackend,
    WebBackend,
    WebSource,
    let_go,
    split,
)

#: Each with the clause that it breaks and the hook-up that it is tested with.
BROKEN: list[tuple[str, type[ImageBackend], type[BackendContract]]] = []
#: What the leaking ones leave, for the test to take away.
LEAKED: list[Callable[[], object]] = []


def broken(
    clause: str, hookup: type[BackendContract] = hookups.MemoryContract
) -> Callable[[type], type]:
    """Note a broken backend, or a memory backend with a broken source."""

    def note(cls: type) -> type:
        backend = cls
        if issubclass(cls, MemorySource):
            backend = type(cls.__name__, (MemoryBackend,), {"api_version": 1, "source_class": cls})
        elif issubclass(cls, LineSource):
            backend = type(cls.__name__, (LineBackend,), {"api_version": 1, "open": _opens(cls)})
        elif issubclass(cls, WebSource):
            backend = type(cls.__name__, (WebBackend,), {"api_version": 1, "open": _opens(cls)})
        elif "api_version" not in vars(cls) and not cls.__name__.startswith("ApiVersion"):
            cls.api_version = 1  # type: ignore[attr-defined]
        BROKEN.append((clause, backend, hookup))
        return cls

    return note


def _opens(cls: Callable[[Any, ImageRef], ImageSource]) -> Callable[..., ImageSource]:
    return lambda self, context, ref: cls(self, ref)


# -- the class -------------------------------------------------------------------------------------


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


# -- opening ---------------------------------------------------------------------------------------


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


# -- reading ---------------------------------------------------------------------------------------


class Twisted(MemorySource):
    """Reads everything, then changes it."""

    parallel_reads = 1

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        yield self.twisted(b"".join(map(bytes, super().read(start, stop))))

    def twisted(self, data: bytes) -> bytes:
        return data


@broken("C13")
class OneByteTooFew(Twisted):
    def twisted(self, data: bytes) -> bytes:
        return data[:-1]


@broken("C13")
class OneByteTooMany(Twisted):
    def twisted(self, data: bytes) -> bytes:
        return data + b"\0"


@broken("C13")
class RightLengthWrongBytes(Twisted):
    def twisted(self, data: bytes) -> bytes:
        return data[:-2] + data[-1:] * 2 if len(data) > 70_000 else data


@broken("C13")
class ZerosAreLeftOut(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        for chunk in super().read(start, stop):
            if bytes(chunk).strip(b"\0"):
                yield chunk


@broken("C13")
class IgnoresStart(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        return super().read(0, stop)


@broken("C13")
class IgnoresStop(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        return super().read(start)


@broken("C13")
class StopIsInclusive(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        return super().read(start, None if stop is None else stop + 1)


@broken("C13")
class SwallowsTheError(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        with contextlib.suppress(TransferError):
            yield from super().read(start, stop)


@broken("C13", hookups.FolderContract)
class OffsetsHave32Bits(FolderBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return ShortOffsets(ref, self.find(ref))


class ShortOffsets(FolderSource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        end = self.image.size or 0 if stop is None else stop
        while start < end:
            chunk = os.pread(self.file.fileno(), min(CHUNK, end - start), start & 0xFFFFFFFF)
            yield chunk
            start += len(chunk)


@broken("C14")
class ReusesItsBuffer(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        buffer = bytearray(CHUNK)
        for chunk in super().read(start, stop):
            buffer[: len(chunk)] = chunk
            yield memoryview(buffer)[: len(chunk)]


@broken("C14")
class EmptyChunks(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        for chunk in super().read(start, stop):
            yield b""
            yield chunk


@broken("C14")
class OddChunks(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        for chunk in super().read(start, stop):
            yield array.array("B", chunk)


@broken("C14")
class ScatteredChunks(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        for chunk in super().read(start, stop):
            yield memoryview(bytes(byte for byte in chunk for _ in "12"))[::2]


@broken("C14")
class ReturnsTheBytes(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Any:
        return b"".join(map(bytes, super().read(start, stop)))


@broken("C14", hookups.LineContract)
class YieldsOnlyTheWhole(LineSource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        yield b"".join(map(bytes, super().read(start, stop)))


@broken("C14", hookups.FolderContract)
class ReadsTheWholeIntoMemory(FolderBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return Greedy(ref, self.find(ref))


class Greedy(FolderSource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        end = self.image.size or 0 if stop is None else stop
        yield bytes(min(end - start, 100 << 20))


# -- attempts --------------------------------------------------------------------------------------


@broken("C15")
class TriesAgainByItself(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        at = start
        try:
            for chunk in super().read(start, stop):
                yield chunk
                at += len(chunk)
        except TransferError:
            yield from super().read(at, stop)


@broken("C15", hookups.LineContract)
class ConnectsAgainByItself(LineSource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        at = start
        while at < (self.image.size or 0 if stop is None else stop):
            try:
                for chunk in super().read(at, stop):
                    yield chunk
                    at += len(chunk)
            except (TransferError, OSError):
                continue


@broken("C15")
class CannotGoOnAfterAnError(MemorySource):
    failed = False

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        if self.failed:
            raise TransferError("it failed before")
        try:
            yield from super().read(start, stop)
        except TransferError:
            self.failed = True
            raise


@broken("C15")
class CutsAreFinal(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        try:
            yield from super().read(start, stop)
        except TransferError as error:
            raise TransferError("cut", retryable=False) from error


@broken("C16", hookups.LineContract)
class GoesOnInAnotherVersion(LineSource):
    def ask_again(self, start: int) -> None:
        self.sock.close()
        self.sock, _ = self.backend.ask(self.ref, start)


@broken("C16")
class ReadsWhatIsThereNow(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        end = self.image.size or 0 if stop is None else stop
        for at in range(start, end, CHUNK):
            yield (self._stored.data or b"")[at : min(at + CHUNK, end)]


@broken("C16", hookups.WebContract)
class BelievesAnyRange(WebSource):
    def check_again(self, start: int, end: int) -> None:
        pass


@broken("C16", hookups.WebContract)
class DoesNotLookAtTheEtag(WebSource):
    def check_again(self, start: int, end: int) -> None:
        if self.answer.status != 206:
            raise RangeIgnored("the server sends the whole")


@broken("C36", hookups.WebContract)
class InsistsOnItsVersion(WebSource):
    def ignore_version(self) -> None:
        """It says that it can, and does nothing."""


# -- closing ---------------------------------------------------------------------------------------


@broken("C17")
class CloseTwiceFails(MemorySource):
    def close(self) -> None:
        if self._closed.is_set():
            raise ValueError("closed already")
        super().close()


@broken("C17")
class CloseBlocks(MemorySource):
    def close(self) -> None:
        time.sleep(1.0)


@broken("C17")
class CloseWaitsForTheRead(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        with self.__dict__.setdefault("lock", threading.Lock()):
            yield from super().read(start, stop)

    def close(self) -> None:
        if self.__dict__.setdefault("lock", threading.Lock()).acquire(timeout=1.0):
            super().close()


@broken("C17", hookups.LineContract)
class CloseDoesNotEndTheRead(LineSource):
    def close(self) -> None:
        LEAKED.append(self.sock.close)
        self.sock.close()


@broken("C17", hookups.LineContract)
class LeaksItsConnection(LineSource):
    def close(self) -> None:
        LEAKED.append(self.sock.close)


@broken("C17", hookups.LineContract)
class LeaksWhereTheImageIsMissing(LineBackend):
    def ask(self, ref: ImageRef, start: int = 0) -> tuple[socket.socket, Image]:
        sock = self.connect(ref)
        LEAKED.append(sock.close)
        sock.sendall(f"GET {ref.path} {start}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            byte = sock.recv(1)
            if not byte:
                raise TransferError("closed")
            line += byte
        return sock, self.described(ref, line.decode())


@broken("C17")
class LeaksADescriptor(MemorySource):
    def __init__(self, image: Image, stored: Stored) -> None:
        super().__init__(image, stored)
        fd = os.open("/dev/null", os.O_RDONLY)
        LEAKED.append(lambda: os.close(fd))


@broken("C17")
class LeaksAThread(MemorySource):
    def __init__(self, image: Image, stored: Stored) -> None:
        super().__init__(image, stored)
        stop = threading.Event()
        LEAKED.append(stop.set)
        threading.Thread(target=stop.wait, daemon=True).start()


@broken("C17")
class LeaksAChild(MemorySource):
    def __init__(self, image: Image, stored: Stored) -> None:
        super().__init__(image, stored)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        LEAKED.append(child.communicate)


@broken("C25", hookups.LineContract)
class CloseKeepsItsConnections(LineBackend):
    def connect(self, ref: ImageRef) -> socket.socket:
        if "spare" not in self.__dict__:
            self.spare = super().connect(ref)
            LEAKED.append(self.spare.close)
        return super().connect(ref)


@broken("C25")
class CloseFails(MemoryBackend):
    def close(self) -> None:
        raise RuntimeError("cannot close")


# -- errors ----------------------------------------------------------------------------------------


@broken("C18")
class CutIsAValueError(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        try:
            yield from super().read(start, stop)
        except TransferError as error:
            raise ValueError("odd") from error


@broken("C18", hookups.LineContract)
class EarlyEndIsAnIndexError(LineBackend):
    def described(self, ref: ImageRef, answer: str) -> Image:
        words = answer.split()
        if words[0] == "OK":
            return Image(ref=ref.text, size=int(words[1]), version=words[2])
        return super().described(ref, answer)

    def ask(self, ref: ImageRef, start: int = 0) -> tuple[socket.socket, Image]:
        sock = self.connect(ref)
        try:
            sock.sendall(f"GET {ref.path} {start}\n".encode())
            line = bytearray()
            while not line.endswith(b"\n") and (byte := sock.recv(1)):
                line += byte
            return sock, self.described(ref, line.decode())
        except BaseException:
            sock.close()
            raise


@broken("C18", hookups.FolderContract)
class NoDescriptorIsAnOSError(FolderBackend):
    def find(self, ref: ImageRef) -> int:
        os.close(os.open("/dev/null", os.O_RDONLY))
        return super().find(ref)


@broken("C18", hookups.FolderContract)
class LeaksWhenDescriptorsRunOut(FolderBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        fd = self.find(ref)
        try:
            os.close(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            LEAKED.append(lambda: os.close(fd))
            raise TransferError("no descriptor") from error
        return FolderSource(ref, fd)


@broken("C30", hookups.LineContract)
class AsksForEver(LineBackend):
    def ask(self, ref: ImageRef, start: int = 0) -> tuple[socket.socket, Image]:
        for _ in range(40):
            try:
                return super().ask(ref, start)
            except ImageNotFound:
                raise
            except Exception:
                time.sleep(0.1)
        raise TransferError("it does not answer")


# -- the facade ------------------------------------------------------------------------------------


@broken("C27", hookups.LineContract)
class ConnectsAroundTheFacade(LineBackend):
    def connect(self, ref: ImageRef) -> socket.socket:
        return socket.create_connection((ref.host or "", ref.port or 0), 5)


@broken("C27", hookups.LineContract)
class WaitsWithoutLimit(LineBackend):
    def connect(self, ref: ImageRef) -> socket.socket:
        sock = super().connect(ref)
        sock.settimeout(None)
        return sock


@broken("C28", hookups.FolderContract)
class OpensFilesItself(FolderBackend):
    def find(self, ref: ImageRef) -> int:
        try:
            return os.open(ref.path_bytes, os.O_RDONLY)
        except OSError as error:
            raise ImageNotFound(f"{ref}: no such file") from error


@broken("C28", hookups.FolderContract)
class FollowsLinks(FolderBackend):
    def find(self, ref: ImageRef) -> int:
        path = os.path.realpath(ref.path_bytes)
        return self.host.open_beneath("/", path[1:])


@broken("C29", hookups.WebContract)
class TokenFollowsRedirects(WebBackend):
    def may_identify(self, url: str, first: str) -> bool:
        return True


@broken("C29", hookups.WebContract)
class FollowsRedirectsAnywhere(WebBackend):
    def ask(
        self, url: str, headers: dict[str, str], first: str | None = None
    ) -> http.client.HTTPResponse:
        host, port, path = split(url)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self.host.connect(host, port)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.connection = connection  # type: ignore[attr-defined]
        if answer.status == 302:
            let_go(answer)
            with contextlib.suppress(OSError):
                place = (answer.getheader("Location") or "").split("/")[2]
                socket.create_connection((place, 80), 0.1).close()
            raise TransferError("nobody there")
        return answer


# -- the other verbs -------------------------------------------------------------------------------


@broken("C19")
class GetSaysSomethingElse(MemoryBackend):
    def get(self, *arguments: Any, **flags: bool) -> Image:
        return replace(super().get(*arguments, **flags), version=None, size=0)


@broken("C20")
class ListsTwice(MemoryBackend):
    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        found = list(super().get_all(context, query))
        return iter([*found, *found][: query.limit])


@broken("C20")
class IgnoresTheLimit(MemoryBackend):
    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        return super().get_all(context, replace(query, limit=None))


class Draft(MemoryBackend):
    """Stores in its own way."""

    def keep(self, image: Image, data: bytes) -> Image:
        with MemoryBackend.shelf.lock:
            return super().create(None, image, ImageData(data))


@broken("C21")
class LosesTheEnd(Draft):
    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        return self.keep(image, b"".join(data or ())[:-1])


@broken("C21")
class KeepsHalfAnUpload(Draft):
    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        kept = b""
        try:
            for chunk in data or ():
                kept += chunk
        except Exception:
            self.keep(image, kept)
            raise
        return self.keep(image, kept)


@broken("C21")
class TakesAnIdTwice(MemoryBackend):
    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        if image.id is not None:
            self.shelf.remove(image.id)
        return super().create(context, image, data)


@broken("C21")
class NeedsTheSize(MemoryBackend):
    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        if data is not None and data.size is None:
            raise TypeError("how many bytes?")
        return super().create(context, image, data)


@broken("C22", hookups.StoringContract)
class SendsAgainWhatCannotBeRewound(StoringLineBackend):
    def send(self, ref: ImageRef, path: str, data: ImageData) -> None:
        for _ in range(3):
            try:
                return super().send(ref, path, data)
            except TransferError as error:
                last = error
        raise last


@broken("C22", hookups.StoringContract)
class DoesNotWaitForTheAnswer(StoringLineBackend):
    def send(self, ref: ImageRef, path: str, data: ImageData) -> None:
        with self.connect(ref) as sock, contextlib.suppress(OSError):
            sock.sendall(f"PUT {path}\n".encode())
            for chunk in data:
                sock.sendall(b"%d\n" % len(chunk) + chunk)


@broken("C23")
class UpdateForgetsTheRest(MemoryBackend):
    def update(self, context: Context, ref: ImageRef, changes: Mapping[str, Any],
               data: ImageData | None, purge_props: bool) -> Image:  # fmt: skip
        return super().update(context, ref, changes, data, True)


@broken("C24")
class DeletesNothing(MemoryBackend):
    def delete(self, context: Context, ref: ImageRef) -> None:
        self._find(context, ref)


@broken("C24")
class DeletesWhatIsNotThere(MemoryBackend):
    def delete(self, context: Context, ref: ImageRef) -> None:
        with contextlib.suppress(ImageNotFound):
            super().delete(context, ref)


# -- what is opened for its rest ---------------------------------------------------------------------


@broken("C37")
class OpensTheRestOnly(MemoryBackend):
    """What begins later is an image of its own."""

    def open_at(self, context: Context, ref: ImageRef, start: int) -> ImageSource:
        source = super().open_at(context, ref, start)
        source.image = replace(source.image, size=(source.image.size or 0) - start)
        return source


# -- what is asked before bytes are shared ---------------------------------------------------------


@broken("C34")
class ProbesAnotherVersion(MemoryBackend):
    def probe(self, context: Context, ref: ImageRef) -> Image:
        return replace(super().probe(context, ref), version="another")


@broken("C34")
class ProbesWithoutAsking(MemoryBackend):
    def probe(self, context: Context, ref: ImageRef) -> Image:
        return Image(ref=ref.text, size=9)


# -- forks -----------------------------------------------------------------------------------------


@broken("C35")
class AnswersFromAPool(MemoryBackend):
    """Its threads are the parent's."""

    pool: ClassVar[ThreadPoolExecutor | None] = None

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        cls = type(self)
        if cls.pool is None:
            cls.pool = ThreadPoolExecutor(max_workers=1)
            LEAKED.append(cls.pool.shutdown)
        return cls.pool.submit(super().open, context, ref).result()


# -- the process -----------------------------------------------------------------------------------


@broken("C31")
class Prints(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        print("opening", ref)
        return super().open(context, ref)


@broken("C31")
class SetsTheDefaultTimeout(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        socket.setdefaulttimeout(20 + random.random())
        LEAKED.append(lambda: socket.setdefaulttimeout(None))
        return super().open(context, ref)


@broken("C31")
class SetsTheEnvironment(MemoryBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        os.environ["IMAGE"] = str(random.random())
        LEAKED.append(lambda: os.environ.pop("IMAGE", None))
        return super().open(context, ref)
