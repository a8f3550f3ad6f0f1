"""Training one trial: its steps, its evaluations, its reproducibility."""

import math
import multiprocessing
from contextlib import nullcontext

import pytest
import torch

from bench.config.schema import AugmentConfig, TrainConfig
from bench.data.batches import TrainingBatches
from bench.data.files import read_tensors
from bench.model import (
    EXPERTS,
    ReplacedLinear,
    ReplacedMLP,
    ReplacedNetwork,
    build_experts,
    moe_layers,
)
from bench.model.build import trial_model
from bench.model.objective import Objective
from bench.train.evaluation import Score, evaluate, spaced
from bench.train.loop import train_trial
from bench.train.optimizer import build_optimizer, learning_rate
from bench.train.outcome import read_outcome
from bench.train.step import Trainer, resolve_budget, seed_generators
from routers import LOSSES, Batch, RequestError, Router
from routers.soft import SoftMoE
from routers.token_choice import SoftmaxTokenChoice

CPU = torch.device("cpu")


def budget_of(spec, dataset):
    return resolve_budget(spec, dataset, TrainingBatches(spec, dataset, CPU), CPU)


def weights_of(outcome):
    return read_tensors(outcome.checkpoint, outcome.sha256)


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_seeding_is_equivalent_to_torch_manual_seed():
    seed_generators(7, CPU)
    drawn = torch.rand(4)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(4))


# A training from its first step to its last


@pytest.mark.parametrize("name", ["dense", "soft_moe", "softmax_expert_choice"])
def test_a_training_learns_spends_its_budget_and_saves_its_outcome(
    name, tiny_spec, tiny_dataset, tmp_path
):
    spec = tiny_spec(name, epochs=15, lr=5e-3, snapshots=5, evaluations=4)
    seen = []
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path, lambda *at: seen.append(at))
    budget = budget_of(spec, tiny_dataset)
    assert (outcome.status, outcome.error) == ("done", None)
    assert outcome.steps == outcome.planned_steps == budget.steps
    assert outcome.flops == budget.steps * budget.own.flops
    assert outcome.flops_budget == budget.flops_budget
    assert outcome.within_tolerance
    assert outcome.seconds > 0
    curve = [point.value for point in outcome.history if point.name == "val_top1"]
    assert len(curve) == 4
    assert curve[-1] > 0.9  # chance is 0.25
    assert read_outcome(tmp_path) == outcome
    done, steps, losses, accuracies, evaluations, seconds = zip(*seen, strict=True)
    assert list(done) == sorted(set(done))
    assert done[-1] == steps[-1] == budget.steps
    assert max(b - a for a, b in zip((0, *done), done, strict=False)) <= 10
    assert losses[-1] < losses[0]
    assert seconds[-1] == outcome.seconds
    assert list(dict.fromkeys(accuracies)) == list(dict.fromkeys([None, *curve]))
    assert sorted(set(evaluations)) == [0, 1, 2, 3, 4]
    assert evaluations[-1] == 4


def test_snapshots_are_equally_spaced_from_the_first_weights_to_the_last(
    tiny_spec, tiny_dataset, tmp_path
):
    spec = tiny_spec("soft_moe", epochs=5, snapshots=5)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    spent = [snapshot.flops / outcome.flops for snapshot in outcome.snapshots]
    assert spent == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.51 / outcome.steps)
    assert [s.seconds for s in outcome.snapshots] == sorted(s.seconds for s in outcome.snapshots)
    initial = read_tensors(tmp_path / outcome.snapshots[0].file, outcome.snapshots[0].sha256)
    assert same(initial, trial_model(spec, tiny_dataset).state_dict())
    assert outcome.checkpoint == tmp_path / outcome.snapshots[-1].file
    assert not same(initial, weights_of(outcome))


@pytest.mark.parametrize(("snapshots", "kept"), [(0, 1), (1, 1), (2, 2), (99, 13)])
def test_the_final_weights_are_always_kept(snapshots, kept, tiny_spec, tiny_dataset, tmp_path):
    spec = tiny_spec("dense", snapshots=snapshots)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    assert outcome.steps == 12
    assert len(outcome.snapshots) == kept
    assert outcome.snapshots[-1].step == 12


