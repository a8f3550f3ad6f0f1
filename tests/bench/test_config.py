"""Presets and overrides: trials have exactly the requested settings, or one message says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from bench.config.overrides import override, settings_of, sweep_of
from bench.config.presets import Preset, load_preset, preset_names
from bench.config.schema import TrialSpec
from bench.plan.expand import trial_specs
from bench.plan.plan import make_request
from routers import ROUTERS, Baseline, Registry
from routers.errors import RequestError


@pytest.fixture
def smoke() -> Preset:
    return load_preset("smoke")


def specs(preset: Preset, **settings: object) -> list[TrialSpec]:
    return trial_specs(override(preset, settings))


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves(name: str) -> None:
    preset = load_preset(name)
    resolved = trial_specs(preset)
    assert preset.name == name
    assert len({spec.model_dump_json() for spec in resolved}) == len(resolved)
    of_patches = [spec for spec in resolved if spec.model.name != "image_classifier"]
    trained = set(preset.suites) != {"throughput"}
    for spec in of_patches:
        tokens = (spec.model.options["img_size"] // _patch(spec)) ** 2
        # In MoE++ the capacity is a different share of the tokens for each kind of expert.
        alike = spec.experts.name != "heterogeneous"
        if trained and alike and "capacity_factor" in spec.router.options:
            assert tokens % spec.experts.num_experts == 0
        if spec.model.name.startswith("vit"):
            assert spec.model.options["class_token"] is False


def _patch(spec: TrialSpec) -> int:
    named = {"vit_small_patch32_224": 32, "vit_base_patch32_224": 32, "vit_base_patch16_224": 16}
    return spec.model.options.get("patch_size") or named[spec.model.name]


def test_routers_all_adds_every_router_to_the_preset_smoke(smoke: Preset) -> None:
    every = make_request(smoke, routers=("all",)).preset
    assert {spec.router.name for spec in trial_specs(every)} == set(ROUTERS.names())
    assert len(trial_specs(every)) > len(trial_specs(smoke))


def test_the_preset_study_is_the_grid_of_the_paper() -> None:
    resolved = trial_specs(load_preset("study"))
    grid = {
        (spec.model.name, spec.router.options["capacity_factor"])
        for spec in resolved
        if spec.router.name == "soft_moe"
    }
    assert len(grid) == 6
    routed = [spec for spec in resolved if spec.router.name != "dense"]
    assert {spec.experts.num_experts for spec in routed} == {32}


def test_a_set_value_reaches_every_trial(smoke: Preset) -> None:
    assert {spec.train.lr for spec in specs(smoke, **{"train.lr": 0.5})} == {0.5}
    deeper = specs(smoke, **{"model.options.depth": 3})
    depths = {s.model.options["depth"] for s in deeper if s.model.name != "image_classifier"}
    assert depths == {3}


def test_a_router_setting_reaches_only_the_routers_that_have_it(smoke: Preset) -> None:
    for spec in specs(smoke, **{"router.noise_std": 0.25}):
        has_it = "noise_std" in ROUTERS.get(spec.router.name).hyper_model.model_fields
        assert spec.router.options.get("noise_std") == (0.25 if has_it else None)


def test_an_affinity_option_reaches_only_the_routers_whose_affinity_has_it(smoke: Preset) -> None:
    whole = smoke.model_copy(update={"parts": (), "router": {}})
    set_ = specs(whole, **{"router.affinity_options.initial_scale": 5})
    options = {spec.router.name: spec.router.options.get("affinity_options") for spec in set_}
    assert options.pop("soft_moe") == {"initial_scale": 5.0}
    assert not any(options.values())
    # Nothing changes for the others, so they remain the same trials.
    before = [spec for spec in trial_specs(whole) if spec.router.name != "soft_moe"]
    assert [spec for spec in set_ if spec.router.name != "soft_moe"] == before
    both = {"router.affinity": "cosine", "router.affinity_options": {"width": 4}}
    (cosine, _) = (
        spec for spec in specs(whole, **both) if spec.router.name in ("soft_moe", "frozen")
    )
    assert cosine.router.options["affinity_options"] == {"width": 4}


def test_unset_options_are_filled_in_with_their_defaults(smoke: Preset) -> None:
    for spec in trial_specs(smoke):
        assert (
            spec.router.options.keys()
            == ROUTERS.get(spec.router.name).hyper_model.model_fields.keys()
        )
    weighed = {"train.losses.importance": 0.5, "train.losses.z": 0.1}
    moe = specs(smoke, **weighed)[0]
    assert moe.train.losses == {"importance": 0.5, "z": 0.1}
    assert moe.train.loss_options.keys() == {"importance", "z"}


def test_a_baseline_has_no_router_options_and_no_auxiliary_losses(smoke: Preset) -> None:
    dense = next(spec for spec in trial_specs(smoke) if spec.router.name == "dense")
    assert (dense.router.options, dense.train.losses) == ({}, {})
    assert issubclass(ROUTERS.get("dense").target, Baseline)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("lr", "'train.lr'"),
        ("train.lrr", "'train.lr'"),
        ("router.topk", "'router.top_k'"),
        ("data.augment.flop", "'data.augment.flip'"),
        ("experts.num_expert", "'experts.num_experts'"),
        ("train.losses.importanc", "'importance'"),
        ("experts.options.hiden", "'hidden'"),
        ("router.affinity_options.initial_scal", "'router.affinity_options.initial_scale'"),
        ("sweep.x", "available: compute.match"),
        ("train.lr.x", "there is no setting 'train.lr.x'"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(
    smoke: Preset, path: str, hint: str
) -> None:
    with pytest.raises(RequestError) as raised:
        specs(smoke, **{path: 1})
    assert hint in str(raised.value)
    assert path.rpartition(".")[2] in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.lr", "fast", "train.lr = 'fast'"),
        ("train.batch_size", 0, "train.batch_size = 0"),
        ("compute.match", "memory", "'wall_clock' or 'steps'"),
        ("model.layers", "last", "model.layers = 'last'"),
        ("router.top_k", 0, "top_k = 0"),
        ("router.top_k.x", 1, "'top_k' is a value"),
        ("router.affinity_options.initial_scale", 0, "initial_scale = 0"),
        ("router.affinity", "softt", "no affinity is named 'softt'"),
        ("train.losses.importance", "much", "train.losses"),
        ("train.loss_options.z", {}, "'z', which has no weight"),
    ],
)
def test_an_invalid_value_is_named(smoke: Preset, path: str, value: object, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        specs(smoke, **{path: value})
    assert message in str(raised.value)


def test_a_router_setting_that_no_chosen_router_has_is_refused(smoke: Preset) -> None:
    with pytest.raises(RequestError, match=r"none of the chosen routers has 'router\.num_slots'"):
        make_request(smoke, routers=["softmax_token_choice"], settings={"router.num_slots": 2})
    with pytest.raises(RequestError, match="baselines have no hyper-parameters"):
        make_request(smoke, routers=["dense"], sweep={"router.top_k": (1, 2)})
    for settings in (
        ("router.affinity_options.initial_scale", 5),
        (
            "router.affinity_options",
            {"initial_scale": 5},
        ),
    ):
        with pytest.raises(RequestError, match=r"none of the affinities linear has '.*scale'"):
            make_request(smoke, routers=["softmax_token_choice"], settings=dict([settings]))


def test_preset_settings_apply_to_whichever_routers_are_chosen(smoke: Preset) -> None:
    (dense,) = trial_specs(make_request(smoke, routers=["dense"]).preset)
    assert dense.router.options == {}


def test_values_are_parsed_as_yaml() -> None:
    texts = ["train.lr=1e-3", "train.ema=null", "model.layers=[1, 3]", "data.name=imagefolder:/a=b"]
    assert settings_of(texts) == {
        "train.lr": 1e-3,
        "train.ema": None,
        "model.layers": [1, 3],
        "data.name": "imagefolder:/a=b",
    }
    assert sweep_of(["router.affinity=linear,cosine", "model.layers=last2,[1,3]"]) == {
        "router.affinity": ("linear", "cosine"),
        "model.layers": ("last2", [1, 3]),
    }


@pytest.mark.parametrize("text", ["train.lr", "=3", "train.lr=[1"])
def test_a_malformed_set_option_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--set"):
        settings_of([text])


def test_a_sweep_takes_every_combination_of_values_that_a_router_has(smoke: Preset) -> None:
    sweep = {"router.affinity": ("linear", "cosine"), "router.capacity_factor": (1, 2)}
    request = make_request(smoke, routers=["softmax_token_choice", "random", "dense"], sweep=sweep)
    combinations = [
        (spec.router.name, spec.router.options.get("affinity"), options.get("capacity_factor"))
        for spec in trial_specs(request.preset)
        for options in [spec.router.options]
    ]
    chosen = [
        ("softmax_token_choice", affinity, factor)
        for affinity in ("linear", "cosine")
        for factor in (1.0, 2.0)
    ]
    assert set(combinations) == {
        *chosen,
        ("random", None, 1.0),
        ("random", None, 2.0),
        ("dense", None, None),
    }
    assert len(combinations) == 7


def test_one_seed_of_every_router_comes_before_the_next_seed(smoke: Preset) -> None:
    request = make_request(smoke, seeds=3, sweep={"experts.num_experts": (2, 4)})
    seeds = [spec.seed for spec in trial_specs(request.preset)]
    once = len(seeds) // 3
    assert once > 16
    assert seeds == [0] * once + [1] * once + [2] * once


def test_an_unknown_name_is_refused_with_the_nearest_one(smoke: Preset) -> None:
    with pytest.raises(RequestError, match="did you mean 'smoke'"):
        load_preset("smok")
    with pytest.raises(RequestError, match="did you mean 'soft_moe'"):
        trial_specs(make_request(smoke, routers=["softmoe"]).preset)
    with pytest.raises(RequestError, match="did you mean 'balance'"):
        make_request(smoke, suites=["balanse"])


def test_a_preset_can_be_a_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("description: mine\nrouters: [dense]\ntrain: {lr: 1e-4}\n")
    preset = load_preset(str(file))
    assert (preset.name, preset.train.lr) == ("mine", 1e-4)
    file.write_text("description: mine\nrouters: [dense]\ntrain: {leaning_rate: 1}\n")
    with pytest.raises(RequestError, match=r"no setting 'train\.leaning_rate'"):
        load_preset(str(file))
    file.write_text("[1, 2")
    with pytest.raises(RequestError, match="not valid YAML"):
        load_preset(str(file))
    with pytest.raises(RequestError, match="cannot read the preset"):
        load_preset(str(tmp_path / "other.yaml"))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_32_bits_is_refused(seed: int) -> None:
    spec = specs(load_preset("smoke"))[0].model_dump()
    with pytest.raises(ValidationError, match="seed"):
        TrialSpec.model_validate({**spec, "seed": seed})


def test_a_component_seed_outside_32_bits_is_refused() -> None:
    seeded = [
        entry
        for registry in Registry.instances
        for entry in registry.entries()
        if "seed" in entry.hyper_model.model_fields
    ]
    assert {"random", "hash", "entropy"} <= {entry.name for entry in seeded}
    for entry in seeded:
        assert entry.validate({"seed": 2**32 - 1})["seed"] == 2**32 - 1
        with pytest.raises(RequestError, match=f"seed = {2**32} is not valid"):
            entry.validate({"seed": 2**32})


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_written_by_a_report_gives_the_same_trials(name: str, tmp_path: Path) -> None:
    """The request of a study has every setting resolved, including tuned ones."""
    preset = load_preset(name)
    file = tmp_path / "preset.yaml"
    file.write_text(yaml.safe_dump(preset.model_dump(mode="json"), sort_keys=False))
    assert load_preset(str(file)).model_dump(exclude={"name"}) == preset.model_dump(
        exclude={"name"}
    )
    assert trial_specs(load_preset(str(file))) == trial_specs(preset)
