"""An A/A replicate repeats its router with the same data, other MoE weights and other noise."""

from __future__ import annotations

import pytest
import torch

from bench.config.presets import ParentConfig, PresetPart, load_preset
from bench.config.schema import TrialSpec
from bench.data.batches import TrainingBatches
from bench.measure import LayerOfTrial
from bench.model import moe_layers
from bench.model.build import moe_seed, trial_model
from bench.plan.expand import trial_specs
from bench.plan.fingerprint import Fingerprints
from bench.plan.plan import labels, make_request
from bench.train.loop import train_trial
from bench.train.step import Trainer
from routers.errors import RequestError

CPU = torch.device("cpu")
NOISY = {"noise_std": 1.0}


def replicate_of(spec: TrialSpec) -> TrialSpec:
    return spec.model_copy(update={"twin": 1})


def outside(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    inside = tuple(moe_layers(model))
    return {k: v for k, v in model.state_dict().items() if not k.startswith(inside)}


def test_only_the_moe_layers_of_a_replicate_are_initialised_differently(tiny_spec, tiny_dataset):
    spec = tiny_spec("soft_moe", seed=3)
    model, replicate = (trial_model(each, tiny_dataset) for each in (spec, replicate_of(spec)))
    same, other = outside(model), outside(replicate)
    assert same.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in same.items())
    for layer, counterpart in zip(
        moe_layers(model).values(), moe_layers(replicate).values(), strict=True
    ):
        assert not layer.experts.weight1.equal(counterpart.experts.weight1)
        for (name, value), drawn in zip(
            layer.router.named_parameters(), counterpart.router.parameters(), strict=True
        ):
            assert value.numel() == 1 or not value.equal(drawn), name


def test_random_streams_differ_in_the_bits_that_a_generator_uses():
    """CPU generators use only the lowest 32 bits."""
    seeds = {moe_seed(seed, number) % 2**32 for seed in range(50) for number in range(2)}
    assert len(seeds) == 100
    assert not seeds & set(range(50)), "the stream of the rest of the model"


def test_moe_layers_and_the_rest_of_a_model_use_different_random_numbers(tiny_spec, tiny_dataset):
    model = trial_model(tiny_spec("soft_moe", seed=3), tiny_dataset)
    layer = next(iter(moe_layers(model).values()))
    torch.manual_seed(3)
    drawn = torch.randn(layer.experts.weight1.shape) * layer.experts.weight1.std()
    correlation = torch.corrcoef(torch.stack([drawn.flatten(), layer.experts.weight1.flatten()]))
    assert abs(correlation[0, 1]) < 0.1


def test_replicates_see_the_same_batches_but_different_noise(tiny_spec, tiny_dataset):
    spec = tiny_spec("softmax_token_choice", router=NOISY)
    batches = [TrainingBatches(each, tiny_dataset, CPU) for each in (spec, replicate_of(spec))]
    for step in (0, 1, 8):
        (images, labels), (again, same) = (each(step) for each in batches)
        assert images.equal(again)
        assert labels.equal(same)
    drawn = []
    for each in (spec, replicate_of(spec)):
        trainer = Trainer(each, tiny_dataset, batches[0], CPU, steps=2)
        # Starting from the same weights, only the noise can differ.
        trainer.model.load_state_dict(trial_model(spec, tiny_dataset).state_dict())
        trainer.step(0)
        drawn.append(trainer._noise.initial_seed())
        drawn.append(trainer.model.state_dict())
    assert drawn[0] != drawn[2]
    assert any(not value.equal(drawn[3][key]) for key, value in drawn[1].items())


def test_replicates_with_equal_weights_and_no_noise_take_the_same_steps(tiny_spec, tiny_dataset):
    """Dropout is shared too: replicates differ in nothing but their weights and their noise."""
    spec = tiny_spec(model={"options": {**tiny_spec().model.options, "proj_drop_rate": 0.2}})
    ends = []
    for each in (spec, replicate_of(spec)):
        batches = TrainingBatches(each, tiny_dataset, CPU)
        trainer = Trainer(each, tiny_dataset, batches, CPU, steps=3)
        trainer.model.load_state_dict(trial_model(spec, tiny_dataset).state_dict())
        for step in range(3):
            trainer.step(step)
        ends.append(trainer.model.state_dict())
    assert all(value.equal(ends[1][key]) for key, value in ends[0].items())