def test_evaluations_and_snapshots_are_spaced_evenly_over_the_steps():
    assert spaced(100, 4) == [25, 50, 75, 100]
    assert spaced(10, 3) == [3, 7, 10]
    assert spaced(2, 10) == [1, 2]
    assert spaced(1, 4) == [1]


def test_the_test_split_is_never_touched(tiny_spec, tiny_dataset, tmp_path):
    splits = {name: split for name, split in tiny_dataset.splits.items() if name != "test"}
    blind = type(tiny_dataset)(**{**vars(tiny_dataset), "splits": splits})
    assert train_trial(tiny_spec(), blind, CPU, tmp_path).status == "done"


def test_the_last_points_of_the_curves_are_those_of_an_evaluation(
    tiny_spec, tiny_dataset, tmp_path
):
    spec = tiny_spec("soft_moe", epochs=1)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    model = trial_model(spec, tiny_dataset)
    model.load_state_dict(weights_of(outcome))
    score = evaluate(model, tiny_dataset, "val", batch_size=16, device=CPU)
    last = {point.name: point for point in outcome.history[-3:]}
    assert last["val_top1"].value == score.top1
    assert last["val_loss"].value == score.loss
    assert last["val_loss"].step == outcome.steps
    assert last["val_loss"].flops == outcome.flops
    assert last["train_loss"].split == "train"


def test_operations_without_a_price_are_named(tiny_spec, tiny_dataset, tmp_path, monkeypatch):
    allocate = SoftMoE.allocate

    def with_qr(self, logits):
        torch.linalg.qr(logits.detach()[0, :, :, 0])
        return allocate(self, logits)

    monkeypatch.setattr(SoftMoE, "allocate", with_qr)
    outcome = train_trial(tiny_spec("soft_moe"), tiny_dataset, CPU, tmp_path)
    assert outcome.uncounted == ["aten.linalg_qr.default"]
    assert train_trial(tiny_spec("dense"), tiny_dataset, CPU, tmp_path).uncounted == []


# The same bits


@pytest.mark.parametrize(
    ("name", "router"),
    [
        ("softmax_token_choice", {"noise_std": 1.0}),
        ("softmax_token_choice", {"noise_std": 1.0, "capacity_factor": None}),
        ("soft_moe", {"noise_std": 1.0}),
        ("random", {}),
        ("sinkhorn_expert_choice", {}),
    ],
)
@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(name, router, tiny_spec, tiny_dataset, tmp_path):
    spec = tiny_spec(name, router=router, losses={"importance": 0.1}, clip_norm=0.5)
    first = train_trial(spec, tiny_dataset, CPU, tmp_path / "a")
    torch.rand(7)  # torch's own generator has no effect
    second = train_trial(spec, tiny_dataset, CPU, tmp_path / "b")
    assert first.sha256 == second.sha256
    assert [p.value for p in first.history] == [p.value for p in second.history]
    other = train_trial(spec.model_copy(update={"seed": 1}), tiny_dataset, CPU, tmp_path / "c")
    assert other.sha256 != first.sha256


def test_the_frequency_of_progress_reports_changes_no_bit(tiny_spec, tiny_dataset, tmp_path):
    seldom = train_trial(tiny_spec(snapshots=1, evaluations=1), tiny_dataset, CPU, tmp_path / "a")
    often = train_trial(tiny_spec(snapshots=9, evaluations=12), tiny_dataset, CPU, tmp_path / "b")
    assert seldom.sha256 == often.sha256


