"""Backends that break a clause about attempts: changes, repetition, ranges."""

from collections.abc import Iterator

from imagebroker.plugin import (
    Buffer,
    RangeIgnored,
    TransferError,
)
from imagebroker.testing.fakes.memory import CHUNK, MemorySource
from tests.testing import hookups
from tests.testing.broken.register import broken
from tests.testing.peers import (
    LineSource,
    WebSource,
)


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
