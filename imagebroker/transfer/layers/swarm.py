"""Bytes from the other hosts of the fleet that download the same image: a candidate before the
others.

A host takes part only where a strong digest covers the whole image: that decides about every byte,
wherever it came from. It asks its own backend, with its own credentials, for the image before it
speaks with anybody. If there is no swarm, or not any more, the backend goes on at the missing
bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from imagebroker.backends.opened_source import OpenedSource
from imagebroker.exceptions import ImageBrokerError
from imagebroker.model.algorithms import STRONG
from imagebroker.redaction import redact
from imagebroker.transfer.demands import Demands
from imagebroker.transfer.fetch.candidates import Candidate, HandedOver, Waiting
from imagebroker.transfer.layers.entitlement import Entitlement
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.transfer import Transfer
from imagebroker.verify.checksum import required_checksums

if TYPE_CHECKING:
    from imagebroker.model.image import Image
    from imagebroker.swarm.fleet import Fleet
    from imagebroker.swarm.second_process import Child
    from imagebroker.swarm.source import SwarmSource

LOG = logging.getLogger(__name__)

#: The part of `stall_timeout` for which a silent swarm is waited for: after the whole of it the
#: caller's own watch would take the silence for the backend's.
_TIMEOUT = 0.8


class _Running(NamedTuple):
    child: Child
    source: SwarmSource


class SwarmLayer:
    """One call's part in a swarm. Close it when the call ends."""

    def __init__(
        self, fleet: Fleet, entitlement: Entitlement, demands: Demands, watch: Watch
    ) -> None:
        self._fleet, self._entitlement = fleet, entitlement
        self._demands, self._watch = demands, watch
        self._running: _Running | None = None
        self._digest: tuple[str, str] | None = None
        self._verified = False
        self._own: Candidate | None = None

    def around(self, transfer: Transfer) -> Transfer:
        """The same with the swarm as a candidate: before those that it stands for, and after a
        transfer of this host."""
        own = transfer.candidates
        self._own = own[-1]
        swarm = Candidate(
            self._own.ref, self._open, secondhand=True, is_swarm=True,
            again=Candidate(self._own.ref, self._repair, secondhand=True, is_swarm=True),
        )  # fmt: skip
        followed = [each for each in own[:-1] if each.secondhand]
        return transfer._replace(candidates=[*followed, swarm, *own[len(followed) :]])

    def _open(self, first: int, left: float, waiting: Waiting) -> OpenedSource:
        """:raises HandedOver: this image, or this host, can do without."""
        if self._running is not None or self._own is None:
            raise HandedOver("the swarm was left")
        image = self._entitlement.ask()
        size = None if image is None else image.size
        limited = self._watch.rules.rate_limit is not None  # others shall not wait for this call
        if image is None or size is None or size < self._fleet.from_size or limited:
            raise HandedOver("the image is not one for a swarm")
        # At its end, because what a backend begins to send of the image is not what will be read.
        opened = self._own.open(size - 1, left, waiting)
        try:
            self._digest = _digest(opened.image, self._demands)
            suits = opened.seekable and opened.local_path is None and opened.image.size == size
            if self._digest is None or not suits:
                raise HandedOver("the image is not one for a swarm")
            return self._joined(opened, self._digest, size, first)
        except BaseException:
            opened.close()
            raise

    def _repair(self, first: int, left: float, waiting: Waiting) -> OpenedSource:
        """The bytes from the swarm, repaired, after the digest has shown that some are wrong.

        :raises HandedOver: nothing did.
        """
        running, own = self._running, self._own
        if running is None or own is None or self._digest is None:
            raise HandedOver("there was no swarm")
        if not running.source.is_repairable:
            raise HandedOver("there was no swarm")
        opened = own.open(running.child.start.size - 1, left, waiting)
        repaired = running.source.repaired(opened, self._digest)
        return OpenedSource(repaired, lambda verb: nullcontext())

    def _joined(
        self, opened: OpenedSource, digest: tuple[str, str], size: int, first: int
    ) -> OpenedSource:
        from imagebroker.swarm import root
        from imagebroker.swarm.plan import topic  # where a swarm is configured
        from imagebroker.swarm.second_process import Child
        from imagebroker.swarm.source import SwarmSource

        ref, rules = redact(opened.image.ref), self._watch.rules
        try:
            record = self._demands.record or opened.image
            start = self._fleet.start(
                topic(*digest), size, first, _TIMEOUT * rules.stall_timeout, root.of(record)
            )
            child = Child(start)
        except (OSError, ImageBrokerError) as error:
            LOG.warning("%s: not in a swarm: %s", ref, error)
            raise HandedOver("there is no swarm") from error
        source = SwarmSource(opened, child, _left)
        self._running = _Running(child, source)
        return OpenedSource(source, lambda verb: nullcontext())

    def verified(self) -> Mapping[str, Any]:
        """Every check has passed: what was fetched may be passed on a little longer. What the
        evidence says of other hosts."""
        self._verified = True
        named = self._running.source.left_out if self._running is not None else []
        return {"left_out": tuple(named)} if named else {}

    def close(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.source.close()
            complete = self._verified and running.source.complete
            running.child.end(self._fleet.linger if complete else None)
            running.source.release()

    def __enter__(self) -> SwarmLayer:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


def _left(why: str) -> Exception:
    LOG.info("the swarm is left: %s", why)
    return HandedOver(f"the swarm is left: {why}")


def _digest(image: Image, demands: Demands) -> tuple[str, str] | None:
    """The digest that proves all bytes; None if there is none."""
    try:
        found = required_checksums(
            demands.record or image, demands.checksums, require=False,
            allow_weak=demands.allow_weak, served=demands.served,
        )  # fmt: skip
    except ImageBrokerError:
        return None
    strong = sorted((c.algorithm, c.digest) for c in found if c.algorithm in STRONG)
    return strong[-1] if strong else None
