"""The model of fleets that one machine cannot run."""

from __future__ import annotations

from testtools.assertions import assert_that
from testtools.matchers import Equals, LessThan

from benchmarks.fleet.simulation import Scene, Simulation

SCENE = Scene("", 16, mib=64, dying=0.1, slow=0.1, over=1.0)


def test_all_that_live_get_the_image_of_which_little_more_than_one_is_read() -> None:
    outcome = Simulation(SCENE).run()
    assert_that(outcome.unfinished, Equals(0))
    assert_that(outcome.images, LessThan(2))


def test_a_scene_ends_the_same_each_time_and_otherwise_with_another_seed() -> None:
    first, second, other = (Simulation(SCENE, seed).run() for seed in (1, 1, 2))
    assert_that(second, Equals(first))
    assert_that(other == first, Equals(False))
