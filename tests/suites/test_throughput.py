from __future__ import annotations

import gc
import math

import numpy as np
import pytest
import torch
from torch import nn

from suites import build_suite
from suites.support.timing import kept_for_backward, one_pass, router_calls
from suites.throughput import SHAPES, timed

QUICK = {"seconds": 0.0, "min_repeats": 2, "max_load": None}
WHERE = {"scope": "layer", "shape": "B", "batch": 64, "tokens": 49}


def test_shapes_follow_the_definitions():
    assert SHAPES == {"A": (8, 196, 384, 1536), "B": (64, 49, 96, 192)}


def test_rates_and_overhead_follow_from_the_times():
    times = {"ours": np.array([3.0, 1.0, 2.0]), "dense": np.array([1.0, 0.5, 4.0])}
    got = {(m.name, m.where.get("quantile")): m for m in timed("forward", times, WHERE)}
    values = {place: metric.value for place, metric in got.items()}
    assert values["forward_ms", 0.5] == 2.0
    assert values["forward_ms", 0.9] == pytest.approx(2.8)
    assert values["forward_dense_ms", None] == 1.0
    assert values["forward_overhead", None] == 2.0
    assert values["forward_overhead_low", None] <= 2.0 <= values["forward_overhead_high", None]
    assert values["images_per_s", None] == 32_000
    assert values["tokens_per_s", None] == 32_000 * 49
    assert values["forward_repeats", None] == 3
    assert "router_forward_ms" not in {name for name, _ in values}


@pytest.mark.parametrize(("repeats", "quantiles"), [(999, {0.5, 0.9}), (1000, {0.5, 0.9, 0.99})])
def test_the_99th_percentile_is_shown_from_1000_repeats_on(repeats, quantiles):
    times = {"ours": np.linspace(1, 2, repeats), "dense": np.ones(repeats)}
    ms = [m for m in timed("train", times, WHERE) if m.name == "train_ms"]
    assert {m.where["quantile"] for m in ms} == quantiles


def test_router_calls_are_recorded_and_replayed(layers):
    model = layers("softmax_token_choice").model()
    images = torch.randn(2, 1, 12, 8)
    seen = []
    handle = model.layers[1].router.register_forward_hook(lambda *call: seen.append(call[2]))
    calls = router_calls(model, images)
    handle.remove()
    assert len(calls) == 2
    (expected,) = seen
    assert torch.equal(calls[1]().gates, expected.gates)
    assert not router_calls(layers("dense").model(), images)
    assert not any(part._forward_hooks for part in model.modules())


def test_a_training_pass_reaches_parameters_and_input_and_leaves_no_gradients(layers):
    layer = layers("softmax_token_choice").layer(2, 12, 8, 16, 4)
    x = torch.randn(2, 12, 8).requires_grad_()
    reached = []
    for leaf in (x, *layer.parameters()):
        leaf.register_post_accumulate_grad_hook(lambda leaf: reached.append(leaf.shape))
    run = one_pass("train", layer, x)
    assert layer.training
    run()
    assert x.shape in reached
    assert layer.router.gate.weight.shape in reached
    assert x.grad is None
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_a_forward_pass_is_in_eval_mode_and_records_no_gradient(layers):
    layer = layers("softmax_token_choice").layer(2, 12, 8, 16, 4)
    y = one_pass("forward", layer, torch.randn(2, 12, 8).requires_grad_())()
    assert not layer.training
    assert not y.requires_grad


def test_activation_memory_counts_each_storage_once_without_weights():
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8, bias=False))
    x = torch.randn(5, 8, requires_grad=True)
    with kept_for_backward(module) as kept:
        y = module(x)
    # The input, and the output of the ReLU, which it shares with the next layer.
    assert sum(kept.values()) == 4 * 5 * (8 + 16)
    with kept_for_backward(module) as without, torch.no_grad():
        module(x)
    assert not without
    assert y.requires_grad


def test_memory_is_that_of_weights_and_saved_activations(layers):
    results = list(build_suite("throughput", **QUICK, model_batch=0).measure(layers("dense")))
    values = {r.name: r.value for r in results}
    assert values["parameter_bytes"] == 4 * (2 * 96 * 192 + 96 + 192)
    assert values["kept_bytes"] == 4 * 64 * 49 * (96 + 2 * 192)  # GELU keeps its input


def test_measurements_state_their_shape_and_number_of_passes(layers):
    threads = torch.get_num_threads()
    suite = build_suite("throughput", **QUICK, model_batch=3)
    results = list(suite.measure(layers("softmax_token_choice")))
    assert torch.get_num_threads() == threads
    assert gc.isenabled()
    medians = [r for r in results if r.where.get("quantile") == 0.5]
    layer = {"scope": "layer", "shape": "B", "batch": 64, "tokens": 49, "dim": 96, "hidden": 192}
    model = {"scope": "model", "shape": "model", "batch": 3, "tokens": 12, "dim": 8, "hidden": 16}
    common = {"num_experts": 4, "threads": 1, "quantile": 0.5}
    assert [(r.name, r.where) for r in medians] == [
        ("forward_ms", layer | common),
        ("train_ms", layer | common),
        ("forward_ms", model | common),
        ("train_ms", model | common),
    ]
    rows = [r.value for r in results if r.name == "forward_dense_rows"]
    assert rows == [64 * 4 * math.ceil(49 / 4)]
    assert all(r.value > 0 for r in results)


def test_sweeps_vary_one_dimension_at_a_time_and_repeat_no_point():
    suite = build_suite(
        "throughput", shapes=["A", "B"], sweep_experts=[8, 32], sweep_tokens=[49], sweep_batch=[1]
    )
    names = [point.shape for point in suite.points(8)]
    assert names == [
        "A",
        "A num_experts=32",
        "A tokens=49",
        "A batch=1",
        "B",
        "B num_experts=32",
        "B batch=1",
    ]
    swept = suite.points(8)[1]
    assert (swept.num_experts, swept.batch, swept.tokens, swept.dim) == (32, 8, 196, 384)
    assert {point.num_experts for point in build_suite("throughput", experts=16).points(8)} == {16}


def test_a_dense_model_is_timed_without_a_router(layers):
    results = list(build_suite("throughput", **QUICK, model_batch=0).measure(layers("dense")))
    names = {r.name for r in results}
    assert "forward_overhead" in names
    assert "router_forward_ms" not in names
    assert {r.where["scope"] for r in results} == {"layer"}
