"""Compute matched by expert width, by seconds and by steps: solved for, trained and kept to."""

import time
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.compute import model_stats
from bench.compute.budget import ComputeUsed, Cost, match_compute, parameters_of
from bench.compute.estimates import cost_of, estimate
from bench.config.presets import load_preset, validated_preset
from bench.config.schema import ComputeConfig, TrainConfig
from bench.data import DataShape
from bench.data.batches import TrainingBatches
from bench.model import moe_layers
from bench.model.build import trial_model
from bench.plan.expand import nearest_width, with_widths
from bench.train import checkpoint, loop
from bench.train.evaluation import READ_LOSSES_EVERY, ByAmount, ByStep, TrainingState, observe
from bench.train.loop import TrainingInterrupted, train_trial
from bench.train.step import resolve_budget
from results.conditions import conditions
from routers import RequestError

CPU = torch.device("cpu")
SHAPE = DataShape((1, 8, 8), 4, 96)


def solved(*specs):
    return with_widths(specs, lambda _: SHAPE)


def by_clock(spec, seconds, tolerance=0.01):
    compute = ComputeConfig(match="wall_clock", seconds=seconds, tolerance=tolerance)
    return spec.model_copy(update={"compute": compute})


# Requests


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"match": "wall_clock"}, "wall_clock needs a budget: set compute.seconds"),
        ({"seconds": 60}, "compute.seconds = 60 is the budget of compute.match = wall_clock, and"),
        ({"match": "wall_clock", "seconds": 0}, "'?compute.seconds'? = 0"),
    ],
)
def test_seconds_are_required_when_matching_seconds_and_refused_otherwise(compute, message):
    with pytest.raises(RequestError, match=message):
        validated_preset({"name": "x", "description": "", "compute": compute}, "--set")


def test_a_request_without_seconds_does_not_store_the_field():
    assert "seconds" not in load_preset("smoke").compute.model_dump()


# Widths


@given(st.integers(1, 3000), st.integers(1, 50), st.integers(0, 10_000))
def test_an_affine_cost_is_met_where_a_whole_width_meets_it(width, slope, fixed):
    asked = Counter()

    def cost(of):
        asked[of] += 1
        return fixed + slope * of

    assert nearest_width(cost, cost(width)) == width
    assert len(asked) <= 8  # each takes a model to be built


@given(st.lists(st.integers(1, 9), min_size=40, max_size=40), st.integers(0, 400))
def test_of_any_growing_cost_the_nearest_is_found(growth, target):
    sums = [sum(growth[: width + 1]) for width in range(40)]

    def cost(width):
        return sums[width - 1] if width <= 40 else sums[-1] + 10 * (width - 40)

    nearest = nearest_width(cost, target)
    best = min(abs(cost(width) - target) for width in range(1, 80))
    assert abs(cost(nearest) - target) == best


def test_the_parameters_of_an_expert_by_hand(tiny_spec):
    """At width 16, an MLP of 32 units becomes 4 experts of h and a gate: 4 · (33 h + 16) + 64.

    The dense MLP has 2 · 16 · 32 + 32 + 16 = 1072 parameters, so h = 944 / 132 = 7.15, that is 7.
    """
    (spec,) = solved(tiny_spec("softmax_token_choice", match="params"))
    assert spec.experts.options["hidden"] == 7
    assert spec.found == ("experts.options.hidden",)
    dense = parameters_of(trial_model(spec.dense(), SHAPE))
    assert parameters_of(trial_model(spec, SHAPE)) - dense == 4 * (33 * 7 + 16) + 64 - 1072


def test_the_flops_of_a_step_by_hand(tiny_spec):
    """At capacity 2 twice as many slots run, so experts get a little under half of the 32 units."""
    one, two = solved(
        tiny_spec("softmax_expert_choice", match="step_flops", router={"capacity_factor": 1.0}),
        tiny_spec("softmax_expert_choice", match="step_flops", router={"capacity_factor": 2.0}),
    )
    assert 24 <= one.experts.options["hidden"] < 32
    assert 11 <= two.experts.options["hidden"] < 16
    for spec in (one, two):
        dense = cost_of(spec.dense(), SHAPE).flops

        def missed(by, spec=spec, dense=dense):
            width = spec.experts.options["hidden"] + by
            other = spec.experts.model_copy(update={"options": {"hidden": width}})
            wider = spec.model_copy(update={"experts": other})
            return abs(cost_of(wider, SHAPE).flops - dense)

        assert missed(0) < min(missed(-1), missed(1))