def test_torchs_global_generator_is_not_touched(tiny_spec, tiny_dataset, tmp_path):
    before = torch.get_rng_state()
    train_trial(tiny_spec("random"), tiny_dataset, CPU, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_routers_share_data_and_all_initial_weights_except_those_of_the_moe_layer(
    tiny_spec, tiny_dataset
):
    dense = trial_model(tiny_spec("dense", seed=3), tiny_dataset).state_dict()
    for name in ("soft_moe", "random", "softmax_token_choice"):
        spec = tiny_spec(name, seed=3)
        model = trial_model(spec, tiny_dataset)
        inside = tuple(moe_layers(model))
        outside = {k: v for k, v in model.state_dict().items() if not k.startswith(inside)}
        assert all(torch.equal(value, dense[key]) for key, value in outside.items())
        batches = TrainingBatches(spec, tiny_dataset, CPU)
        others = TrainingBatches(tiny_spec("dense", seed=3, epochs=9), tiny_dataset, CPU)
        for step in (0, 1, 8):
            assert torch.equal(batches(step)[0], others(step)[0])


def test_a_step_depends_only_on_its_number_and_the_saved_state(tiny_spec, tiny_dataset):
    """Resuming relies on it: parameters, optimiser state and the step determine everything."""
    spec = tiny_spec("softmax_token_choice", router={"noise_std": 1.0})
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    whole = Trainer(spec, tiny_dataset, batches, CPU, steps=4)
    for step in range(4):
        whole.step(step)
    halves = Trainer(spec, tiny_dataset, batches, CPU, steps=4)
    for step in range(2):
        halves.step(step)
    torch.rand(3)
    resumed = Trainer(spec, tiny_dataset, TrainingBatches(spec, tiny_dataset, CPU), CPU, steps=4)
    resumed.model.load_state_dict(halves.model.state_dict())
    resumed._optimizer.load_state_dict(halves._optimizer.state_dict())
    for step in (2, 3):
        resumed.step(step)
    assert same(whole.model.state_dict(), resumed.model.state_dict())


def test_dropout_is_seeded_too(tiny_spec, tiny_dataset, tmp_path):
    options = {**tiny_spec().model.options, "proj_drop_rate": 0.2}
    spec = tiny_spec("dense", model={"options": options})
    first = train_trial(spec, tiny_dataset, CPU, tmp_path / "a")
    torch.rand(5)
    assert train_trial(spec, tiny_dataset, CPU, tmp_path / "b").sha256 == first.sha256


# Failures


def test_a_non_finite_loss_ends_the_training_as_diverged(tiny_spec, tiny_dataset, tmp_path):
    spec = tiny_spec("soft_moe", lr=1e30, clip_norm=None, epochs=10, evaluations=20)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    assert outcome.status == "diverged"
    assert outcome.error.startswith("layer blocks.1.mlp: token 0 of group 0 has the logit nan")
    assert f"of {outcome.planned_steps}" in outcome.error
    assert 0 < outcome.steps < outcome.planned_steps
    assert outcome.flops > 0
    assert outcome.seconds > 0
    assert outcome.checkpoint is None
    assert outcome.snapshots[0].step == 0
    assert read_outcome(tmp_path).error == outcome.error


def test_weights_broken_by_the_last_step_are_noticed(
    tiny_spec, tiny_dataset, tmp_path, monkeypatch
):
    step = Trainer.step

    def breaking(self, number, counter=None):
        loss = step(self, number, counter)
        if number == 11:
            next(self.model.parameters()).data.fill_(math.nan)
        return loss

    monkeypatch.setattr(Trainer, "step", breaking)
    outcome = train_trial(tiny_spec("dense"), tiny_dataset, CPU, tmp_path)
    assert outcome.status == "diverged"
    assert outcome.error == "the validation loss is nan after step 12 of 12"


@pytest.mark.parametrize("breaks", [False, True])
def test_no_data_loading_process_outlives_a_training(
    breaks, tiny_spec, tiny_dataset, tmp_path, monkeypatch
):
    spec = tiny_spec("dense", epochs=0.5)
    augmented = spec.data.model_copy(update={"augment": AugmentConfig(randaugment="rand-m9-n2")})
    kept, at_work = [], []

    def keeping(*arguments):
        """The garbage collector does not close what is still referenced."""
        kept.append(TrainingBatches(*arguments))
        return kept[-1]

    def evaluating(*_, **__):
        at_work.extend(multiprocessing.active_children())
        if breaks:
            raise ValueError("broken")
        return Score(0.5, 1.0)

    monkeypatch.setattr("bench.train.loop.TrainingBatches", keeping)
    monkeypatch.setattr("bench.train.loop.evaluate", evaluating)
    with pytest.raises(ValueError, match="broken") if breaks else nullcontext():
        train_trial(spec.model_copy(update={"data": augmented}), tiny_dataset, CPU, tmp_path)
    assert at_work
    assert not multiprocessing.active_children()


def test_a_loss_that_a_router_does_not_support_is_an_error(tiny_spec, tiny_dataset, tmp_path):
    spec = tiny_spec("soft_moe", losses={"gshard": 0.1})
    with pytest.raises(RequestError, match="gshard"):
        train_trial(spec, tiny_dataset, CPU, tmp_path)
    with pytest.raises(RequestError, match="did you mean 'importance'"):
        train_trial(tiny_spec(losses={"importanze": 1}), tiny_dataset, CPU, tmp_path)


# The loss


def test_auxiliary_losses_are_averaged_over_layers_and_weighted(tiny_spec, tiny_dataset):
    spec = tiny_spec(model={"layers": "all"}, losses={"importance": 0.5, "z": 0.25})
    model = trial_model(spec, tiny_dataset)
    images, labels = TrainingBatches(spec, tiny_dataset, CPU).first
    losses = Objective(spec.train)(model, images, labels, step=0)
    assert len(losses.routings) == 2
    batch = Batch(images, labels)
    expected = losses.task.clone()
    for name, weight in spec.train.losses.items():
        values = [LOSSES.get(name).target(routing, batch) for routing in losses.routings]
        expected += weight * sum(values) / 2
    torch.testing.assert_close(losses.total, expected)
    smoothed = torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1)
    torch.testing.assert_close(losses.task, smoothed.detach())


