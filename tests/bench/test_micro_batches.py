"""Micro-batches: when they leave the optimisation the same, and proof that they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.compute.estimates import estimate
from bench.compute.flops import FlopCounter
from bench.config.schema import TrialSpec
from bench.data import DataShape
from bench.data.batches import TrainingBatches
from bench.model import moe_layers
from bench.model.build import trial_model
from bench.train.loop import TrainingInterrupted, train_trial
from bench.train.micro_batches import why_not_cut
from bench.train.step import Trainer, resolve_budget
from routers import ROUTERS, Parts, Router, SoftRouting, register_router
from routers.errors import RequestError

CPU = torch.device("cpu")
NAMES = ["dense", "softmax_token_choice", "soft_moe", "sinkhorn_expert_choice"]


@pytest.fixture
def both(tiny_dataset) -> Callable[[TrialSpec], list[Trainer]]:
    """Make two trainers of one trial: with whole batches, and with halves."""

    def make(spec: TrialSpec) -> list[Trainer]:
        batches = TrainingBatches(spec, tiny_dataset, CPU)
        return [Trainer(each, tiny_dataset, batches, CPU, 8) for each in (spec, cut(spec))]

    return make


def cut(spec: TrialSpec, parts: int = 2) -> TrialSpec:
    """Return the same trial with each batch split into that many parts."""
    train = spec.train.model_copy(update={"micro_batches": parts})
    return spec.model_copy(update={"train": train})


# The same optimisation


@pytest.mark.parametrize("batch_size", [16, 15, 2])
@pytest.mark.parametrize("name", NAMES)
def test_halves_give_the_losses_gradients_and_weights_of_the_whole(
    name, batch_size, tiny_spec, both
):
    trainers = both(tiny_spec(name, batch_size=batch_size, clip_norm=0.1, label_smoothing=0.1))
    for step in range(4):
        torch.testing.assert_close(*(each.step(step) for each in trainers))
        whole, halves = (dict(each.model.named_parameters()) for each in trainers)
        total = torch.stack([p.grad.norm() for p in whole.values() if p.grad is not None]).norm()
        assert total <= 0.1 * 1.0001  # so clipping sees the sum
        for key, parameter in whole.items():
            torch.testing.assert_close(halves[key], parameter, rtol=1e-3, atol=1e-5)
            if parameter.grad is not None:
                torch.testing.assert_close(halves[key].grad, parameter.grad, rtol=1e-3, atol=1e-6)


# `quantile_balancing` is left out: its definition takes the mean over micro-batches.
LATER = [
    *("sigmoid_top_k", "loss_free", "group_limited_top_k", "top_p", "base"),
    *("dynmoe", "forced", "relu", "dselect_k", "moe_plus_plus", "expert_race", "diffmoe"),
]
CUTTABLE = LATER[: LATER.index("expert_race")]


@pytest.mark.parametrize("name", LATER)
@pytest.mark.slow
def test_every_other_router_trains_the_same_in_halves_or_is_refused(name, tiny_spec, both):
    spec = tiny_spec(name)
    if name not in CUTTABLE:
        with pytest.raises(RequestError, match="would change what is computed: the router"):
            both(spec)
        return
    trainers = both(spec)
    for step in range(3):
        torch.testing.assert_close(*(each.step(step) for each in trainers))
    whole, halves = (each.model.state_dict() for each in trainers)
    for key, tensor in whole.items():
        torch.testing.assert_close(halves[key], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("batch_size", [16, 5])
def test_losses_of_batch_sums_are_the_same_in_parts(batch_size, tiny_spec, both):
    losses = dict.fromkeys(["importance", "gshard", "router_similarity", "z"], 1.0)
    trainers = both(tiny_spec("softmax_token_choice", batch_size=batch_size, losses=losses))
    for step in range(2):
        torch.testing.assert_close(*(each.step(step) for each in trainers))
        whole, halves = (dict(each.model.named_parameters()) for each in trainers)
        for key, parameter in whole.items():
            torch.testing.assert_close(halves[key].grad, parameter.grad, rtol=1e-3, atol=1e-6)


def test_both_passes_draw_the_same_random_numbers(tiny_spec, both, monkeypatch):
    asked = {True: [], False: []}
    whole = Parts.whole

    def watched(self, own):
        asked[self._adding].append(own.detach())
        return whole(self, own)

    monkeypatch.setattr(Parts, "whole", watched)
    router = {"noise_std": 3.0}
    spec = tiny_spec("softmax_token_choice", router=router, losses={"importance": 1.0, "load": 1.0})
    both(spec)[1].step(0)
    assert len(asked[True]) == len(asked[False]) > 2
    assert all(one.equal(other) for one, other in zip(*asked.values(), strict=True))


def test_state_is_updated_once_a_step_under_activation_checkpointing(tiny_spec, both):
    for name in ("loss_free", "quantile_balancing"):
        plain, other = (each for each in (*both(tiny_spec(name))[:1], *both(tiny_spec(name))[:1]))
        other._model.set_grad_checkpointing(True)
        for step in range(2):
            torch.testing.assert_close(plain.step(step), other.step(step))
        for one, same in zip(plain.model.buffers(), other.model.buffers(), strict=True):
            torch.testing.assert_close(one, same)
        assert any(buffer.any() for buffer in plain.model.buffers())


@pytest.mark.parametrize(
    ("precision", "batch_size"), [("float32", 16), ("float32", 3), ("bfloat16", 5)]
)
@pytest.mark.parametrize("name", [*NAMES, "cosine"])
@pytest.mark.slow
def test_halves_are_counted_as_the_whole(name, precision, batch_size, tiny_spec, tiny_dataset):
    """Soft MoE and the cosine affinity normalise their gate's parameters in each half."""
    router = {"affinity": "cosine"} if name == "cosine" else {}
    name = "softmax_token_choice" if name == "cosine" else name
    spec = tiny_spec(name, router=router, batch_size=batch_size, precision=precision)
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    whole, halves = (resolve_budget(each, tiny_dataset, batches, CPU) for each in (spec, cut(spec)))
    assert halves == whole