@pytest.mark.parametrize("match", ["step_flops", "params"])
@pytest.mark.parametrize("name", ["soft_moe", "random", "frozen", "dense_params", "dense"])
@pytest.mark.slow
def test_the_flops_solved_for_at_planning_are_those_that_training_counts(
    match, name, tiny_spec, tiny_dataset
):
    (spec,) = solved(tiny_spec(name, match=match, experts={"num_experts": 2}))
    trained = resolve_budget(spec, tiny_dataset, TrainingBatches(spec, tiny_dataset, CPU), CPU)
    assert estimate(spec, SHAPE).budget == trained
    assert trained.steps == trained.dense_steps
    amounts = {"step_flops": trained.dense.flops, "params": trained.dense.parameters}
    assert trained.amount == amounts[match]
    error = trained.error(ComputeUsed(trained.steps * trained.own.flops, trained.steps, 1.0))
    assert abs(error) < 0.03  # in so small a model, one more unit is that much


def test_factorised_experts_are_matched_by_their_rank(tiny_spec):
    spec = tiny_spec("softmax_mixture", match="params", experts={"name": "cp"})
    (matched,) = solved(spec)
    assert matched.found == ("experts.options.rank",)
    by_construction = next(iter(moe_layers(trial_model(spec, SHAPE)).values())).experts.solved_rank
    assert matched.experts.options["rank"] == by_construction


def test_seeds_replicates_and_children_share_the_solved_width(tiny_spec):
    spec = tiny_spec("soft_moe", match="params", experts={"num_experts": 2})
    child = spec.derived(spec, "fine_tune")
    first, second, replicate, derived = solved(
        spec, spec.with_seed(1), spec.model_copy(update={"twin": 1}), child
    )
    assert (first.seed, second.seed, replicate.twin) == (0, 1, 1)
    assert first.experts == second.experts == replicate.experts == derived.experts
    assert derived.parent == first


def test_the_child_of_a_dense_model_is_matched_as_if_trained_from_scratch(tiny_spec):
    spec = tiny_spec("soft_moe", match="params", experts={"num_experts": 2})
    alone, child = solved(spec, spec.derived(spec.dense(), "fine_tune"))
    assert child.experts == alone.experts
    assert child.parent.router.name == "dense"


def test_routers_with_different_solved_widths_share_one_condition(tiny_spec):
    names = ("dense", "dense_params", "soft_moe", "softmax_token_choice")
    specs = solved(*(tiny_spec(n, match="step_flops", experts={"num_experts": 2}) for n in names))
    assert len({spec.experts.options.get("hidden") for spec in specs}) > 2
    assert not any(conditions([spec.model_dump(mode="json") for spec in specs]))


def test_other_ways_of_matching_solve_for_nothing(tiny_spec):
    for match in ("total_flops", "steps"):
        spec = tiny_spec("soft_moe", match=match)
        assert solved(spec) == [spec]


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ({"name": "linear"}, "experts 'linear' have none; .* have one"),
        ({"options": {"hidden": 8}}, "solves for experts.options.hidden, and it is set to 8"),
        ({"num_experts": 64}, "num_experts = 64 of width 1 has .* parameters, and the dense model"),
    ],
)
def test_a_trial_that_cannot_be_matched_by_width_says_why(experts, message, tiny_spec):
    with pytest.raises(RequestError, match=message):
        solved(tiny_spec("softmax_token_choice", match="params", experts=experts))


# Budgets


