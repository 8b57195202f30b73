"""The result of `broker.open`: an image as a readable object."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.model.image import Image
from imagebroker.system.forks import Condition
from imagebroker.transfer.account import Account, facts
from imagebroker.transfer.fetch.candidates import Candidate, insecurity
from imagebroker.transfer.fetch.events import Checked, Chunk, Content, Unpacked
from imagebroker.transfer.fetch.fetch import Fetch
from imagebroker.transfer.limits import Watch


class VerifiedStream:
    """The bytes of an image that was opened, for a reader."""

    def __init__(
        self,
        fetch: Fetch,
        content: Content,
        image: Image,
        candidates: Sequence[Candidate],
        watch: Watch,
    ) -> None:
        self._fetch, self._content = fetch, content
        self._candidates, self._watch = candidates, watch
        #: The record.
        self.image = image
        #: Bytes in all; None if that is not known.
        self.size = content.size
        #: What was computed over the bytes; empty until every check has passed.
        self.evidence: dict[str, Any] = {}
        self._account = Account()

    @property
    def facts(self) -> dict[str, Any]:
        """For the log: how it went; nothing before every check has passed."""
        account = self._account
        if not self.evidence:
            return {}
        return facts(
            account.via, account.source, account.attempts, account.resumed_from, self.evidence
        )

    def chunks(self) -> Generator[Buffer, None, None]:
        """They end without an error only if every check has passed. To be called once."""
        account = self._account
        with closing(self._content.events()) as events:
            for event in events:
                account.note(event)
                if isinstance(event, Checked):
                    served = account.served
                    self.evidence = account.evidence | insecurity(self._candidates, served)
                elif isinstance(event, (Chunk, Unpacked)):
                    yield event.data
        self._watch.report("done", always=True)

    def close(self) -> None:
        """Let go; idempotent."""
        self._fetch.close()


class ImageReader(io.RawIOBase):
    """Read it, or iterate it for chunks of bytes. Its end means that every check has passed.

    The last bytes are held back until then. Closing it early is not an error. After an error each
    further read raises that error again, never an end.
    """

    def __init__(
        self,
        stream: VerifiedStream,
        ended: Callable[[BaseException | None], None] = lambda error: None,
    ) -> None:
        """`ended` is called when it is closed, with the error that ended it."""
        super().__init__()
        self._stream = stream
        self._ended = ended
        self._chunks = stream.chunks()
        self._rest = memoryview(b"")
        self._error: BaseException | None = None
        self._lock = Condition()
        #: The record.
        self.image: Image = stream.image
        #: Bytes in all, None if the source does not know.
        self.size: int | None = stream.size

    @property
    def evidence(self) -> dict[str, Any]:
        """Digests and formats of the bytes, and the checks that passed; empty before the end."""
        return self._stream.evidence

    def readable(self) -> bool:
        return True

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the image reader is closed")

    def _next(self) -> Buffer | None:
        """The next chunk, None at the end."""
        if self._error is not None:
            raise self._error
        try:
            return next(self._chunks, None)
        except BaseException as error:
            self._error = error
            self._stream.close()
            raise

    def __next__(self) -> bytes:
        with self._lock:
            self._check_open()
            if self._rest:
                chunk, self._rest = bytes(self._rest), memoryview(b"")
                return chunk
            found = self._next()
        if found is None:
            raise StopIteration
        return bytes(found)

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, empty at the verified end; all that is left by default."""
        found = super().read(size)
        return b"" if found is None else found  # it never is: this reader waits

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer` as far as bytes are there; 0 at the verified end."""
        target = memoryview(buffer).cast("B")
        with self._lock:
            self._check_open()
            if not self._rest and len(target):
                found = self._next()
                if found is None:
                    return 0
                self._rest = memoryview(found)
            size = min(len(target), len(self._rest))
            target[:size] = self._rest[:size]
            self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            try:
                self._stream.close()
                self._chunks.close()
            except ValueError:
                pass  # another thread is reading: the closed source ends it
            finally:
                super().close()
                self._ended(self._error)