def test_a_replicate_ends_with_other_weights_and_is_reproducible(tiny_spec, tiny_dataset, tmp_path):
    spec = tiny_spec("softmax_token_choice", router=NOISY)
    ends = [
        train_trial(each, tiny_dataset, CPU, tmp_path / str(number))
        for number, each in enumerate((spec, replicate_of(spec), replicate_of(spec)))
    ]
    assert ends[0].sha256 != ends[1].sha256 == ends[2].sha256
    assert len({end.flops for end in ends}) == 1


def test_a_bare_layer_of_a_replicate_has_the_same_shape_but_other_weights(tiny_spec, tiny_dataset):
    spec = tiny_spec("soft_moe")
    made = [
        LayerOfTrial(each, tiny_dataset, CPU).layer(2, 16, 16, 32, 4).state_dict()
        for each in (spec, replicate_of(spec))
    ]
    assert made[0].keys() == made[1].keys()
    assert not made[0]["experts.weight1"].equal(made[1]["experts.weight1"])


# Plans


def test_only_replicates_are_described_as_replicates(tiny_spec):
    spec, prints = tiny_spec("soft_moe"), Fingerprints()
    assert "twin" not in spec.model_dump(mode="json")
    assert replicate_of(spec).model_dump(mode="json")["twin"] == 1
    trials = [prints.trial(each, lambda _: "data").value for each in (spec, replicate_of(spec))]
    layers = [prints.layer(each).value for each in (spec, replicate_of(spec))]
    assert trials[0] != trials[1]
    assert layers[0] != layers[1]
    assert replicate_of(spec).dense() == spec.dense()


def test_every_router_except_baselines_gets_a_replicate_per_condition_and_seed():
    routers = ("softmax_token_choice", "random", "dense")
    asked = {"routers": routers, "seeds": 2, "sweep": {"router.capacity_factor": (1.0, 2.0)}}
    plain = trial_specs(make_request(load_preset("smoke"), **asked).preset)
    both = trial_specs(make_request(load_preset("smoke"), **asked, aa_replicates=True).preset)
    assert [spec for spec in both if not spec.twin] == plain
    replicates = [spec for spec in both if spec.twin]
    assert [spec.model_copy(update={"twin": 0}) for spec in replicates] == [
        spec for spec in plain if spec.router.name != "dense"
    ]
    seeds = [spec.seed for spec in both]
    assert seeds == sorted(seeds), "a run that is cut short must leave a balanced comparison"
    by_label = dict(zip(labels(both), both, strict=False))
    assert "softmax_token_choice (twin) router.capacity_factor=2.0" in by_label
    assert not any("dense (twin)" in label for label in by_label)


@pytest.mark.parametrize(("parent", "number"), [("softmax_token_choice", 1), ("dense", 0)])
def test_a_derived_replicate_starts_from_its_parents_replicate_if_there_is_one(parent, number):
    smoke = load_preset("smoke")
    derived = PresetPart(
        routers=("soft_moe",), parent=ParentConfig(router=parent, transform="fine_tune")
    )
    preset = smoke.model_copy(
        update={"parts": (PresetPart(routers=(parent,)), derived), "twins": True, "seeds": 1}
    )
    specs = trial_specs(preset)
    child = next(spec for spec in specs if spec.twin and spec.parent)
    assert child.parent is not None
    assert child.parent.twin == number
    assert specs.index(child.parent) < specs.index(child)


def test_replicates_of_baselines_alone_are_refused() -> None:
    with pytest.raises(RequestError, match="--aa retrains every router but baselines"):
        make_request(load_preset("tiny"), routers=["dense", "dense_params"], aa_replicates=True)