def test_the_extra_pass_of_micro_batches_costs_no_training_steps(tiny_spec, tiny_dataset):
    """It only saves memory; the budget counts the optimisation."""
    spec = tiny_spec("softmax_token_choice", losses={"importance": 1.0})
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    whole, halves = (resolve_budget(each, tiny_dataset, batches, CPU) for each in (spec, cut(spec)))
    assert halves.steps == whole.steps
    assert halves.own.flops == pytest.approx(whole.own.flops, rel=1e-4)


def test_halves_cost_more_only_by_work_independent_of_the_images(tiny_spec, both):
    whole, halves = both(tiny_spec("dense"))
    counters = [FlopCounter(), FlopCounter()]
    for each, counter in zip((whole, halves), counters, strict=True):
        each.step(0, counter)
    assert whole.overhead == 0
    assert halves.overhead >= sum(p.numel() for p in halves.model.parameters())  # one addition
    assert counters[1].total - counters[0].total == halves.overhead


def test_a_training_in_halves_has_the_steps_and_flops_of_a_whole_one_and_resumes(
    tiny_spec, tiny_dataset, tmp_path
):
    spec = tiny_spec("soft_moe", epochs=4)
    whole = train_trial(spec, tiny_dataset, CPU, tmp_path / "whole")
    halves = train_trial(cut(spec), tiny_dataset, CPU, tmp_path / "halves")
    assert (halves.steps, halves.flops) == (whole.steps, whole.flops)
    values = [[row.value for row in each.history if "loss" in row.name] for each in (whole, halves)]
    assert values[1] == pytest.approx(values[0], rel=1e-2)
    parts = tmp_path / "parts"
    with pytest.raises(TrainingInterrupted):
        train_trial(cut(spec), tiny_dataset, CPU, parts, stop=lambda: True)
    assert train_trial(cut(spec), tiny_dataset, CPU, parts).sha256 == halves.sha256


def test_the_whole_batch_never_goes_through_the_model_at_once(
    tiny_spec, tiny_dataset, tmp_path, monkeypatch
):
    """Not even when FLOPs are counted."""
    sizes = set()
    step = Trainer.step

    def watched(self, number, counter=None):
        self._model.register_forward_pre_hook(lambda _, inputs: sizes.add(len(inputs[0])))
        return step(self, number, counter)

    monkeypatch.setattr(Trainer, "step", watched)
    spec = cut(tiny_spec("soft_moe", epochs=0.5, evaluations=1))
    train_trial(spec, tiny_dataset, CPU, tmp_path)
    assert 16 in sizes  # of the validation split
    sizes.clear()
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    resolve_budget(spec, tiny_dataset, batches, CPU)
    assert sizes == {8}


# Refusals


@pytest.fixture
def listener() -> Iterator[None]:
    @register_router("listener", family="soft")
    class Listener(Router):
        def allocate(self, logits: Tensor) -> SoftRouting:
            return SoftRouting.from_logits(logits[..., None])

        def after_step(self, stats: dict[str, Tensor]) -> None:
            pass

    yield
    ROUTERS.discard("listener")


def reason(spec: TrialSpec, dataset: Any, change: Callable[[nn.Module], Any] = id) -> str | None:
    model = trial_model(spec, dataset)
    change(model)
    return why_not_cut(spec, model, 2)


def layer_of(model: nn.Module) -> nn.Module:
    return next(iter(moe_layers(model).values()))


