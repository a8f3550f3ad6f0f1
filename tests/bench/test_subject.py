"""Suites get the outcome of the training, and layers of the shape that they ask for."""

import pytest
import torch

from bench.compute import model_stats
from bench.measure import LayerOfTrial, TrainedTrial
from bench.model import MoELayer, moe_layers
from bench.model.build import trial_model
from bench.train.loop import train_trial
from bench.train.outcome import read_outcome
from routers import ROUTERS, BenchError, MixtureRouting, Router
from suites import build_suite
from suites.support.subject import chosen_experts_answers

CPU = torch.device("cpu")


@pytest.fixture
def trained(tiny_spec, tiny_dataset, tmp_path):
    def make(name="softmax_token_choice", **changes):
        spec = tiny_spec(name, epochs=1, **changes)
        train_trial(spec, tiny_dataset, CPU, tmp_path)
        return TrainedTrial(spec, tiny_dataset, read_outcome(tmp_path), CPU)

    return make


def test_the_final_model_runs_on_every_image_in_order(trained, tiny_dataset):
    subject = trained()
    assert not subject.model.training
    split = tiny_dataset.splits["test"]
    seen = list(subject.run(subject.model, "test", batch_size=10))
    assert [len(batch.labels) for batch in seen] == [10, 10, 10, 2]
    assert torch.equal(torch.cat([batch.labels for batch in seen]), split.labels)
    assert all(len(batch.routings) == 1 for batch in seen)
    assert seen[0].routings[0].gates.shape == (10, 16, 4)
    assert seen[0].logits.shape == (10, subject.num_classes)
    assert not seen[0].logits.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(subject.model(seen[1].images), seen[1].logits)
    assert abs(seen[0].images.mean()) < 1  # normalised
    default = next(subject.run(subject.model, "test"))
    assert len(default.labels) == 16  # as in training


def test_a_selection_of_images_runs_as_if_there_were_no_others(trained):
    subject = trained()
    (whole,) = subject.run(subject.model, "test", batch_size=32)
    places = torch.tensor([30, 2, 17])
    two, one = subject.run(subject.model, "test", 2, places=places)
    assert torch.equal(torch.cat([two.images, one.images]), whole.images[places])
    assert torch.equal(torch.cat([two.labels, one.labels]), subject.labels_of("test")[places])
    assert two.routings[0].gates.shape == (2, 16, 4)
    torch.testing.assert_close(one.logits, whole.logits[places[2:]])


@pytest.mark.parametrize("router", ["softmax_mixture", "softmax_token_choice"])
def test_the_answer_of_a_chosen_expert_is_its_own(trained, router):
    """It is that of its own network, whatever the others of a mixture say."""
    model = {"name": "image_classifier", "options": {"img_size": 8, "hidden": [5, 8]}}
    model |= {"layers": "all", "groups": "batch"}
    subject = trained(router, model=model, experts={"name": "classifier", "num_experts": 4})
    (layer,) = moe_layers(subject.model).values()
    torch.nn.init.normal_(layer.router.gate.weight, std=0.2)
    unlike = 0
    for batch in subject.run(subject.model, "test", batch_size=10):
        with torch.no_grad():
            own = layer.experts(batch.images.expand(4, 1, *batch.images.shape))[:, 0].argmax(-1)
        chosen = batch.routings[0].combine_weights()[0].argmax(-1)
        answers = chosen_experts_answers(subject, batch)
        kept = batch.routings[0].combine_weights()[0].any(-1)
        expected = own[chosen, torch.arange(len(chosen))]
        assert answers[kept].equal(expected[kept])
        unlike += int((answers != batch.logits.argmax(-1)).sum())
        assert len(chosen.unique()) > 1
    assert (unlike > 0) == (router == "softmax_mixture")
    values = [
        next(
            metric.value
            for metric in build_suite("entropy", prediction=prediction).measure(subject)
            if metric.name == "MI_prediction" and metric.where["kind"] == "hard"
        )
        for prediction in ("model", "expert")
    ]
    assert (values[0] == values[1]) == (router == "softmax_token_choice")


def test_models_with_several_tokens_or_layers_have_no_single_answering_expert(trained):
    subject = trained()
    with pytest.raises(BenchError, match="class of an image of 16 tokens: choose prediction"):
        list(build_suite("entropy", prediction="expert").measure(subject))
    deep = trained(model={"layers": "all"})
    reason = build_suite("entropy", prediction="expert").applies_to(deep)
    assert reason == "no expert predicts a class in a model of several MoE layers"


def test_running_a_model_leaves_gradients_enabled_for_the_consumer(trained):
    subject = trained()
    for _ in subject.run(subject.model, "val"):
        assert torch.is_grad_enabled()


def test_snapshots_load_the_weights_of_their_step(trained, tiny_spec, tiny_dataset):
    subject = trained()
    first, *_, last = subject.snapshots
    assert first.step == 0
    assert first.flops == 0
    assert last.flops == subject.stats["train_flops"]
    assert last.seconds == subject.stats["train_seconds"]
    initial = trial_model(tiny_spec(), tiny_dataset).state_dict()
    loaded = first.load()
    assert not loaded.training
    assert all(torch.equal(initial[k], v) for k, v in loaded.state_dict().items())
    final = subject.model.state_dict()
    assert all(torch.equal(final[k], v) for k, v in last.load().state_dict().items())


