from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from suites.support.timing import WARM_UP, elapsed, fixed_conditions, interleaved, ratio_interval

CPU = torch.device("cpu")


def test_alternatives_run_in_turn_and_in_alternating_order():
    ran = []
    runs = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    times = interleaved(runs, device=CPU, seconds=0, min_repeats=4, max_repeats=9)
    assert "".join(ran) == "a" * WARM_UP + "b" * WARM_UP + "abbaabba"
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4}
    assert all((values >= 0).all() for values in times.values())


def test_repeats_stop_at_their_number_if_time_is_left():
    times = interleaved({"a": lambda: None}, device=CPU, seconds=60, min_repeats=1, max_repeats=3)
    assert len(times["a"]) == 3


def test_on_a_gpu_events_time_a_run_with_nothing_else_running(monkeypatch):
    happened = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            happened.append(f"record on {stream}")

        def synchronize(self):
            happened.append("wait for the event")

        def elapsed_time(self, end):
            return 2.5 if end is not self else 0.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    monkeypatch.setattr(
        torch.cuda, "synchronize", lambda device: happened.append(f"wait for {device}")
    )
    assert elapsed(lambda: happened.append("run"), torch.device("cuda", 1)) == 2.5
    on_stream = "record on the stream of cuda:1"
    assert happened == ["wait for cuda:1", on_stream, "run", on_stream, "wait for the event"]


def test_threads_and_garbage_collection_are_restored():
    before = torch.get_num_threads()
    inside = []

    def failing():
        with fixed_conditions(threads=before + 1):
            inside.append((torch.get_num_threads(), gc.isenabled()))
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert inside == [(before + 1, False)]
    assert torch.get_num_threads() == before
    assert gc.isenabled()


def test_the_interval_of_a_constant_ratio_has_no_width():
    dense = np.random.default_rng(0).uniform(1, 2, size=50)
    assert ratio_interval(1.5 * dense, dense) == pytest.approx((1.5, 1.5))


def test_the_interval_covers_the_true_ratio_at_the_stated_rate():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        times, dense = 2 * rng.lognormal(0, 0.1, 60), rng.lognormal(0, 0.1, 60)
        low, high = ratio_interval(times, dense, resamples=300, seed=seed)
        covered += low <= 2 <= high
    # Binomial(200, 0.95) is below 180 once in 700; a percentile bootstrap is slightly too narrow.
    assert covered >= 178
