"""Single flight: one download per image and host; one call transfers, others follow its part file.

A flight (`flights.py`) says who transfers. A call that finds it locked asks the backend what it may
read (`probe`), with its own identity and without asking for the image, and follows only a transfer
of the very version that it was answered with. What it follows it stores, hashes and checks itself,
as if it came from a peer. If the transfer dies, fails or stalls, one of those who follow takes
over, and the others follow that one.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from time import monotonic, sleep
from typing import Any, Protocol

from imagebroker.backends.backend import Buffer, ImageSource
from imagebroker.backends.opened_source import OpenedSource
from imagebroker.exceptions import (
    ChecksumMismatch,
    ConfigError,
    ImageBrokerError,
    RangeIgnored,
    TransferError,
)
from imagebroker.model.algorithms import STRONG
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.system.forks import close
from imagebroker.transfer.demands import Demands
from imagebroker.transfer.fetch.candidates import Candidate, HandedOver, Waiting
from imagebroker.transfer.fetch.events import (
    Attempt,
    Event,
    LocalFile,
    Mixed,
    Restart,
    Stored,
)
from imagebroker.transfer.layers.entitlement import Entitlement, are_same, names
from imagebroker.transfer.layers.flights import Announcement, Flight, Flights
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.store.part_file import PartFile
from imagebroker.verify.checks import Required
from imagebroker.verify.checksum import DEFAULT, Checksum, required_checksums

LOG = logging.getLogger(__name__)

#: Flights of one ref that are considered: all but the last have another version, or have stalled.
_MAX_FLIGHTS = 4
#: Seconds between two checks of another transfer.
_POLL_INTERVAL = 0.02
#: Seconds between two announcements of how far a transfer is.
_ANNOUNCE_EVERY = 0.05
#: The part of `stall_timeout` for which a silent transfer is waited for: after the whole of it the
#: caller's own watch would take the silence for a peer's.
_STALL_SHARE = 0.8
_CHUNK = 1024 * 1024


Listener = Callable[[Event], None]


class Flying(Protocol):
    """The interface of single flight for a transfer."""

    def candidates(self, own: Sequence[Candidate]) -> list[Candidate]: ...

    def announcer(self, required: Required, part: PartFile | None) -> Listener: ...

    def confirm(self, evidence: Mapping[str, Any]) -> None: ...

    def verified(self, evidence: Mapping[str, Any]) -> None: ...


class _Alone:
    """A transfer that is not shared."""

    def candidates(self, own: Sequence[Candidate]) -> list[Candidate]:
        return list(own)

    def announcer(self, required: Required, part: PartFile | None) -> Listener:
        return lambda event: None

    def confirm(self, evidence: Mapping[str, Any]) -> None:
        pass

    def verified(self, evidence: Mapping[str, Any]) -> None:
        pass


ALONE = _Alone()


class SingleFlight:
    """One call's part in a shared transfer: it leads, it follows, or it is alone.

    Close it when the call ends. An announcement that fails ends the sharing, never the call.
    """

    def __init__(
        self,
        flights: Flights,
        entitlement: Entitlement,
        ref: str,
        demands: Demands,
        watch: Watch,
    ) -> None:
        self._flights, self._ref = flights, ref
        #: What this caller may have of others.
        self.entitlement = entitlement
        self._demands, self._watch = demands, watch
        #: Seconds of silence after which a transfer is given up.
        self.patience = _STALL_SHARE * watch.rules.stall_timeout
        self._image: Image | None = None
        self._led: Flight | None = None
        self._following: _Following | None = None
        self._subject: tuple[Image, Required, PartFile] | None = None
        self._told = 0.0
        self._beginning = 0
        self._source: _FollowedSource | None = None

    def candidates(self, own: Sequence[Candidate]) -> list[Candidate]:
        """Wait until it is settled whom to follow; the candidate to begin with, and those after it.

        :raises ConfigError: the directory of the announcements is open to other users.
        :raises Cancelled, TransferTimeout: of the caller and the deadline.
        """
        try:
            self._following = self.next_leader(0, self._wait)
        except OSError as error:
            LOG.info("%s is not shared: %s", redact(self._ref), error)
        if self._following is None:
            return list(own)
        return [Candidate(self._ref, self._open, secondhand=True), *own]

    def _wait(self) -> None:
        self._looking()
        sleep(_POLL_INTERVAL)

    def _looking(self) -> None:
        self._watch.check()
        self._watch.report("wait")

    # -- following -------------------------------------------------------------------------------

    def next_leader(self, first: int, waiting: Callable[[], None]) -> _Following | None:
        """The transfer to follow; None if this call leads or is not shared."""
        for number in range(first, _MAX_FLIGHTS):
            found = self._look_at(number, waiting)
            if found is not None:
                LOG.info("%s: following another transfer of it", redact(self._ref))
                return found
            if self._led is not None or self._image is None:
                return None
        return None

    def _look_at(self, number: int, waiting: Callable[[], None]) -> _Following | None:
        """The transfer of one flight, if this caller may read it; its name is taken if free."""
        began, flight = monotonic(), self._flight(number)
        try:
            while True:
                locked = flight.lock()
                if locked:
                    # Others shall not have to wait as long as this call wants to wait.
                    if self._watch.rules.rate_limit is None:
                        self._led = flight
                    return None
                if locked is None:
                    flight.close()
                    flight = self._flight(number)
                    continue
                if not self._may_follow():
                    return None
                found = flight.read()
                if found is None and monotonic() - began > self.patience:
                    return None
                if found is not None and found.state != "failed":
                    late = flight.silent_for > self.patience
                    if late or not self._fits(found):
                        return None
                    following = _Following.of(flight, number, found)
                    if following is not None:
                        return following
                    if found.state == "running":  # its file is out of reach
                        return None
                waiting()
        finally:
            if flight is not self._led and not flight.is_followed:
                flight.close()

    def _flight(self, number: int) -> Flight:
        return Flight(self._flights, f"{self.entitlement.resource.key}.{number}")

    def _may_follow(self) -> bool:
        """Whether there is an image that this caller may read, and that can be recognised."""
        if self._image is None:
            image = self.entitlement.ask()
            if image is None or image.size is None or not names(image):
                return False
            try:
                self._checksums(image)
            except ImageBrokerError:
                return False  # a record, or a demand, that will be refused
            self._image = image
        return True

    def _checksums(self, image: Image) -> tuple[Checksum, ...]:
        """The checksums that the bytes of `image` must have."""
        demands = self._demands
        return required_checksums(
            demands.record or image, demands.checksums, require=False,
            allow_weak=demands.allow_weak,
        )  # fmt: skip

    @property
    def _covered(self) -> bool:
        """Whether a digest proves what is followed, without anybody's word."""
        return any(c.algorithm in STRONG for c in self._checksums(self.image))

    @property
    def image(self) -> Image:
        """The image, as the backend described it to this caller."""
        if self._image is None:
            raise TransferError("nothing is followed", retryable=False)
        return self._image

    def _fits(self, found: Announcement) -> bool:
        if found.size != self.image.size or not are_same(names(self.image), found.marks):
            return False
        computed = {c.algorithm for c in self._checksums(self.image)} or {DEFAULT}
        return self._covered or bool(computed & set(found.algorithms))

    def _open(self, start: int, left: float, waiting: Waiting) -> OpenedSource:
        following = self._following
        if following is None or self._led is not None:
            raise HandedOver("the other transfer has ended")
        self._source = _FollowedSource(self, following, hold_back=not self._covered)
        return OpenedSource(self._source, lambda verb: nullcontext())

    def follow(self, following: _Following | None) -> None:
        """From now on this one, where several were followed one after the other."""
        if self._following is not None:
            self._following.close()
        self._following = following

    def confirm(self, evidence: Mapping[str, Any]) -> None:
        """Compare what was computed with what the transfer that was followed computed.

        :raises ChecksumMismatch: its file was written to when it was in place already.
        """
        digests = self._source.digests if self._source is not None else None
        if digests is None or self._covered:
            return
        common = [name for name in digests if name in evidence]
        if not common or any(evidence[name] != digests[name] for name in common):
            raise ChecksumMismatch(
                f"{self._ref}: the part file of the other transfer changed while it was read"
            )

    # -- leading ---------------------------------------------------------------------------------

    def announcer(self, required: Required, part: PartFile | None) -> Listener:
        """Tells others of what is stored in `part`, event by event."""
        if part is None:
            return lambda event: None

        def note(event: Event) -> None:
            match event:
                case Attempt():
                    self._subject = (event.image, required, part)
                case Stored():
                    self._stored(event.position)
                case Restart():
                    self._begins_again()
                case Mixed():
                    self.withdraw()
                case LocalFile():
                    self._give_up()  # copying it is not what would be shared
                case _:
                    pass

        return note

    def _announce(self, flight: Flight, stored: int) -> None:
        """Let others follow."""
        if self._subject is None:
            return
        image, required, part = self._subject
        marks = names(self._demands.record or image)
        if image.size is None or not marks:
            self._give_up()
            return
        algorithms = tuple(c.algorithm for c in required.checksums) or (DEFAULT,)
        with self._sharing():
            fd = part.fileno()
            path, found = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd)
            flight.announce(
                Announcement(
                    marks, image.size, path, found.st_dev, found.st_ino, algorithms,
                    beginning=self._beginning, stored=stored,
                )
            )  # fmt: skip

    def _stored(self, position: int) -> None:
        """The first `position` bytes are there."""
        flight = self._led
        if flight is None:
            return
        if flight.announced is None:
            self._announce(flight, position)
        elif (
            position == flight.announced.size != flight.announced.stored
            or monotonic() - self._told > _ANNOUNCE_EVERY
        ):
            self._told = monotonic()
            with self._sharing():
                flight.update(stored=position)

    def _begins_again(self) -> None:
        """Tell others that the bytes they have read are void."""
        flight, self._beginning = self._led, self._beginning + 1
        if flight is not None:
            with self._sharing():
                flight.update(beginning=self._beginning, stored=0)

    def withdraw(self) -> None:
        """The bytes are no longer of the version that was announced: others go on without them."""
        flight = self._led
        if flight is not None and flight.announced is not None:
            with self._sharing():
                flight.update(state="failed")
        self._give_up()

    def verified(self, evidence: Mapping[str, Any]) -> None:
        """Every check has passed."""
        flight = self._led
        if flight is not None and flight.announced is not None:
            digests = {name: evidence[name] for name in flight.announced.algorithms}
            with self._sharing():
                flight.update(state="verified", digests=digests)

    @contextmanager
    def _sharing(self) -> Iterator[None]:
        """Ends the sharing where an announcement cannot be written."""
        try:
            yield
        except OSError as error:
            LOG.info("%s is not shared: %s", redact(self._ref), error)
            self._give_up()

    def _give_up(self) -> None:
        """Callers that wait stop waiting for this one."""
        flight, self._led = self._led, None
        if flight is not None:
            flight.close()

    def close(self) -> None:
        self.follow(None)
        announced = self._led.announced if self._led is not None else None
        if announced is not None and announced.state == "running":
            self.withdraw()
        self._give_up()

    def __enter__(self) -> SingleFlight:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Following:
    """A transfer that is followed: its flight, and its part file open for reading."""

    def __init__(self, flight: Flight, number: int, first: Announcement, fd: int) -> None:
        self.flight, self.number, self.first, self.fd = flight, number, first, fd

    @classmethod
    def of(cls, flight: Flight, number: int, found: Announcement) -> _Following | None:
        """None if the part file cannot be opened: it is in place, or in another namespace."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(found.part, flags)
        except (OSError, ValueError):
            return None
        try:
            there = os.fstat(fd)
        except OSError:
            close(fd)
            return None
        if not stat.S_ISREG(there.st_mode) or (there.st_dev, there.st_ino) != found.file:
            close(fd)
            return None
        flight.is_followed = True
        return cls(flight, number, found, fd)

    def look(self) -> Announcement | None:
        """The current announcement; None if there is none, or it is of another transfer."""
        now = self.flight.read()
        return now if now is not None and now.file == self.first.file else None

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        close(fd)
        self.flight.close()


class _FollowedSource(ImageSource):
    """The bytes of another transfer as they land in its part file."""

    seekable = True

    def __init__(self, owner: SingleFlight, following: _Following, *, hold_back: bool) -> None:
        """`hold_back`: hand out the last byte when the transfer is verified, not before."""
        self.image = owner.image
        self._owner, self._following = owner, following
        self._hold_back = hold_back
        self._beginning = (following.look() or following.first).beginning
        self._closed = threading.Event()
        self._heard = 0.0
        #: What the transfer that is followed computed over its whole, where bytes of it were read
        #: after that: its file is in place by then, and anybody may write to it.
        self.digests: Mapping[str, str] | None = None

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        size = self.image.size or 0
        position, end = start, size if stop is None else min(stop, size)
        self._heard = monotonic()
        while position < end:
            chunk = self._next(position, end)
            if chunk:
                position += len(chunk)
                yield chunk
                self._heard = monotonic()
            else:
                self._wait()

    def close(self) -> None:
        self._closed.set()

    def _wait(self) -> None:
        if self._closed.wait(_POLL_INTERVAL):
            raise TransferError(f"{self.image.ref}: closed while another transfer was followed")

    def _next(self, position: int, end: int) -> bytes:
        """The bytes that have landed since; empty if there are none.

        :raises TransferError: there is no transfer to follow any more.
        """
        following = self._following
        now = following.look()
        if now is not None:
            self._check_beginning(now)
            there = min(now.stored, end)
            if self._hold_back and there == self.image.size and now.digests is None:
                there -= 1
            if position < there:
                return self._read(following, position, min(_CHUNK, there - position))
        silent = monotonic() - self._heard > self._owner.patience
        if silent or now is None or now.state == "failed":
            self._go_on(following.number + 1 if silent else following.number)
        elif following.flight.is_abandoned and following.look() == now:
            self._go_on(following.number)  # it did not end in the meantime, but was killed
        return b""

    def _check_beginning(self, now: Announcement) -> None:
        if now.beginning != self._beginning:
            self.seekable = False  # so that this one begins again too
            raise RangeIgnored(f"{self.image.ref}: the transfer that was followed began again")

    def _read(self, following: _Following, position: int, size: int) -> bytes:
        try:
            chunk = os.pread(following.fd, size, position)
        except OSError as error:
            raise TransferError(
                f"{self.image.ref}: cannot read the part file of the other transfer: "
                f"{error.strerror}",
                retryable=False,
            ) from error
        now = following.look()
        if now is None:
            return b""  # another transfer has this flight, and the file perhaps
        self._check_beginning(now)
        if now.digests is not None:
            self.digests = now.digests
        # Zeros that reach to its end are a hole, which is not there before the file has its size.
        return chunk or bytes(size)

    def _go_on(self, number: int) -> None:
        """Follow the next transfer, from the first missing byte.

        :raises HandedOver: there is no other transfer: this call continues by itself.
        """
        try:
            following = self._owner.next_leader(number, self._wait)
        except (OSError, ConfigError):
            following = None
        if following is None:
            LOG.info("%s: the followed transfer ended; taking over", redact(self.image.ref))
            raise HandedOver("the transfer that was followed ended or stalled")
        self._owner.follow(following)
        self._following, self._beginning = following, following.first.beginning
        self._heard = monotonic()