def test_history_and_stats_come_from_the_training(trained):
    subject = trained()
    names = {point.name for point in subject.history}
    assert names == {"train_loss", "val_loss", "val_top1"}
    stats = subject.stats
    assert stats["steps"] == subject.history[-1].step
    assert abs(stats["train_flops"] / stats["flops_budget"] - 1) < 0.1
    assert stats["within_tolerance"] == 1
    assert stats["params_total"] > stats["params_active"] > 0
    # Per image, a step's forward and backward pass cost about three forward passes.
    per_step = stats["train_flops"] / stats["steps"] / 16
    assert 2.5 < per_step / stats["flops_per_image"] < 3.5


@pytest.mark.parametrize(("factor", "share"), [(1.0, 1 / 4), (2.0, 2 / 4), (9.0, 1.0)])
def test_active_parameters_count_experts_in_proportion_to_their_slots(factor, share, trained):
    subject = trained("softmax_expert_choice", router={"capacity_factor": factor})
    (layer,) = moe_layers(subject.model).values()
    experts = sum(parameter.numel() for parameter in layer.experts.parameters())
    stats = subject.stats
    assert stats["params_active"] == stats["params_total"] - experts * (1 - share)


def test_all_parameters_of_a_dense_model_are_active(trained):
    subject = trained("dense")
    assert subject.stats["params_active"] == subject.stats["params_total"]
    seen = next(subject.run(subject.model, "val"))
    assert seen.routings == []
    assert model_stats(subject.model, seen).items() <= subject.stats.items()


def test_a_training_that_diverged_has_no_model(tiny_spec, tiny_dataset, tmp_path):
    spec = tiny_spec(lr=1e30, clip_norm=None)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    with pytest.raises(BenchError, match=r"the training diverged: layer .* has the logit nan"):
        _ = TrainedTrial(spec, tiny_dataset, outcome, CPU).model


@pytest.mark.parametrize("groups", ["image", "batch", 8])
def test_a_bare_layer_has_the_trials_router_and_the_requested_shape(
    groups, tiny_spec, tiny_dataset
):
    spec = tiny_spec("softmax_token_choice", router={"top_k": 2}, model={"groups": groups})
    subject = LayerOfTrial(spec, tiny_dataset, CPU)
    layer = subject.layer(batch=3, tokens=16, dim=12, hidden=20, num_experts=5)
    assert isinstance(layer, MoELayer)
    assert layer.groups == groups
    assert layer.router.top_k == 2
    assert layer.experts.weight1.shape == (5, 12, 20)
    assert layer(torch.randn(3, 16, 12)).shape == (3, 16, 12)


@pytest.mark.parametrize(
    ("name", "router", "slots"),
    [
        ("softmax_token_choice", {}, 7),
        ("softmax_token_choice", {"top_k": 2}, 13),
        ("softmax_token_choice", {"capacity_factor": 2.0}, 13),
        ("softmax_expert_choice", {}, 7),
        ("soft_moe", {}, 6),
        ("softmax_mixture", {}, 49),
    ],
)
def test_the_dense_counterpart_runs_the_slots_of_the_experts(
    name, router, slots, tiny_spec, tiny_dataset
):
    subject = LayerOfTrial(tiny_spec(name, router=router), tiny_dataset, CPU)
    layer, x = subject.layer(3, 49, 8, 16, 8), torch.randn(3, 49, 8)
    assert subject.dense_rows(layer, subject.mlp(8, 16), x) == 3 * 8 * slots


@pytest.mark.parametrize("experts", ["cp", "tr"])
def test_the_dense_counterpart_of_factorised_experts_runs_the_tokens(
    experts, tiny_spec, tiny_dataset
):
    spec = tiny_spec("mumoe", experts={"name": experts})
    subject = LayerOfTrial(spec, tiny_dataset, CPU)
    layer, x = subject.layer(3, 49, 32, 64, 8), torch.randn(3, 49, 32)
    assert subject.dense_rows(layer, subject.mlp(32, 64), x) == 3 * 49


def test_a_bare_layer_ignores_a_solved_width_and_keeps_tuned_settings(tiny_spec, tiny_dataset):
    options = {"rank": 3, "ring_rank": 7}
    spec = tiny_spec("mumoe", experts={"name": "tr", "options": options})
    paths = tuple(f"experts.options.{name}" for name in options)
    of_model = LayerOfTrial(spec, tiny_dataset, CPU).layer(3, 49, 32, 64, 8)
    tuned = spec.model_copy(update={"found": paths})
    of_shape = LayerOfTrial(tuned, tiny_dataset, CPU).layer(3, 49, 32, 64, 8)
    assert (of_model.experts.ring_rank, of_shape.experts.ring_rank) == (7, 7)
    assert of_model.experts.rank == 3
    assert of_shape.experts.rank is None