def test_a_dense_model_has_no_auxiliary_loss(tiny_spec, tiny_dataset):
    spec = tiny_spec("dense", losses={"importance": 100.0})
    images, labels = TrainingBatches(spec, tiny_dataset, CPU).first
    losses = Objective(spec.train)(trial_model(spec, tiny_dataset), images, labels, step=0)
    assert losses.total == losses.task


def test_autocast_reaches_the_model_and_not_the_routers(tiny_spec, tiny_dataset, tmp_path):
    spec = tiny_spec("soft_moe", precision="bfloat16")
    model = trial_model(spec, tiny_dataset)
    seen = []
    model.blocks[0].mlp.register_forward_hook(lambda m, x, y: seen.append(y.dtype))
    images, labels = TrainingBatches(spec, tiny_dataset, CPU).first
    losses = Objective(spec.train)(model, images, labels, step=0)
    assert seen == [torch.bfloat16]
    assert losses.routings[0].gates.dtype == torch.float32
    assert losses.total.dtype == torch.float32
    assert train_trial(spec, tiny_dataset, CPU, tmp_path).status == "done"


# The optimiser


def test_biases_norms_and_scales_do_not_decay(tiny_spec, tiny_dataset):
    model = trial_model(tiny_spec("soft_moe"), tiny_dataset)
    decaying, free = build_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = {names[id(parameter)] for parameter in free["params"]}
    assert {"pos_embed", "blocks.0.norm1.weight", "blocks.1.mlp.experts.bias1"} <= kept
    assert {"blocks.1.mlp.router.gate.scale", "head.bias"} <= kept
    assert all(parameter.ndim >= 2 for parameter in decaying["params"])
    assert len(kept) + len(decaying["params"]) == len(names)


@pytest.mark.parametrize("experts", EXPERTS.names())
def test_biases_of_all_kinds_of_experts_do_not_decay(experts):
    places = (ReplacedMLP(12, 24), ReplacedLinear(12, 9), ReplacedNetwork((1, 6, 6), 2, (5, 4), 3))
    place = next(p for p in places if isinstance(p, EXPERTS.get(experts).target.replaces))
    built = build_experts(experts, num_experts=6, replaced=place)
    decaying, _ = build_optimizer(built, TrainConfig(weight_decay=0.3)).param_groups
    spared = {id(parameter) for parameter in decaying["params"]}
    assert not [n for n, p in built.named_parameters() if "bias" in n and id(p) in spared]


