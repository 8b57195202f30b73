"""A swarm that is slower than the backend alone is left; one that is not, is not."""

from __future__ import annotations

from collections.abc import Callable

from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.swarm.throughput import Throughput

MIB = 1024 * 1024


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def judged(
    seconds: int,
    there: Callable[[int], int],
    read: Callable[[int], int],
    until: int,
    part: float = 1.0,
) -> bool:
    """After so many seconds, in which the backend was read until one of them."""
    clock = Clock()
    throughput = Throughput(clock)
    for second in range(1, seconds + 1):
        clock.now = float(second)
        throughput.note(there(second), read(second), is_reading=second <= until, part=part)
    return throughput.is_slow


def test_it_is_slow_where_others_bring_less_than_half_of_what_the_backend_sent() -> None:
    def read(second: int) -> int:
        return 10 * MIB * min(second, 6)

    assert_that(judged(16, lambda s: read(s) + max(s - 6, 0) * MIB // 4, read, 6), Equals(True))


def test_a_host_that_reads_by_itself_all_the_time_is_in_no_hurry_to_leave() -> None:
    assert_that(judged(60, lambda s: s * MIB, lambda s: s * MIB, 60), Equals(False))


def test_a_backend_that_is_shared_by_many_is_slower_than_they_are() -> None:
    assert_that(judged(60, lambda s: 10 * s * MIB, lambda s: s * MIB, 60), Equals(False))


def test_a_few_seconds_of_silence_are_no_verdict() -> None:
    def read(second: int) -> int:
        return 10 * MIB * min(second, 6)

    assert_that(judged(10, read, read, 6), Equals(False))


def test_what_few_get_from_the_backend_is_no_measure_of_what_all_would() -> None:
    def read(second: int) -> int:
        return 10 * MIB * min(second, 6)

    def there(second: int) -> int:
        return read(second) + max(second - 6, 0) * MIB

    assert_that(judged(16, there, read, 6), Equals(True))
    assert_that(judged(16, there, read, 6, part=1 / 8), Equals(False))