@pytest.mark.parametrize(
    ("match", "amount", "steps", "spent", "error", "met"),
    [
        ("total_flops", 6000, 24, ComputeUsed(6030.0, 24, 9.0), 0.005, True),
        ("total_flops", 6000, 24, ComputeUsed(6260.0, 24, 9.0), 13 / 300, False),
        ("step_flops", 100, 60, ComputeUsed(6030.0, 60, 9.0), 0.005, True),
        ("step_flops", 100, 60, ComputeUsed(6120.0, 60, 9.0), 0.02, False),
        ("params", 1000, 60, ComputeUsed(1.0, 60, 9.0), 0.2, False),
        ("wall_clock", 10, None, ComputeUsed(1.0, 7, 10.05), 0.005, True),
        ("wall_clock", 10, None, ComputeUsed(1.0, 7, 10.5, segment_seconds=0.6), 0.05, True),
        ("wall_clock", 10, None, ComputeUsed(1.0, 7, 10.5, segment_seconds=0.4), 0.05, False),
        ("steps", 60, 60, ComputeUsed(1.0, 60, 9.0), 0.0, True),
        ("steps", 60, 60, ComputeUsed(1.0, 50, 9.0), -1 / 6, False),
    ],
)
def test_each_way_of_matching_has_its_budget(match, amount, steps, spent, error, met, tiny_spec):
    spec = tiny_spec("soft_moe", epochs=10)
    if match == "wall_clock":
        spec = by_clock(spec, 10.0)
    else:
        spec = spec.model_copy(update={"compute": ComputeConfig(match=match)})
    costs = {"dense": Cost(100, 1000), "soft_moe": Cost(250, 1200)}
    budget = match_compute(spec, 96, lambda of: costs[of.router.name])
    assert (budget.amount, budget.steps) == (amount, steps)
    assert budget.error(spent) == pytest.approx(error)
    assert budget.met_by(spent) is met


# The clock


def walked(schedule, pace_at, state=None):
    """Follow a schedule to its end; each step takes `pace_at(step)` seconds."""
    state = state or TrainingState()
    segments = []
    while not state.over:
        segment = schedule.next(state)
        state.seconds += sum(pace_at(step) for step in range(state.steps, segment.end))
        state.steps = segment.end
        if segment.evaluate:
            state.record("val", "val_top1", 0.5)
        if segment.keep:
            state.keep(f"step-{segment.end}", "")
        state.over = segment.end == segment.steps
        segments.append(segment)
    return state, segments


TRAIN = TrainConfig(epochs=1, evaluations=5, snapshots=1)


def test_at_an_even_pace_the_schedule_by_seconds_equals_that_by_steps():
    clock, segments = walked(ByAmount("seconds", 20.0, TRAIN, 0.2), lambda _: 0.2)
    steps, same = walked(ByStep(100, TRAIN), lambda _: 0.2)
    assert segments == same
    assert (clock.steps, [point.step for point in clock.history]) == (100, [20, 40, 60, 80, 100])
    assert [saved.step for saved in steps.snapshots] == [100]


@given(st.lists(st.floats(0.01, 1.0), min_size=20, max_size=20), st.floats(0.01, 1.0))
def test_whatever_the_pace_the_clock_is_missed_by_its_last_segments_at_most(paces, guess):
    """And each part is evaluated at most once, the last one at the end."""
    budget, train = 60.0, TrainConfig(evaluations=5, snapshots=3)
    state, segments = walked(
        ByAmount("seconds", budget, train, guess), lambda step: paces[step // 7 % 20]
    )
    longest = max(paces) * READ_LOSSES_EVERY
    assert abs(state.seconds - budget) <= 2 * longest
    assert 1 <= len(state.history) <= 5 + 1
    assert state.history[-1].step == state.snapshots[-1].step == state.steps
    assert segments[-1].evaluate
    assert segments[-1].keep
    assert all(segment.end <= segment.steps for segment in segments)


def test_a_training_by_seconds_resumes_from_its_state():
    """A misjudged pace is corrected by measurements."""
    first = TrainingState(steps=50, seconds=10.0)
    clock = ByAmount("seconds", 20.0, TRAIN, 99.0)
    assert clock.steps(first) == 100
    state, _ = walked(clock, lambda _: 0.1, first)
    assert state.steps > 125
    assert state.seconds == pytest.approx(20.0, abs=1.0)


class Ticking:
    """A clock that advances each time that it is read."""

    def __init__(self, tick):
        self.time, self.tick = 0.0, tick
        self.monotonic = time.monotonic

    def perf_counter(self):
        self.time += self.tick
        return self.time


def test_a_training_stops_when_its_seconds_are_spent(tiny_spec, tiny_dataset, tmp_path):
    spec = by_clock(tiny_spec("soft_moe", evaluations=3, snapshots=3), 1.0)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    assert outcome.status == "done"
    assert outcome.steps == outcome.planned_steps
    assert outcome.budget == 1.0
    assert outcome.budget_error == pytest.approx(outcome.seconds - 1.0)
    assert outcome.snapshots[-1].step == outcome.history[-1].step == outcome.steps
    assert outcome.flops > 0


def test_a_segment_lasts_as_long_as_the_clock_says(tiny_spec, tiny_dataset, tmp_path, monkeypatch):
    """Each segment takes one second of this clock, whatever its steps, or two if it counts."""
    monkeypatch.setattr(loop, "time", Ticking(1.0))
    spec = by_clock(tiny_spec("dense", evaluations=1, snapshots=1), 10.0)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    assert outcome.within_tolerance
    assert outcome.seconds == pytest.approx(10.0, abs=2.0)


def test_an_interrupted_training_by_seconds_spends_the_remaining_ones(
    tiny_spec, tiny_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "time", Ticking(1.0))
    spec = by_clock(tiny_spec("dense", evaluations=2, snapshots=1), 12.0)
    progress = []
    with pytest.raises(TrainingInterrupted):
        train_trial(
            spec, tiny_dataset, CPU, tmp_path,
            lambda *args: progress.append(args),
            save_every=0, stop=lambda: len(progress) == 4,
        )  # fmt: skip
    step, *_, seconds = progress[-1]
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path, lambda *args: progress.append(args))
    assert progress[4][0] > step
    assert progress[4][-1] > seconds
    assert outcome.seconds == pytest.approx(12.0, abs=1.5)
    assert [p.step for p in outcome.history if p.name == "val_top1"][-1] == outcome.steps


