"""A host that has nothing of the image yet can ask others for a proof, too."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength

from imagebroker.swarm.plan import Layout
from tests.swarm.fleet import needs_libtorrent

pytestmark = needs_libtorrent
DATA = random.Random(5).randbytes(4 << 20)


def asked(data: bytes) -> tuple[list[Any], int]:
    """What a host that has no chunk asks a peer for, and how often it reads for that."""
    from imagebroker.swarm.admission import Admission

    found: list[Any] = []
    reads = 0

    async def bytes_at(places: list[tuple[int, int]]) -> list[bytes]:
        nonlocal reads
        reads += 1
        return [data[at : at + size] for at, size in places]

    async def look() -> None:
        tasks = []

        def begin(work: Coroutine[Any, Any, None]) -> None:
            tasks.append(asyncio.ensure_future(work))

        local = SimpleNamespace(
            start=SimpleNamespace(layout=Layout(len(data))), begin=begin,
            chunks=SimpleNamespace(own_or_whole=lambda *, own: []),
            parent=SimpleNamespace(bytes_at=bytes_at),
        )  # fmt: skip
        other = SimpleNamespace(proven=False, challenge=None, ask=found.append)
        admission = Admission(cast(Any, local), cast(Any, [other]), lambda peer: None)
        for _ in range(20):
            admission.ask()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(look())
    return found, reads


def test_it_reads_a_little_to_ask_for() -> None:
    found, reads = asked(DATA)
    assert_that(reads, Equals(1))
    assert_that(found[0], HasLength(2))
    for offset, part in found[0]:
        assert_that(DATA[offset : offset + len(part)] == part, Equals(True))


def test_it_asks_for_no_filler_and_does_not_look_for_ever() -> None:
    found, reads = asked(bytes(4 << 20))
    assert_that(found, Equals([]))
    assert_that(reads, Equals(8))


def test_who_cannot_answer_now_is_asked_again_and_not_called_a_liar() -> None:
    from imagebroker.swarm.admission import Admission

    banned: list[Any] = []
    closed: list[bool] = []
    other = SimpleNamespace(
        fingerprint="", unanswered=0, proven=False, close=lambda: closed.append(True)
    )
    peers = SimpleNamespace(ban=lambda peer, why: banned.append(why))
    local = SimpleNamespace(fingerprint="")
    admission = Admission(cast(Any, local), cast(Any, peers), lambda peer: None)
    for _ in range(3):
        assert_that(closed, Equals([]))
        other.challenge = SimpleNamespace(nonce="00" * 32, parts=[b"x"])
        admission.verify(cast(Any, other), {"t": "answer", "digest": ""})
    assert_that(closed, Equals([True]))
    assert_that(banned, Equals([]))
    assert_that(other.proven, Equals(False))
