"""A training whose router logits are not finite has diverged, whatever the router."""

import math

import pytest
import torch

from bench.data.batches import TrainingBatches
from bench.execute.failures import status_of
from bench.model import moe_layers
from bench.model.build import trial_model
from bench.train.evaluation import evaluate, observe
from bench.train.loop import train_trial
from bench.train.step import Trainer
from routers import ROUTERS, Baseline, NonFiniteError, Router, list_routers, register_router
from routers.routing import MixtureRouting

CPU = torch.device("cpu")
NAMES = [name for name in list_routers() if not issubclass(ROUTERS.get(name).target, Baseline)]


def breaking_from(monkeypatch, number, value=math.nan):
    """Set the second layer's logits to `value` from this step on, counted from 0."""
    step = Trainer.step

    def broken(self, at, counter=None):
        if at == number and self.steps > 1:  # trainers of one step determine the budget
            router = list(moe_layers(self._model).values())[-1].router
            score = router.compute_logits
            router.compute_logits = lambda tokens, context: score(tokens, context) * 0 + value
        return step(self, at, counter)

    monkeypatch.setattr(Trainer, "step", broken)


@pytest.mark.parametrize("name", NAMES)
def test_every_router_names_the_layer_whose_logits_are_not_finite(
    name, tiny_spec, tiny_dataset, monkeypatch
):
    breaking_from(monkeypatch, 1)
    spec = tiny_spec(name)
    trainer = Trainer(spec, tiny_dataset, TrainingBatches(spec, tiny_dataset, CPU), CPU, steps=2)
    trainer.step(0)
    layer = list(moe_layers(trainer.model))[-1]
    with pytest.raises(NonFiniteError, match=f"^layer {layer}: token 0 of group 0 has the logit"):
        trainer.step(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, math.nan) for name in NAMES),
        *((name, value) for name in ("sigmoid_top_k", "relu") for value in (math.inf, -math.inf)),
    ],
)
def test_the_loss_is_nan_if_logits_cannot_be_read_without_waiting(
    name, value, tiny_spec, tiny_dataset, monkeypatch
):
    for module in ("logits", "mixture", "transport"):  # as on a GPU
        monkeypatch.setattr(f"routers.{module}.readable", lambda tensor: False)
    breaking_from(monkeypatch, 1, value)
    spec = tiny_spec(name)
    trainer = Trainer(spec, tiny_dataset, TrainingBatches(spec, tiny_dataset, CPU), CPU, steps=2)
    assert trainer.step(0).isfinite()
    assert trainer.step(1).isnan()


def test_the_validation_loss_is_nan_if_logits_cannot_be_read_without_waiting(
    tiny_spec, tiny_dataset, monkeypatch
):
    monkeypatch.setattr("routers.logits.readable", lambda tensor: False)
    model = trial_model(tiny_spec("relu"), tiny_dataset)
    assert math.isfinite(evaluate(model, tiny_dataset, "val", batch_size=8, device=CPU).loss)
    # A ReLU gate sends no token with logits of −∞ to an expert, so the output would not show it.
    router = moe_layers(model).popitem()[1].router
    router.compute_logits = lambda tokens, context: torch.full(
        (*tokens.shape[:2], router.num_experts), -math.inf
    )
    assert math.isnan(evaluate(model, tiny_dataset, "val", batch_size=8, device=CPU).loss)


@pytest.mark.parametrize("name", ["softmax_token_choice", "softmax_expert_choice", "soft_moe"])
def test_a_training_with_nan_logits_has_diverged(
    name, tiny_spec, tiny_dataset, tmp_path, monkeypatch
):
    breaking_from(monkeypatch, 2)
    spec = tiny_spec(name, match="steps", epochs=0.5, evaluations=1, snapshots=1)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    assert (outcome.status, outcome.steps) == ("diverged", 2)
    layer = list(moe_layers(trial_model(spec, tiny_dataset)))[-1]
    assert outcome.error.startswith(f"layer {layer}: token 0 of group 0 has the logit nan")
    assert outcome.error.endswith(f"at step 3 of {outcome.planned_steps}")
    assert outcome.flops > 0
    assert outcome.seconds > 0


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_a_training_with_infinite_logits_has_diverged(
    value, tiny_spec, tiny_dataset, tmp_path, monkeypatch
):
    breaking_from(monkeypatch, 1, value)
    spec = tiny_spec(match="steps", epochs=0.5, evaluations=1, snapshots=1)
    outcome = train_trial(spec, tiny_dataset, CPU, tmp_path)
    assert outcome.status == "diverged"
    assert "logit inf" in outcome.error or "no finite logit" in outcome.error


def test_logits_broken_by_the_last_step_are_noticed(tiny_spec, tiny_dataset, tmp_path, monkeypatch):
    step = Trainer.step

    def breaking(self, number, counter=None):
        loss = step(self, number, counter)
        if number == 11:
            next(iter(moe_layers(self.model).values())).router.gate.weight.data.fill_(math.nan)
        return loss

    monkeypatch.setattr(Trainer, "step", breaking)
    outcome = train_trial(tiny_spec(match="steps"), tiny_dataset, CPU, tmp_path)
    assert outcome.status == "diverged"
    assert outcome.error.endswith("in the validation after step 12 of 12")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_exploding_weights_end_as_a_diverged_training(
    name, precision, tiny_spec, tiny_dataset, tmp_path
):
    """Huge weights raise no other error in a router, its plan or its update."""
    experts = {"mumoe": {"name": "cp"}, "moe_plus_plus": {"name": "heterogeneous"}}
    spec = tiny_spec(
        name,
        router={"update_gate_every": 1} if name == "mixer" else {},
        experts={**experts.get(name, {}), "num_experts": 8},
        match="steps",
        epochs=1,
        snapshots=1,
        evaluations=1,
        lr=1e25,
        clip_norm=None,
        precision=precision,
    )
    try:
        status = train_trial(spec, tiny_dataset, CPU, tmp_path).status
    except NonFiniteError as error:
        status = status_of(error)
    assert status == "diverged"


def test_a_measurement_names_the_layer_and_token_of_a_non_finite_logit(tiny_spec, tiny_dataset):
    model = trial_model(tiny_spec(), tiny_dataset)
    name, layer = next(iter(moe_layers(model).items()))
    layer.router.gate.weight.data.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=f"layer {name}: token 0 of group 0"):
        next(observe(model, tiny_dataset, "val", batch_size=4, device=CPU))


def test_a_router_whose_logits_are_never_finite_diverges_during_budgeting(
    tiny_spec, tiny_dataset, tmp_path
):
    @register_router("never_finite", family="mixture")
    class NeverFinite(Router):
        """A router whose logits are all NaN."""

        def compute_logits(self, tokens, context):
            return super().compute_logits(tokens, context) * math.nan

        def allocate(self, logits):
            return MixtureRouting(logits.softmax(-1))

    try:
        with pytest.raises(NonFiniteError, match=r"layer .*token 0 of group 0") as refused:
            train_trial(tiny_spec("never_finite"), tiny_dataset, CPU, tmp_path)
    finally:
        ROUTERS.discard("never_finite")
    assert status_of(refused.value) == "diverged"