@pytest.mark.parametrize("name", [*NAMES, "random", "frozen"])
def test_batches_can_be_split_if_routing_stays_within_an_image(name, tiny_spec, tiny_dataset):
    assert reason(tiny_spec(name), tiny_dataset) is None


def test_settings_that_a_dense_model_does_not_use_are_no_reason_to_refuse(tiny_spec, tiny_dataset):
    spec = tiny_spec("dense", losses={"importance": 0.1}, model={"groups": "batch"})
    assert reason(spec, tiny_dataset) is None


def test_a_batch_has_no_more_parts_than_images(tiny_spec, tiny_dataset):
    assert reason(tiny_spec(batch_size=1), tiny_dataset) == "train.batch_size = 1 has no 2 parts"
    assert reason(tiny_spec(batch_size=2), tiny_dataset) is None


@pytest.mark.parametrize("groups", ["batch", 8, 64])
def test_groups_of_several_images_are_a_reason_to_refuse(groups, tiny_spec, tiny_dataset):
    why = reason(tiny_spec(model={"groups": groups}), tiny_dataset)
    assert why == f"model.groups = {groups!r} routes tokens of several images together"


def test_a_loss_that_is_no_function_of_sums_is_a_reason_to_refuse(tiny_spec, tiny_dataset):
    why = reason(tiny_spec(losses={"z": 0.1, "sample_similarity": 0.1}), tiny_dataset)
    assert why == "the loss 'sample_similarity' is taken over the whole batch"
    assert reason(tiny_spec(losses={"sample_similarity": 0.0}), tiny_dataset) is None


def test_a_router_that_uses_the_loads_of_a_step_is_a_reason_to_refuse(
    listener, tiny_spec, tiny_dataset
):
    why = reason(tiny_spec("listener"), tiny_dataset)
    assert why == "the router Listener is told the loads of the whole batch"


class RunningMean(nn.Module):
    """A custom layer with batch statistics, like timm's EvoNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))


@pytest.mark.parametrize(
    ("norm", "is_reason"),
    [
        (nn.BatchNorm1d(16), True),
        (nn.BatchNorm2d(16, track_running_stats=False), True),
        (nn.SyncBatchNorm(16), True),
        (RunningMean(), True),
        (nn.InstanceNorm2d(16, track_running_stats=True), True),
        (nn.InstanceNorm2d(16), False),
        (nn.GroupNorm(2, 16), False),
    ],
)
@pytest.mark.parametrize("where", ["model", "router", "experts"])
def test_statistics_of_the_batch_are_a_reason_to_refuse(
    norm, is_reason, where, tiny_spec, tiny_dataset
):
    def change(model: nn.Module) -> None:
        layer = layer_of(model)
        at = {"model": model, "router": layer.router, "experts": layer.experts}[where]
        at.own_norm = norm

    why = reason(tiny_spec(), tiny_dataset, change)
    prefix = {"model": "", "router": "blocks.1.mlp.router.", "experts": "blocks.1.mlp.experts."}
    name = type(norm).__name__
    what = f"an {name}" if name.startswith("Instance") else f"a {name}"
    message = f"{prefix[where]}own_norm, {what}, takes statistics of the batch"
    assert why == (message if is_reason else None)


def test_buffers_are_a_reason_to_refuse_only_in_moe_layers(tiny_spec, tiny_dataset):
    def in_router(model: nn.Module) -> None:
        layer_of(model).router.register_buffer("mean", torch.zeros(4))

    why = reason(tiny_spec(), tiny_dataset, in_router)
    assert why == "blocks.1.mlp.router.mean may keep statistics of the batch"
    spec = tiny_spec()
    assert reason(spec, tiny_dataset, lambda m: m.register_buffer("grid", torch.zeros(4))) is None


def test_micro_batches_that_would_change_the_training_are_refused(
    tiny_spec, tiny_dataset, tmp_path
):
    spec = cut(tiny_spec(losses={"sample_similarity": 0.1}))
    match = "train.micro_batches = 2 .*: the loss 'sample_similarity' is taken over the whole batch"
    with pytest.raises(RequestError, match=match):
        train_trial(spec, tiny_dataset, CPU, tmp_path)


# The setting


def test_whole_batches_are_described_as_before_the_setting_existed(tiny_spec):
    assert "micro_batches" not in tiny_spec().model_dump(mode="json")["train"]
    assert cut(tiny_spec()).model_dump(mode="json")["train"]["micro_batches"] == 2


def test_micro_batches_need_less_memory(tiny_spec):
    data = DataShape((1, 8, 8), 4, 96)
    whole, halves = (estimate(each, data) for each in (tiny_spec(), cut(tiny_spec())))
    assert halves.training_bytes < whole.training_bytes
    assert halves.budget == whole.budget
