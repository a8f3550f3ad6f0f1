"""FLOPs of steps whose work depends on the data: deduced without counting, and when to stop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.compute import FlopCounter, StepFlops
from bench.compute.step_flops import LayerWork, experts_flops
from bench.config.schema import TrainConfig
from bench.data.batches import TrainingBatches
from bench.data.files import read_tensors
from bench.model import moe_layers
from bench.model.build import trial_model
from bench.train.evaluation import ByAmount, TrainingState
from bench.train.loop import TrainingInterrupted, train_trial
from bench.train.step import Trainer, resolve_budget
from routers import RouterContext

CPU = torch.device("cpu")
NO_LIMIT = {"capacity_factor": None}
CONSTANT = {"softmax_expert_choice", "soft_moe", "dense", "expert_threshold"}
"""Routers whose steps all take the same work here."""


def trainer_of(spec, dataset):
    return Trainer(spec, dataset, TrainingBatches(spec, dataset, CPU), CPU, 20)


def counts_of(spec, dataset, steps):
    """Count each step, operation by operation."""
    trainer, counts = trainer_of(spec, dataset), []
    for step in range(steps):
        counter = FlopCounter()
        trainer.step(step, counter)
        counts.append(counter.total - trainer.overhead)
    return counts


def deduced(spec, dataset, steps):
    """Count only the first step."""
    trainer, flops = trainer_of(spec, dataset), []
    trainer.step_flops = StepFlops()
    for step in range(steps):
        trainer.step(step, FlopCounter() if step == 0 else None)
        flops.append(trainer.step_flops.last)
    return flops


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softmax_token_choice", {"router": NO_LIMIT}),
        ("softmax_token_choice", {"router": NO_LIMIT, "micro_batches": 2}),
        ("top_p", {}),
        ("relu", {}),
        ("dynmoe", {}),
        ("expert_race", {}),
        ("expert_threshold", {}),
        ("diffmoe", {}),
        (
            "moe_plus_plus",
            {"router": NO_LIMIT, "experts": {"name": "heterogeneous", "num_experts": 6}},
        ),
        ("moce_ir", {"experts": {"name": "growing"}}),
        ("softmax_expert_choice", {}),
        ("soft_moe", {}),
        ("dense", {}),
    ],
)
def test_the_flops_of_all_steps_follow_from_one_counted_step(
    name, options, tiny_spec, tiny_dataset
):
    """Except for the little work that a router does with its choices, however many there are."""
    spec = tiny_spec(name, lr=5e-3, **options)
    counted = counts_of(spec, tiny_dataset, 8)
    if name not in CONSTANT:
        assert len(set(counted)) > 1, "otherwise the test would show nothing"
    assert deduced(spec, tiny_dataset, 8) == pytest.approx(counted, rel=2e-4)


def test_experts_behind_frozen_layers_take_no_gradient_of_their_input(tiny_spec, tiny_dataset):
    spec, counted, known = tiny_spec(router=NO_LIMIT), [], []
    for flops, each in ((counted, None), (known, StepFlops())):
        trainer = trainer_of(spec, tiny_dataset)
        trainer.step_flops = each
        first = next(iter(moe_layers(trainer.model)))
        for name, parameter in trainer.model.named_parameters():
            if name.startswith(first):
                break
            parameter.requires_grad_(False)
        for step in range(6):
            counter = FlopCounter() if each is None or step == 0 else None
            trainer.step(step, counter)
            flops.append(counter.total if each is None else each.last)
    assert known == pytest.approx(counted, rel=1e-5)


def test_padding_costs_no_work(tiny_spec, tiny_dataset):
    """The experts run only on the real tokens, and are counted that way."""
    spec = tiny_spec(router={"top_k": 2})
    layer = next(iter(moe_layers(trial_model(spec, tiny_dataset)).values()))
    x = torch.randn(3, 16, layer.token_shape[0])
    mask = torch.ones(3, 16, dtype=torch.bool)
    mask[1:, 8:] = False
    padded = layer.route(x, RouterContext(mask=mask))
    halves = layer.route(x[1:, :8], RouterContext())
    whole = layer.route(x[:1], RouterContext())
    parts = sum(experts_flops(layer, each, True) for each in (halves, whole))
    adding = sum(parameter.numel() for parameter in layer.experts.parameters())
    # Except for adding up the token gradients of the two parts.
    assert experts_flops(layer, padded, True) == pytest.approx(parts + adding, rel=0.01)


def test_counting_the_experts_has_no_side_effects(tiny_spec, tiny_dataset):
    """It changes neither the weights nor, under dropout, the random numbers of the steps."""
    spec = tiny_spec(
        router=NO_LIMIT, model={"options": {**tiny_spec().model.options, "proj_drop_rate": 0.2}}
    )
    plain, knowing = trainer_of(spec, tiny_dataset), trainer_of(spec, tiny_dataset)
    knowing.step_flops = StepFlops()
    for step in range(3):
        plain.step(step)
        knowing.step(step, None if step else FlopCounter())
    for one, other in zip(plain.model.parameters(), knowing.model.parameters(), strict=True):
        assert torch.equal(one, other)


@given(st.data())
def test_work_that_is_affine_in_sizes_is_known_from_few_of_them(data):
    axes = data.draw(st.integers(1, 4))
    sizes = st.tuples(*[st.integers(0, 1000)] * axes)
    slopes = data.draw(st.lists(st.integers(0, 10**6), min_size=axes, max_size=axes))

    def flops(of):
        return 10**7 + sum(slope * size for slope, size in zip(slopes, of, strict=True))

    work = LayerWork()
    seen = data.draw(st.lists(sizes, min_size=2, max_size=20))
    for each in seen:
        if not work.knows(each):
            work.learn(each, flops(each))
    assert len(work.sizes) <= axes + 1
    assert round(work.extra_flops(seen[0], seen[-1])) == flops(seen[-1]) - flops(seen[0])


# The training


@given(st.lists(st.integers(10, 1000), min_size=20, max_size=20), st.integers(10, 1000))
def test_a_training_ends_with_the_step_nearest_to_its_flops(costs, guess):
    schedule = ByAmount("flops", 30_000, TrainConfig(evaluations=4, snapshots=3), guess)
    state, longest = TrainingState(), 0
    while not state.over:
        segment = schedule.next(state)
        assert state.steps < segment.end <= segment.steps
        while state.steps < segment.end and not state.over:
            state.step_flops.last = costs[state.steps // 7 % 20]
            longest = max(longest, state.step_flops.last)
            state.steps, state.flops = state.steps + 1, state.flops + state.step_flops.last
            state.over = schedule.over(state, segment)
        if segment.evaluate or state.over:
            state.record("val", "val_top1", 0.5)
        if segment.keep or state.over:
            state.keep(f"step-{state.steps}", "")
    last = state.step_flops.last
    # The step before was not the last: more was left than half of its cost.
    before = costs[(state.steps - 2) // 7 % 20] if state.steps > 1 else 0
    assert -last / 2 < state.flops - 30_000 <= last - before / 2
    assert schedule.steps(state) == state.steps
    assert 1 <= state.evaluations <= 4
    assert state.history[-1].step == state.snapshots[-1].step == state.steps


def test_a_training_whose_work_depends_on_the_data_spends_its_flop_budget(
    tiny_spec, tiny_dataset, tmp_path, monkeypatch
):
    """With one evaluation, at the end; its learning rate falls until the end."""
    spec = tiny_spec(router=NO_LIMIT, epochs=6, evaluations=1, lr=5e-3)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    budget = resolve_budget(spec, tiny_dataset, batches, CPU)
    assert outcome.steps != budget.steps  # which the first step alone would have given
    assert outcome.within_tolerance
    assert abs(outcome.flops - budget.amount) < 0.75 * outcome.flops / outcome.steps


def test_an_interrupted_training_with_varying_work_ends_with_the_same_bits(
    tiny_spec, tiny_dataset, tmp_path
):
    spec = tiny_spec(router=NO_LIMIT, epochs=4, evaluations=2, lr=5e-3)
    whole = train_trial(spec, tiny_dataset, CPU, tmp_path / "whole")
    parts = tmp_path / "parts"
    for _ in range(2):
        with pytest.raises(TrainingInterrupted):
            train_trial(spec, tiny_dataset, CPU, parts, save_every=0, stop=lambda: True)
    again = train_trial(spec, tiny_dataset, CPU, parts)
    assert (again.flops, again.steps) == (whole.flops, whole.steps)
    first, second = (read_tensors(o.checkpoint, o.sha256) for o in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
