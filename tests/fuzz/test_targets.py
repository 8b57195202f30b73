"""The targets work, and hold for what hypothesis thinks of; `python -m tests.fuzz` goes further."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebroker.model.reference import ImageRef
from tests.fuzz import targets
from tests.fuzz.targets import TARGETS


def changed(seed: bytes, rng: random.Random) -> bytes:
    """A seed with a few bytes changed, left out, doubled or put in."""
    data = bytearray(seed)
    for _ in range(rng.randint(0, 4)):
        place = rng.randint(0, len(data))
        match rng.randint(0, 3):
            case 0:
                data[place : place + 1] = bytes([rng.randint(0, 255)])
            case 1:
                del data[place : place + rng.randint(1, 8)]
            case 2:
                data[place:place] = data[place : place + rng.randint(1, 20)]
            case _:
                data[place:place] = rng.choice([b"\xff" * 4, b"\0" * 4, b"99999999", b"-1", b"{"])
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_it_begins_with_breaks_no_promise(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None, database=None)
@given(st.integers(0, 2**32), st.binary(max_size=200))
def test_nothing_else_breaks_one_either(name: str, number: int, data: bytes) -> None:
    rng = random.Random(number)
    TARGETS[name].run(data)
    TARGETS[name].run(changed(rng.choice(TARGETS[name].seeds), rng))


def test_a_broken_promise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target whose parser is replaced by one that repairs: it does not pass whatever happens."""
    monkeypatch.setattr(targets, "parse", lambda text: ImageRef(text.strip()))
    with pytest.raises(AssertionError):
        TARGETS["ref"].run(b" http://host/x")