def test_the_dense_counterpart_of_a_baseline_has_its_flops(tiny_spec, tiny_dataset):
    x = torch.randn(3, 49, 8)
    # A hidden unit has 2 · 8 multiply-adds, a bias and a GELU of 5; an output has a bias.
    widened = (67 * 38 + 8) / (16 * 38 + 8)
    for router, factor in (("dense", 1), ("dense_params", widened)):
        subject = LayerOfTrial(tiny_spec(router), tiny_dataset, CPU)
        layer = subject.layer(3, 49, 8, 16, 4)
        rows = subject.dense_rows(layer, subject.mlp(8, 16), x)
        assert rows == round(factor * 3 * 49)


def test_soft_routers_get_slots_for_the_tokens_of_a_group(tiny_spec, tiny_dataset):
    subject = LayerOfTrial(tiny_spec("soft_moe"), tiny_dataset, CPU)
    layer = subject.layer(batch=3, tokens=40, dim=12, hidden=20, num_experts=5)
    assert layer.router.slots == 8


def test_subjects_of_routers_and_baselines_know_the_shape_of_the_model(tiny_spec, tiny_dataset):
    for name in ("softmax_token_choice", "dense"):
        subject = LayerOfTrial(tiny_spec(name), tiny_dataset, CPU)
        assert (subject.dim, subject.hidden, subject.tokens) == (16, 32, 16)
        assert subject.image_shape == (1, 8, 8)
        assert (subject.num_experts, subject.router_name) == (4, name)
    spec = tiny_spec(experts={"options": {"hidden": 7}})
    assert LayerOfTrial(spec, tiny_dataset, CPU).hidden == 7


def test_the_requested_hidden_width_overrides_the_trials(tiny_spec, tiny_dataset):
    spec = tiny_spec(experts={"options": {"hidden": 7}})
    layer = LayerOfTrial(spec, tiny_dataset, CPU).layer(2, 16, 12, 20, 4)
    assert layer.experts.weight1.shape == (4, 12, 20)


def test_baselines_give_mlps(tiny_spec, tiny_dataset):
    def parameters(module):
        return sum(parameter.numel() for parameter in module.parameters())

    shape = {"batch": 2, "tokens": 16, "dim": 12, "hidden": 20, "num_experts": 4}
    dense = LayerOfTrial(tiny_spec("dense"), tiny_dataset, CPU)
    assert parameters(dense.layer(**shape)) == parameters(dense.mlp(12, 20))
    assert dense.layer(**shape)(torch.randn(2, 16, 12)).shape == (2, 16, 12)
    routed = LayerOfTrial(tiny_spec("softmax_token_choice"), tiny_dataset, CPU)
    wide = LayerOfTrial(tiny_spec("dense_params"), tiny_dataset, CPU)
    wanted = parameters(routed.layer(**shape))
    assert parameters(wide.layer(**shape)) == pytest.approx(wanted, rel=0.02)


def test_an_expert_is_an_mlp_of_the_same_kind(tiny_spec, tiny_dataset):
    subject = LayerOfTrial(tiny_spec(), tiny_dataset, CPU)
    experts = subject.layer(2, 16, 12, 20, 4).experts
    mlp = subject.mlp(12, 20)
    with torch.no_grad():
        mlp.fc1.weight.copy_(experts.weight1[2].T)
        mlp.fc2.weight.copy_(experts.weight2[2].T)
        mlp.fc1.bias.copy_(experts.bias1[2, 0])
        mlp.fc2.bias.copy_(experts.bias2[2, 0])
    x = torch.randn(4, 1, 6, 12)
    torch.testing.assert_close(experts(x)[2, 0], mlp(x[2, 0]))


def test_a_subject_builds_the_trials_model_and_its_dense_counterpart(tiny_spec, tiny_dataset):
    subject = LayerOfTrial(tiny_spec("soft_moe"), tiny_dataset, CPU)
    images = torch.randn(2, *subject.image_shape)
    assert len(moe_layers(subject.model())) == 1
    assert len(moe_layers(subject.dense_model())) == 0
    assert subject.model()(images).shape == subject.dense_model()(images).shape == (2, 4)


def test_building_a_layer_is_reproducible_and_leaves_torchs_generator_alone(
    tiny_spec, tiny_dataset
):
    subject = LayerOfTrial(tiny_spec(), tiny_dataset, CPU)
    before = torch.get_rng_state()
    first, second = (subject.layer(2, 16, 12, 20, 4).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_answers_with_unchanged_weights_are_those_of_the_run(trained):
    class Echo(Router):
        """Adds the logits of the layer before."""

        def compute_logits(self, tokens, context):
            logits = super().compute_logits(tokens, context)
            before = context.previous_logits
            return logits if before is None else logits + 5 * before

        def allocate(self, logits):
            return MixtureRouting(logits.softmax(-1))

    ROUTERS.register("echo_of_the_test")(Echo)
    try:
        subject = trained("echo_of_the_test", model={"layers": "all"})
        for seen in subject.run(subject.model, "test"):
            again = subject.answers(subject.model, seen.images, {})
            torch.testing.assert_close(again, seen.logits)
            assert len(seen.routings) > 1
    finally:
        ROUTERS.discard("echo_of_the_test")
