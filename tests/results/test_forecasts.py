"""Finishing times worked out by hand: rates from a database, and jobs spread over workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results import CodeVersion, Machine, Store, Subject, open_store
from results.forecasts import Forecast, Kind, Load, Pace, Seen, Work, forecast, makespan, read_seen

HERE = Machine("node1", "Linux 6.1", "EPYC 7B13", cores=2, threads=1, memory_bytes=8 * 2**30)
CODE = CodeVersion("0123456789abcdef", dirty=False, python="3.11.7", libraries={"torch": "2.6.0"})
SECONDS = st.lists(st.floats(0, 1e4), max_size=12)


def description(router: str, model: str = "vit", epochs: float = 1, **compute: Any) -> Any:
    return {
        "router": {"name": router, "options": {}},
        "experts": {"name": "mlp", "num_experts": 8},
        "model": {"name": model},
        "data": {"name": "digits", "data_dir": None},
        "train": {"epochs": epochs, "batch_size": 64, "precision": "float32", "lr": 0.1},
        "compute": {"match": "total_flops", **compute},
        "seed": 0,
    }


def work(name: str = "", suites: tuple[str, ...] = (), **settings: Any) -> Work:
    progress = {
        name: settings.pop(name)
        for name in ("flops", "trained", "training", "measuring")
        if name in settings
    }
    return Work(name, Kind.of(description(**settings)), suites, **progress)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "bench.db") as made:
        yield made


def trained(
    store: Store,
    router: str,
    flops: float,
    seconds: float,
    machine: Machine = HERE,
    **settings: Any,
) -> int:
    """Add the attempt of a finished training."""
    described = description(router, **settings)
    number = store.newest()[0] + 1
    trial = store.trials([Subject(f"{number}".rjust(64, "0"), {**described, "seed": number})])[0]
    attempt = store.begin_attempt(trial, store.machine(machine), store.code_version(CODE))
    store.finish_attempt(attempt, "done", seconds=seconds, flops=flops, checkpoint="c")
    return attempt


def measured(store: Store, suite: str, seconds: float, **subject: Any) -> None:
    machine, code = store.machine(HERE), store.code_version(CODE)
    store.record_measurement(suite, {}, "0" * 64, machine, code, seconds=seconds, **subject)


def pace(store: Store) -> Pace:
    return Pace(Seen(), read_seen(store, HERE)[1])


def test_training_time_is_flops_over_the_median_rate_of_the_most_similar_trials(
    store: Store,
) -> None:
    for seconds in (10, 20, 90):  # 100, 50 and 11 FLOP/s
        trained(store, "a", 1000, seconds)
    trained(store, "a", 1000, 500, model="resnet")  # 2 FLOP/s
    trained(store, "b", 1000, 4)  # 250 FLOP/s
    rates = pace(store)
    # Same router and model: 3000 FLOPs at 50 FLOP/s.
    assert rates.training(work(router="a", epochs=3, flops=3000)) == pytest.approx(60)
    # The router's four: 10, 20, 90 and 500 s for 1000 FLOPs.
    assert rates.training(work(router="a", model="other", flops=1000)) == pytest.approx(55)
    # A new router: all five, 20 s for 1000 FLOPs.
    assert rates.training(work(router="new", model="other", flops=500)) == pytest.approx(10)
    # All trials of one budget take the same FLOPs, so these need not be counted.
    assert rates.training(work(router="a")) == 20
    assert rates.training(work(router="new")) == 15
    assert rates.training(work(router="a", epochs=3)) is None


def test_with_matched_steps_other_routers_have_other_flops(store: Store) -> None:
    trained(store, "a", 1000, 10, match="steps")
    assert pace(store).training(work(router="a", match="steps")) == 10
    assert pace(store).training(work(router="b", match="steps")) is None
    assert pace(store).training(work(router="b", match="steps", flops=3000)) == pytest.approx(30)


def test_with_matched_seconds_a_training_takes_those_seconds(store: Store) -> None:
    assert pace(store).training(work(router="a", match="wall_clock", seconds=600.0)) == 600


def test_other_machines_and_trials_without_a_result_give_no_forecast(store: Store) -> None:
    trained(store, "a", 1000, 10, machine=replace(HERE, processor="Xeon"))
    attempt = store.begin_attempt(
        store.trials([Subject("f" * 64, description("a"))])[0],
        store.machine(HERE),
        store.code_version(CODE),
    )
    store.finish_attempt(attempt, "diverged", error="nan", seconds=1.0, flops=100)
    assert pace(store).training(work(router="a", flops=1000)) is None
    trained(store, "a", 1000, 30, machine=replace(HERE, settings={"KMP_BLOCKTIME": "1"}))
    assert pace(store).training(work(router="a", flops=1000)) == 30


def test_the_time_of_a_suite_is_that_on_similar_trials_and_layers(store: Store) -> None:
    measured(store, "accuracy", 2.0, attempt_id=trained(store, "a", 1000, 10))
    measured(store, "accuracy", 6.0, attempt_id=trained(store, "b", 1000, 10))
    layer = {name: each for name, each in description("a").items() if name != "seed"}
    measured(store, "throughput", 9.0, layer_id=store.layers([Subject("e" * 64, layer)])[0])
    other = trained(store, "a", 1000, 10, model="other")
    measured(store, "accuracy", 0.0, attempt_id=other, status="skipped", error="no such data")
    rates = pace(store)
    assert rates.measuring(work(router="a", model="other"), "accuracy") == 0
    assert rates.measuring(work(router="a", model="third"), "accuracy") == 2
    assert rates.measuring(work(router="a"), "accuracy") == 2
    assert rates.measuring(work(router="new"), "accuracy") == 4
    assert rates.measuring(work(router="a"), "throughput") is None
    assert rates.measuring(replace(work(router="a"), layer=True), "throughput") == 9


def test_a_plan_ends_when_its_trials_and_then_its_layers_are_done(store: Store) -> None:
    measured(store, "accuracy", 1.0, attempt_id=trained(store, "parent", 1000, 10))
    measured(store, "accuracy", 1.0, attempt_id=trained(store, "child", 1000, 4))
    layer = {name: each for name, each in description("a").items() if name != "seed"}
    measured(store, "throughput", 6.0, layer_id=store.layers([Subject("e" * 64, layer)])[0])
    suites = ("accuracy", "unknown")
    parents = [work(f"p{seed}", suites, router="parent", flops=1000) for seed in (0, 1)]
    children = [
        replace(work(f"c{seed}", suites, router="child", flops=1000), after=f"p{seed}")
        for seed in (0, 1)
    ]
    layers = [replace(work(f"l{n}", ("throughput",), router="a"), layer=True) for n in (0, 1)]
    ends = forecast([*parents, *children, *layers], pace(store), workers=2)
    # Both parents side by side, 11 s, then both children, 5 s; the layers one after the other.
    assert ends == Forecast(pytest.approx(16 * 28 / 32), pytest.approx(16 * 4 / 32), 12)
    assert ends.whole == pytest.approx(16 + 12)
    # For trials already trained, only the measurement is left.
    reused = replace(parents[0], trained=1.0)
    assert forecast([reused], pace(store), workers=2) == Forecast(0, 1, 0)
    assert forecast([], pace(store), workers=1) == Forecast(0, 0, 0)
    assert forecast([work(router="a")], Pace(Seen(), Seen()), workers=1) is None


def test_a_current_training_uses_its_own_pace_and_others_use_finished_ones() -> None:
    own = Seen()
    own.add_training(Kind.of(description("a")), 100)
    half = work("half", router="a", trained=0.5, training=80)
    known = Pace(own, Seen(), [half])
    # Slower than the last: half in 80 s. The next `a` is still expected to take 100 s.
    assert known.left(half) == 80
    assert known.left(work(router="a")) == 100
    # It has only just begun.
    assert known.left(work(router="a", trained=0.01, training=3)) == pytest.approx(99)


def test_trials_of_this_run_take_precedence_over_earlier_ones() -> None:
    own, earlier = Seen(), Seen()
    for kind in ("a", "b"):
        earlier.add_training(Kind.of(description(kind)), 40)
    assert Pace(own, earlier).training(work(router="a")) == 40
    # A quarter in 30 s predicts 120 s; for `b` the earlier trial is more similar.
    running = [work(router="a", trained=0.25, training=30)]
    assert Pace(own, earlier, running).training(work(router="a")) == 120
    assert Pace(own, earlier, running).training(work(router="b")) == 40
    own.add_training(Kind.of(description("a")), 100)
    assert Pace(own, earlier, running).training(work(router="a")) == 100
    # Nothing is known of another budget: trials of a run are assumed to be similar.
    assert Pace(own, earlier).training(work(router="a", epochs=9)) == 100


def test_ongoing_measurements_are_counted_down() -> None:
    own = Seen()
    for suite, seconds in (("accuracy", 20), ("entropy", 5)):
        own.add_measurement(Kind.of(description("a")), suite, False, seconds)
    known, suites = Pace(own, Seen()), ("accuracy", "entropy")
    assert known.left(work("w", suites, router="a", trained=1.0, measuring=15)) == 10
    # Longer than any before.
    assert known.left(work("w", suites, router="a", trained=1.0, measuring=90)) == 0


def test_a_free_worker_takes_the_next_job() -> None:
    loads = [Load("a", 3), Load("b", 2), Load("c", 2), Load("d", 1.5)]
    assert makespan(loads, 1) == 8.5
    assert makespan(loads, 2) == 4.5  # a then d, b then c
    assert makespan(loads, 9) == 3
    assert makespan([], 2) == 0


def test_a_child_waits_for_its_parent_while_others_go_first() -> None:
    loads = [Load("parent", 3), Load("child", 2, after="parent"), Load("other", 1)]
    assert makespan(loads, 2) == 5  # other at 0, child at 3
    assert makespan([*loads, Load("more", 4)], 2) == 5  # other and more run alongside
    assert makespan([Load("child", 2, after="done long ago")], 2) == 2


@given(SECONDS, st.integers(1, 5))
def test_no_schedule_is_shorter_than_its_work_or_longer_than_twice_the_best(
    seconds: list[float], workers: int
) -> None:
    end = makespan([Load(str(number), each) for number, each in enumerate(seconds)], workers)
    shortest = max([sum(seconds) / workers, *seconds])
    assert shortest * (1 - 1e-9) <= end <= 2 * shortest + 1e-6
