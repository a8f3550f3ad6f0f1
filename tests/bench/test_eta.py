"""Finishing times, worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.eta import Job, Learnt, Pace, makespan

SECONDS = st.lists(st.floats(0, 1e4), max_size=12)


def pace(**training: float) -> Pace:
    made = Pace()
    for kind, seconds in training.items():
        made.training.add(kind, seconds)
    return made


def test_a_kind_takes_its_own_mean_and_a_new_one_the_mean_of_all_kinds() -> None:
    learnt = Learnt()
    assert learnt.of("a") is None
    for kind, seconds in (("a", 10), ("a", 20), ("b", 45)):
        learnt.add(kind, seconds)
    assert learnt.of("a") == 15
    assert learnt.of("new") == (15 + 45) / 2


def test_list_scheduling_gives_each_job_to_the_worker_that_is_free_first() -> None:
    assert makespan([], [], 2) == 0
    assert makespan([], [3, 3, 4], 1) == 10
    # 0-5 and 0-3; then 3-7 on the second; then 5-7 on the first.
    assert makespan([], [5, 3, 4, 2], 2) == 7
    # One worker is busy until 6: the other does 2 + 2 + 2, then either takes the last.
    assert makespan([6], [2, 2, 2, 1], 2) == 7
    # Another run's workers count where they are seen.
    assert makespan([6, 4], [1], 1) == 6


@given(SECONDS, SECONDS, st.integers(1, 5))
def test_no_schedule_is_shorter_than_its_work_or_longer_than_twice_the_best(
    running: list[float], waiting: list[float], workers: int
) -> None:
    end = makespan(running, waiting, workers)
    machines = max(workers, len(running))
    shortest = max([sum([*running, *waiting]) / machines, *running, *waiting])
    assert shortest * (1 - 1e-9) <= end <= 2 * shortest + 1e-6


def test_nothing_is_told_before_anything_is_known() -> None:
    assert Pace().left([], ["a"], [], 1) is None
    assert Pace().left([Job("a", trained=0.01, training=1)], ["a"], [], 1) is None
    assert Pace().left([], [], ["layer"], 1) is None
    assert Pace().left([], [], [], 1) == 0


def test_the_trainings_under_way_tell_before_one_has_ended() -> None:
    # A quarter in 30 s: 90 s of it are left, then 120 s for each of the two others.
    assert Pace().left([Job("a", 0.25, 30)], ["a", "b"], [], 1) == 90 + 120 + 120


def test_a_training_under_way_goes_by_its_own_pace_and_its_kind_by_what_has_ended() -> None:
    known = pace(a=100)
    # Slower than the last: half in 80 s. The next `a` is expected to take 100 s nevertheless.
    assert known.left([Job("a", 0.5, 80)], ["a"], [], 1) == 80 + 100
    # It has only just begun.
    assert known.left([Job("a", 0.01, 3)], [], [], 1) == pytest.approx(99)


def test_measurements_come_after_each_training() -> None:
    known = pace(a=100)
    known.measuring.add("a", 20)
    assert known.left([Job("a", 0.5, 50)], ["a"], [], 1) == 50 + 20 + 120
    # Trained, and 15 of the 20 s measured; then longer than ever before.
    assert known.left([Job("a", 1, 100, 15)], [], [], 1) == 5
    assert known.left([Job("a", 1, 100, 30)], [], [], 1) == 0


def test_a_trial_that_is_only_measured_needs_no_training() -> None:
    known = Pace()
    known.measuring.add("a", 20)
    assert known.left([Job("a", trained=1, measuring=5)], [], [], 1) == 15
    assert known.left([Job("a", trained=1, measuring=5)], ["b"], [], 1) == 15 + 20


def test_workers_share_the_trials_and_layers_run_one_at_a_time() -> None:
    known = pace(a=100)
    known.layers.add("a", 7)
    assert known.left([], ["a", "a"], ["a", "b"], 2) == 100 + 7 + 7
    # Nobody has measured a layer yet: the trials alone are told.
    assert pace(a=100).left([], ["a", "a"], ["a", "b"], 2) == 100
