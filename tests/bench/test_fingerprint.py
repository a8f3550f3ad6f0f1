"""A fingerprint changes with what a trial depends on, and with nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.config.presets import load_preset
from bench.config.schema import RouterConfig, TrialSpec
from bench.plan.definitions import Code, Definition, Definitions
from bench.plan.expand import trial_specs
from bench.plan.fingerprint import Fingerprints, components_of, layer_description
from suites import SUITES


def spec_of(router: str) -> TrialSpec:
    return next(s for s in trial_specs(load_preset("smoke")) if s.router.name == router)


def sources_of(spec: TrialSpec, kind: str) -> set[str]:
    parts = Fingerprints().trial(spec, lambda _: "data").parts
    return {name for part in parts if part.kind == kind for name in part.definitions}


def test_a_router_does_not_depend_on_other_routers_or_on_commands() -> None:
    spec = spec_of("softmax_token_choice")
    everything = set().union(*(sources_of(spec, kind) for kind in ("router", "protocol")))
    assert {"SoftmaxTokenChoice", "TokenChoiceRouting", "train_trial", "MoELayer"} <= everything
    assert {"learning_rate", "Augment", "training_indices", "LazyImages", "Split"} <= everything
    assert not everything & {"SoftMoE", "Hash", "load_preset", "make_plan", "Store", "explain"}


def test_a_wide_baseline_depends_on_the_experts_whose_parameters_it_matches() -> None:
    spec = spec_of("dense")
    wide = spec.model_copy(update={"router": RouterConfig(name="dense_params")})
    assert [entry.name for entry in components_of(wide)] == ["dense_params", "mlp"]


def test_each_part_of_a_trial_changes_its_fingerprint() -> None:
    fingerprints = Fingerprints()
    spec = spec_of("softmax_token_choice")
    changed = [
        spec.model_copy(update={"seed": 1}),
        spec.model_copy(update={"train": spec.train.model_copy(update={"lr": 1.0})}),
        spec.model_copy(update={"data": spec.data.model_copy(update={"channels": 3})}),
        spec_of("random"),
    ]
    values = [fingerprints.trial(each, lambda _: "data").value for each in (spec, *changed)]
    values.append(fingerprints.trial(spec, lambda _: "other data").value)
    assert len(set(values)) == len(values)
    assert (
        fingerprints.trial(spec, lambda _: "data").value
        == Fingerprints().trial(spec, lambda _: "data").value
    )


def test_an_affinity_option_changes_only_the_trials_that_have_it() -> None:
    preset = load_preset("tiny").model_copy(update={"router": {}})
    options = {"affinity_options": {"initial_scale": 10.0}}
    sharp = preset.model_copy(update={"router": options})
    fingerprints = Fingerprints()
    changed = {
        before.router.name
        for before, after in zip(trial_specs(preset), trial_specs(sharp), strict=True)
        if fingerprints.trial(before, lambda _: "data")
        != fingerprints.trial(after, lambda _: "data")
    }
    assert changed == {"soft_moe"}


def test_the_location_of_the_data_does_not_change_a_fingerprint() -> None:
    spec = spec_of("soft_moe")
    moved = spec.model_copy(update={"data": spec.data.model_copy(update={"data_dir": "/there"})})
    fingerprints = Fingerprints()
    assert (
        fingerprints.trial(spec, lambda _: "d").value
        == fingerprints.trial(moved, lambda _: "d").value
    )


def test_the_fingerprint_of_a_trial_covers_its_components() -> None:
    names = {(entry.kind, entry.name) for entry in components_of(spec_of("soft_moe"))}
    assert names == {
        ("router", "soft_moe"),
        ("affinity", "soft"),
        ("experts", "mlp"),
        ("loss", "importance"),
    }
    assert [entry.name for entry in components_of(spec_of("dense"))] == ["dense"]


def test_the_fingerprint_of_a_layer_ignores_training_seed_and_losses() -> None:
    spec = spec_of("soft_moe")
    fingerprints = Fingerprints()
    trained_otherwise = spec.model_copy(
        update={"seed": 3, "train": spec.train.model_copy(update={"lr": 1.0, "losses": {}})}
    )
    layer = fingerprints.layer(spec)
    assert layer.value == fingerprints.layer(trained_otherwise).value
    assert layer.value != fingerprints.layer(spec_of("random")).value
    assert layer_description(spec).keys() == {"router", "experts", "model", "data"}
    assert "loss" not in {part.kind for part in layer.parts}


@pytest.mark.parametrize("name", ["TrainedTrial", "model_stats", "trial_model"])
def test_measurements_depend_on_the_code_that_suites_are_given(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured() -> tuple[str, str, str]:
        fingerprints = Fingerprints()
        suites = (fingerprints.suite(SUITES.get(name)) for name in ("accuracy", "throughput"))
        return fingerprints.layer(spec_of("soft_moe")).value, *suites

    def changed(definitions: Definitions, roots: Iterable[Definition]) -> Code:
        digests = code(definitions, roots)
        others = {("changed", "digest") if each[0] == name else each for each in digests.digests}
        return replace(digests, digests=frozenset(others))

    before, code = measured(), Definitions.code
    assert measured() == before
    monkeypatch.setattr(Definitions, "code", changed)
    assert not set(measured()) & set(before)


def test_pretrained_weights_count_by_content_not_by_location(tmp_path: Path) -> None:
    spec = next(iter(trial_specs(load_preset("smoke"))))

    def value(file: Path | None) -> str:
        model = spec.model.model_copy(update={"weights": file and str(file)})
        with_file = spec.model_copy(update={"model": model})
        return Fingerprints().trial(with_file, lambda data: "data").value

    first, moved, other = (tmp_path / name / "a.pth" for name in ("one", "two", "three"))
    for file, content in ((first, b"weights"), (moved, b"weights"), (other, b"others")):
        file.parent.mkdir()
        file.write_bytes(content)
    assert len({value(file) for file in (None, first, other)}) == 3
    assert value(moved) == value(first)