def test_a_training_by_seconds_is_not_resumed_on_another_machine(
    tiny_spec, tiny_dataset, monkeypatch
):
    timed, counted = by_clock(tiny_spec("dense"), 5.0), tiny_spec("dense")
    here = [checkpoint.training_of(spec, tiny_dataset) for spec in (timed, counted)]
    monkeypatch.setattr(checkpoint.platform, "node", lambda: "another")
    there = [checkpoint.training_of(spec, tiny_dataset) for spec in (timed, counted)]
    assert here[0] != there[0]
    assert here[1] == there[1]


# Trainings


@pytest.mark.parametrize(
    ("name", "router", "real"),
    [
        # 16 tokens, 4 experts: ceil(1.2 · 16 · 2 / 4) = 10 slots each for 32 choices.
        ("softmax_token_choice", {"top_k": 2, "capacity_factor": 1.2}, 40 / 32),
        # ceil(1.1 · 16 / 4) = 5 slots each for 16 tokens.
        ("softmax_expert_choice", {"capacity_factor": 1.1}, 20 / 16),
        ("soft_moe", {"capacity_factor": 1.1}, 16 / 16),
        ("dense", {}, None),
    ],
)
def test_model_stats_report_the_actual_capacity_of_a_run(
    name, router, real, tiny_spec, tiny_dataset
):
    spec = tiny_spec(name, router=router)
    model = trial_model(spec, tiny_dataset)
    seen = next(observe(model, tiny_dataset, "val", batch_size=16, device=CPU))
    assert model_stats(model, seen).get("slots_per_choice") == real


@pytest.mark.parametrize("match", ["step_flops", "params", "steps"])
def test_a_training_spends_the_matched_budget(match, tiny_spec, tiny_dataset, tmp_path):
    dense, routed = solved(
        *(tiny_spec(n, match=match, experts={"num_experts": 2}) for n in ("dense", "soft_moe"))
    )
    first = train_trial(dense, tiny_dataset, CPU, tmp_path / "dense")
    second = train_trial(routed, tiny_dataset, CPU, tmp_path / "soft")
    assert first.steps == second.steps == 12
    assert first.budget == second.budget
    assert first.budget_error == 0
    assert abs(second.budget_error) < 0.03
    matched = {
        "step_flops": second.flops / first.flops,
        "params": parameters_of(trial_model(routed, tiny_dataset))
        / parameters_of(trial_model(dense, tiny_dataset)),
        "steps": 1.0,
    }
    assert second.budget_error == pytest.approx(matched[match] - 1)
    assert second.within_tolerance == (abs(second.budget_error) <= 0.01)