def test_frozen_parameters_are_not_trained(tiny_spec, tiny_dataset, tmp_path):
    spec = tiny_spec("frozen", weight_decay=0.5, lr=1e-2)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    before, after = trial_model(spec, tiny_dataset).state_dict(), weights_of(outcome)
    gates = [name for name in before if ".router." in name]
    assert gates
    assert all(torch.equal(before[name], after[name]) for name in gates)


def test_the_learning_rate_warms_up_and_then_follows_half_a_cosine():
    train = TrainConfig(lr=1.0, warmup=0.25)
    rates = [learning_rate(step, 40, train) for step in range(40)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[25] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.01
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(0, 1, train) == 1.0


def test_gradients_are_clipped(tiny_spec, tiny_dataset):
    """AdamW divides by the gradient's size; clipped to almost nothing, its epsilon wins."""

    def moved(clip):
        spec = tiny_spec("dense", clip_norm=clip, weight_decay=0, warmup=0)
        batches = TrainingBatches(spec, tiny_dataset, CPU)
        trainer = Trainer(spec, tiny_dataset, batches, CPU, steps=2)
        before = trainer.model.head.weight.detach().clone()
        trainer.step(0)
        return (trainer.model.head.weight - before).abs().max().item()

    assert moved(1e-12) < 0.01 * moved(None)


def test_averaged_weights_are_evaluated_and_saved(tiny_spec, tiny_dataset, tmp_path):
    spec = tiny_spec("dense", ema=0.9, epochs=0.5, snapshots=1, evaluations=1)
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    trainer = Trainer(spec, tiny_dataset, batches, CPU, steps=3)
    average = None
    for step in range(3):
        trainer.step(step)
        now = trainer._model.head.weight.detach().clone()
        average = now if average is None else 0.9 * average + 0.1 * now
    torch.testing.assert_close(trainer.model.head.weight, average)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    assert outcome.steps == 3
    torch.testing.assert_close(weights_of(outcome)["head.weight"], average)


def test_floating_point_state_is_averaged_and_counts_are_copied(tiny_spec, tiny_dataset):
    spec = tiny_spec("expert_threshold", ema=0.9)
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    trainer = Trainer(spec, tiny_dataset, batches, CPU, steps=3)
    (own,), (averaged,) = (
        [layer.router for layer in moe_layers(net).values()]
        for net in (trainer._model, trainer.model)
    )
    for step in range(3):
        trainer.step(step)
        assert averaged.updates == own.updates - 1  # the router is notified after the step
    assert own.updates == 3
    assert not averaged.threshold.equal(own.threshold)


# Routers with `after_step`


class Listening(SoftmaxTokenChoice):
    def after_step(self, stats):
        self.heard = [*getattr(self, "heard", []), stats]


def test_routers_with_after_step_get_the_loads_of_each_step(tiny_spec, tiny_dataset):
    spec = tiny_spec(router={"capacity_factor": 0.5})
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    trainer = Trainer(spec, tiny_dataset, batches, CPU, steps=2)
    (layer,) = moe_layers(trainer.model).values()
    assert type(layer.router).after_step is Router.after_step
    layer.router.__class__ = Listening
    trainer.step(0)
    (stats,) = layer.router.heard
    tokens = 16 * 16  # images of a batch, patches of an image
    assert stats["demand"].shape == (4,)
    assert stats["demand"].sum() == tokens
    assert (stats["load"] <= 16 * 2).all()  # capacity 0.5 · 16 / 4 in each image
    assert (stats["load"] <= stats["demand"]).all()


def test_routers_see_labels_step_and_generator(tiny_spec, tiny_dataset, monkeypatch):
    seen = []

    def compute_logits(self, tokens, context):
        seen.append((context.step, context.labels, context.generator.initial_seed()))
        return self.gate(tokens, context).unflatten(-1, (4, -1))

    monkeypatch.setattr("routers.soft.SoftMoE.compute_logits", compute_logits)
    spec = tiny_spec("soft_moe")
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    trainer = Trainer(spec, tiny_dataset, batches, CPU, steps=3)
    for step in range(3):
        trainer.step(step)
    steps, labels, seeds = zip(*seen, strict=True)
    assert steps == (0, 1, 2)
    assert torch.equal(labels[2], batches(2)[1])
    assert len(set(seeds)) == 3
