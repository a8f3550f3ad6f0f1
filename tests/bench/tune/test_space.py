"""The search space of a router."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from bench.config.presets import load_preset
from bench.tune.space import contenders
from routers import ROUTERS, Range, Router, register_router
from routers.errors import RequestError
from routers.hyper import hyper
from tests.bench.tune.conftest import preset_of

pytestmark = pytest.mark.slow


def test_the_space_has_shared_ranges_and_the_routers_own_unless_set() -> None:
    preset = preset_of(["softmax_token_choice", "dense"], settings={"router.noise_std": 1.0})
    router, dense = contenders(preset, 0)
    assert set(router.space) == {"train.lr", "train.weight_decay", "router.batch_priority"}
    assert set(dense.space) == {"train.lr", "train.weight_decay"}
    lr = dense.space["train.lr"]
    assert isinstance(lr, FloatDistribution)
    assert (lr.low, lr.high, lr.log) == (3e-4, 1e-2, True)
    batch_priority = router.space["router.batch_priority"]
    assert isinstance(batch_priority, CategoricalDistribution)
    assert batch_priority.choices == (False, True)


def test_the_space_includes_the_ranges_of_the_affinity() -> None:
    path = "router.affinity_options.initial_scale"
    scale = FloatDistribution(1.0, 30.0, log=True)
    plain = preset_of(["soft_moe", "softmax_token_choice"]).model_copy(update={"router": {}})
    soft, other = contenders(plain, 0)
    assert (soft.space[path], path in other.space) == (scale, False)
    cosine = plain.model_copy(update={"router": {"affinity": "cosine"}})
    names = {name for each in contenders(cosine, 0) for name in each.space}
    assert "router.affinity_options.temperature" in names
    assert path not in names
    # A value in a preset is fixed, unless the preset's ranges name it.
    sharp = plain.model_copy(update={"router": {"affinity_options": {"initial_scale": 10.0}}})
    assert path not in contenders(sharp, 0)[0].space
    ranges = {path: {"low": 1, "high": 30, "log": True}, "train.lr": {"low": 1e-3, "high": 1e-2}}
    named = preset_of(["soft_moe", "softmax_token_choice"], ranges=ranges)
    soft, other = contenders(named.model_copy(update={"router": sharp.router}), 0)
    assert (soft.space[path], path in other.space) == (scale, False)
    (other,) = contenders(preset_of(["softmax_token_choice"], ranges=ranges), 0)
    assert set(other.space) == {"train.lr", "router.noise_std", "router.batch_priority"}
    assert set(contenders(preset_of(["dense"], ranges=ranges), 0)[0].space) == {"train.lr"}


def test_swept_or_given_settings_are_not_searched() -> None:
    preset = preset_of(["softmax_token_choice"])
    preset = preset.model_copy(update={"sweep": {"router.noise_std": (1.0, 0.0)}})
    (contender,) = contenders(preset, 0, {"train.lr"})
    assert not {"router.noise_std", "train.lr"} & set(contender.space)
    assert contender.preset.router["noise_std"] == 1.0  # the first value of the sweep


def test_the_range_of_an_integer_has_only_integers() -> None:
    ranges = {"train.batch_size": {"low": 16, "high": 64, "log": True}}
    (contender,) = contenders(preset_of(["dense"], ranges=ranges), 0)
    assert contender.space["train.batch_size"] == IntDistribution(16, 64, log=True)


def test_the_declaration_decides_whether_a_number_is_an_integer() -> None:
    ranges = {"router.top_k": {"low": 1, "high": 3}, "router.noise_std": {"low": 0, "high": 1}}
    preset = preset_of(["softmax_token_choice"], ranges=ranges)
    preset = preset.model_copy(update={"router": {"noise_std": 1}})
    (contender,) = contenders(preset, 0)
    assert contender.space["router.top_k"] == IntDistribution(1, 3)
    assert contender.space["router.noise_std"] == FloatDistribution(0, 1)


def test_a_shared_range_applies_to_the_routers_that_have_the_hyper_parameter() -> None:
    lr, top_k = {"low": 1e-3, "high": 1e-2}, {"low": 1, "high": 3}
    preset = preset_of(["random", "dense"], ranges={"train.lr": lr, "router.top_k": top_k})
    random, dense = contenders(preset, 0)
    assert set(random.space) == {"train.lr", "router.top_k"}
    assert set(dense.space) == {"train.lr"}


def test_a_wrongly_declared_range_of_a_router_is_named() -> None:
    @register_router("backwards", family="token_choice")
    class Backwards(Router):
        """A router whose range ends before it begins."""

        temperature: float = hyper(0.5, "Of it.", tune=Range(2.0, 0.1))

    try:
        with pytest.raises(
            RequestError, match=r"router\.temperature declares no valid range.*low=2\.0"
        ):
            contenders(preset_of(["backwards"]), 0)
    finally:
        ROUTERS.discard("backwards")


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"train.lrr": {"low": 1, "high": 2}}, r"no setting 'train\.lrr'.*'train\.lr'"),
        ({"train.ema": {"low": 0.5, "high": 2.0}}, r"tuning dense: tune\.ranges: train\.ema = 2"),
        ({"train.precision": {"options": ["float32", "f8"]}}, r"train\.precision = 'f8'"),
        ({"train.batch_size": {"low": 0.5, "high": 64}}, "batch_size is a whole number.*0.5 to 64"),
        ({"train.epochs": {"low": 1, "high": 4}}, r"train\.epochs is the same for every router"),
        (
            {"router.affinity_options.initial_scal": {"low": 1, "high": 2}},
            r"none of the affinities .* did you mean 'router\.affinity_options\.initial_scale'",
        ),
        ({"data.name": {"options": ["digits"]}}, r"data\.name is the same for every router"),
        ({"compute.match": {"options": ["steps"]}}, r"compute\.match is the same for every router"),
        (
            {"router.top_k": {"low": 1, "high": 2}},
            r"no.* routers has 'router\.top_k'",
        ),
        ({}, "nothing is left to tune for router 'dense'"),
    ],
)
def test_a_range_that_fits_no_setting_is_refused(ranges: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        contenders(preset_of(["dense"], ranges=ranges), 0)


@pytest.mark.parametrize(
    "where", [{"low": 2.0, "high": 1.0}, {"low": 0.0, "high": 1.0, "log": True}, {"options": []}]
)
def test_an_invalid_range_is_refused(where: Any) -> None:
    with pytest.raises(RequestError, match=r"tune\.ranges"):
        preset_of(["dense"], ranges={"train.lr": where})


def test_a_router_of_several_parts_or_with_a_parent_cannot_be_tuned() -> None:
    smoke = load_preset("smoke")
    with pytest.raises(RequestError, match="'mumoe' is in 3 parts of preset 'smoke'"):
        contenders(smoke.model_copy(update={"parts": smoke.parts[2:5]}), 0)
    derived = smoke.parts[6].model_copy(update={"routers": ("softmax_mixture",)})
    with pytest.raises(RequestError, match="'softmax_mixture' starts from 'attentive'"):
        contenders(smoke.model_copy(update={"parts": (smoke.parts[5], derived)}), 0)
