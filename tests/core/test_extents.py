"""Ranges that overlap, and what lies between them."""

from __future__ import annotations

import random

from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.transfer.ranges import Extents

SIZE = 24


def test_what_lies_between_is_what_none_of_them_covers() -> None:
    numbers = random.Random(1)
    for _ in range(5000):
        extents, covered = Extents(), set[int]()
        for _ in range(numbers.randrange(6)):
            start, stop = sorted(numbers.sample(range(SIZE + 1), 2))
            extents.add(start, stop)
            covered.update(range(start, stop))
        start, stop = sorted(numbers.choices(range(SIZE + 1), k=2))
        found = extents.gaps(start, stop)
        between = [at for begin, end in found for at in range(begin, end)]
        assert_that(between, Equals([at for at in range(start, stop) if at not in covered]))
        assert_that(all(begin < end for begin, end in found), Equals(True))
