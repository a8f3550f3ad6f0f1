"""FLOPs computed by hand, compared with torch's own counter, and matched between routers."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench.compute import FlopCounter, count_flops
from bench.compute.budget import ComputeUsed, Cost, match_compute, parameters_of
from bench.compute.estimates import estimate
from bench.data import DataShape
from bench.data.batches import TrainingBatches
from bench.model import MoELayer, ReplacedMLP, build_experts
from bench.model.build import trial_model
from bench.model.objective import Objective
from bench.train.step import Trainer, resolve_budget
from routers import ROUTERS, build_router

CPU = torch.device("cpu")


def budget_of(spec, dataset):
    return resolve_budget(spec, dataset, TrainingBatches(spec, dataset, CPU), CPU)


def kinds(function, *inputs, backward=False):
    report = count_flops(function, *inputs, backward=backward)
    assert report.uncounted == {}
    assert report.total == sum(report.by_kind.values())
    return report.by_kind


# By hand


def test_flops_of_a_linear_layer_include_its_bias():
    n, d, h = 5, 7, 11
    assert kinds(nn.Linear(d, h), torch.randn(n, d)) == {"matmul": 2 * n * d * h + n * h}
    assert kinds(nn.Linear(d, h, bias=False), torch.randn(n, d)) == {"matmul": 2 * n * d * h}


def test_flops_of_the_backward_pass_of_a_linear_layer():
    n, d, h = 5, 7, 11
    x = torch.randn(n, d, requires_grad=True)
    forward, to_input, to_weight, to_bias = (
        2 * n * d * h + n * h,
        2 * n * d * h,
        2 * n * d * h,
        n * h,
    )
    assert kinds(nn.Linear(d, h), x, backward=True) == {
        "matmul": forward + to_input + to_weight,
        "reduction": to_bias,
    }
    # An input that needs no gradient costs nothing.
    alone = kinds(nn.Linear(d, h), x.detach(), backward=True)
    assert alone["matmul"] == forward + to_weight


def test_flops_of_an_mlp_with_gelu():
    n, d, h = 6, 8, 16
    mlp = nn.Sequential(nn.Linear(d, h), nn.GELU(), nn.Linear(h, d))
    x = torch.randn(n, d, requires_grad=True)
    products = 2 * n * d * h
    assert kinds(mlp, x) == {"matmul": 2 * products + n * h + n * d, "elementwise": 5 * n * h}
    assert kinds(mlp, x, backward=True) == {
        "matmul": 6 * products + n * h + n * d,
        "elementwise": (5 + 11) * n * h,
        "reduction": n * h + n * d,
    }


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.softmax(-1), {"softmax": 5 * 60}),
        (lambda x: x.log_softmax(0), {"softmax": 5 * 60}),
        (lambda x: x.logsumexp(1), {"softmax": 4 * 60}),
        (lambda x: F.layer_norm(x, (5,)), {"norm": 8 * 60}),
        (lambda x: x.sum(), {"reduction": 60}),
        (lambda x: x.cumsum(0), {"reduction": 60}),
        (lambda x: x.var(), {"reduction": 4 * 60}),
        (lambda x: (x * x + 1).exp(), {"elementwise": 3 * 60}),
        (lambda x: x.sort().values, {"sort": 60 * 3}),
        (lambda x: x.sort(dim=0, stable=True).values, {"sort": 60 * 4}),
        (lambda x: x.topk(2).values, {"sort": 60}),
        (lambda x: x.topk(4).values, {"sort": 2 * 60}),
        (lambda x: x > 0, {"elementwise": 60}),
        (lambda x: x.t().contiguous()[:2].repeat(2, 1), {}),
        (lambda x: torch.where(x > 0, x, 0.0), {"elementwise": 60}),
        (lambda x: x.long().cumsum(0).sort().values + 1, {}),
    ],
)
def test_flops_of_operations_other_than_products(function, expected):
    assert kinds(function, torch.randn(12, 5)) == expected


def test_flops_of_the_backward_pass_of_softmax_and_layer_norm():
    x = torch.randn(12, 5, requires_grad=True)
    assert kinds(lambda x: x.softmax(-1), x, backward=True) == {"softmax": (5 + 4) * 60}
    x = x.detach().requires_grad_()
    assert kinds(nn.LayerNorm(5), x, backward=True) == {"norm": (8 + 13) * 60}


def test_attention_has_the_same_flops_fused_or_not():
    b, h, t, d = 2, 3, 10, 4
    q, k, v = torch.randn(3, b, h, t, d)
    products, scores = 2 * 2 * b * h * t * t * d, b * h * t * t
    fused = kinds(F.scaled_dot_product_attention, q, k, v)
    assert fused == {"attention": products + 6 * scores}
    by_hand = kinds(lambda: (q @ k.transpose(-1, -2) / math.sqrt(d)).softmax(-1) @ v)
    assert sum(by_hand.values()) == fused["attention"]


def test_flops_of_the_backward_pass_of_fused_attention():
    b, h, t, d = 2, 3, 10, 4
    q, k, v = torch.randn(3, b, h, t, d, requires_grad=True)
    product, scores = 2 * b * h * t * t * d, b * h * t * t
    # It recomputes the scores, then takes four products: for V, the weights, Q and K.
    backward = 5 * product + 9 * scores + 2 * b * h * t * d
    counted = kinds(F.scaled_dot_product_attention, q, k, v, backward=True)
    assert counted["attention"] == 2 * product + 6 * scores + backward


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (2, 1)])
def test_flops_of_convolutions(groups, stride):
    conv = nn.Conv2d(4, 6, 3, stride=stride, groups=groups)
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    out = conv(x)
    product = 2 * out.numel() * (4 // groups) * 9
    assert kinds(conv, x) == {"matmul": product + out.numel()}
    assert kinds(conv, x, backward=True) == {"matmul": 3 * product + 2 * out.numel()}
    if groups == 1:  # torch's own formula counts a grouped gradient as if it were not grouped
        plain = nn.Conv2d(4, 6, 3, stride=stride, bias=False)
        with FlopCounterMode(display=False) as theirs:
            plain(x).sum().backward()
        assert kinds(plain, x, backward=True)["matmul"] == theirs.get_total_flops()


def moe_layer(router, d, hidden):
    replaced = ReplacedMLP(d, hidden)
    return MoELayer(router, build_experts("mlp", num_experts=router.num_experts, replaced=replaced))


def test_an_moe_layer_pays_for_every_slot_used_or_not():
    g, t, d, hidden, experts = 2, 10, 8, 16, 4
    router = build_router(
        "softmax_token_choice", dim=d, num_experts=experts, tokens=t, capacity_factor=2.0
    )
    layer = MoELayer(
        router, build_experts("mlp", num_experts=experts, replaced=ReplacedMLP(d, hidden))
    )
    x = torch.randn(g, t, d)
    slots = 5  # ceil(2 · 10 / 4): 40 slots for 20 tokens
    rows = experts * g * slots
    counted = kinds(layer, x)
    gate = 2 * g * t * d * experts
    assert counted["matmul"] == gate + 4 * rows * d * hidden + rows * (hidden + d)
    assert counted["softmax"] == 5 * g * t * experts
    # The activation of every slot, the combine weight times each token's output, and two questions
    # about each token's highest logit: is it finite, and is it a mask?
    assert counted["elementwise"] == 5 * rows * hidden + g * t * d + 4 * g * t
    # The highest logit of each token, for the check and for the choice.
    assert counted["reduction"] == 2 * g * t * experts


def test_unused_slots_cost_as_much_in_the_backward_pass_of_an_expert_layer():
    g, t, d, hidden, experts = 2, 8, 8, 16, 4
    for factor, slots in ((1.0, 2), (2.0, 4)):
        router = build_router(
            "softmax_expert_choice", dim=d, num_experts=experts, tokens=t, capacity_factor=factor
        )
        layer = moe_layer(router, d, hidden)
        x = torch.randn(g, t, d, requires_grad=True)
        rows = experts * g * slots
        gate = 3 * 2 * g * t * d * experts
        products = 3 * 4 * rows * d * hidden
        counted = kinds(layer, x, backward=True)
        assert counted["matmul"] == gate + products + rows * (hidden + d)


def test_iterations_of_a_transport_plan_are_counted():
    def of(iterations):
        options = {"dim": 8, "num_experts": 4, "tokens": 16, "iterations": iterations}
        router = build_router("sinkhorn_token_choice", **options)
        with FlopCounter() as counter:
            router(x)
        assert counter.uncounted == {}
        return counter.total

    x = torch.randn(3, 16, 8)
    ten, twenty, thirty = of(10), of(20), of(30)
    assert thirty - twenty == twenty - ten
    # Each scales rows and columns: at least two products and two sums over the (t, E) plan.
    assert twenty - ten >= 10 * 4 * 3 * 16 * 4


# Against torch


def test_products_are_counted_as_by_torchs_own_counter(tiny_spec, tiny_dataset):
    spec = tiny_spec("soft_moe")
    model = trial_model(spec, tiny_dataset)
    images = torch.randn(3, *tiny_dataset.image_shape)
    with FlopCounterMode(display=False) as theirs:
        model(images)
    ours = count_flops(model, images).by_kind
    # torch leaves out biases, and attention on a CPU.
    assert 0 < ours["matmul"] - theirs.get_total_flops() < 0.05 * ours["matmul"]
    assert ours["attention"] > 0


def test_counts_are_the_same_in_inference_mode(tiny_spec, tiny_dataset):
    model = trial_model(tiny_spec(), tiny_dataset).eval()
    images = torch.randn(3, *tiny_dataset.image_shape)
    expected = count_flops(model, images).by_kind
    with torch.inference_mode():
        assert count_flops(model, images).by_kind == expected


def test_counting_has_no_side_effects(tiny_spec, tiny_dataset):
    model = trial_model(tiny_spec(), tiny_dataset)
    images, labels = TrainingBatches(tiny_spec(), tiny_dataset, CPU).first

    def gradients():
        model.zero_grad()
        Objective(tiny_spec().train)(model, images, labels, step=0).total.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradients()
    with FlopCounter():
        counted = gradients()
    assert all(torch.equal(*pair) for pair in zip(plain, counted, strict=True))


def test_an_operation_without_a_price_is_named():
    report = count_flops(torch.linalg.qr, torch.randn(4, 4))
    assert report.uncounted == {"aten.linalg_qr.default": 1}
    assert report.total == 0


# Matching


@pytest.fixture(scope="module")
def dense(tiny_spec, tiny_dataset):
    return budget_of(tiny_spec("dense"), tiny_dataset)


def test_the_budget_is_what_the_dense_baseline_spends(dense):
    assert dense.steps == dense.dense_steps == 2 * 96 // 16
    assert dense.error(ComputeUsed(dense.flops_budget, dense.steps, 1.0)) == 0
    assert dense.flops_budget == dense.steps * dense.own.flops


@pytest.mark.parametrize("name", ROUTERS.names())
def test_every_router_has_only_priced_operations_and_its_steps_spend_the_budget(
    name, dense, tiny_spec, tiny_dataset
):
    spec = tiny_spec(name, losses={"importance": 0.01})
    trainer = Trainer(spec, tiny_dataset, TrainingBatches(spec, tiny_dataset, CPU), CPU, steps=1)
    counter = FlopCounter()
    trainer.step(0, counter)
    assert counter.uncounted == {}
    own = Cost(counter.total, parameters_of(trainer.model))
    budget = match_compute(spec, 96, lambda of: own if of is spec else dense.own)
    assert budget.flops_budget == dense.flops_budget
    spent = budget.steps * budget.own.flops
    assert abs(spent - budget.flops_budget) <= budget.own.flops / 2
    assert budget.met_by(ComputeUsed(spent, budget.steps, 1.0))


@pytest.mark.parametrize(
    ("own", "steps"), [(100, 60), (50, 120), (70, 86), (1000, 6), (5900, 1), (90_000, 1)]
)
def test_a_router_gets_the_steps_that_spend_the_budget(own, steps, tiny_spec):
    cost = {"dense": 100, "soft_moe": own}
    budget = match_compute(
        tiny_spec("soft_moe", epochs=10), 96, lambda of: Cost(cost[of.router.name], 1)
    )
    assert budget.flops_budget == 6000
    assert budget.steps == steps
    assert budget.error(ComputeUsed(own * steps, steps, 1.0)) == pytest.approx(
        own * steps / 6000 - 1
    )


def test_matching_by_steps_gives_every_router_the_same_steps(tiny_spec):
    cost = {"dense": 100, "soft_moe": 250}
    spec = tiny_spec("soft_moe", match="steps", epochs=10)
    budget = match_compute(spec, 96, lambda of: Cost(cost[of.router.name], 1))
    assert budget.steps == 60
    assert budget.met_by(ComputeUsed(60 * 250, 60, 1.0))
    assert budget.error(ComputeUsed(60 * 250, 66, 1.0)) == pytest.approx(0.1)


# Estimates


@pytest.mark.parametrize("name", ["dense", "dense_params", "softmax_token_choice", "soft_moe"])
def test_an_estimate_needs_no_data_and_is_exact(name, tiny_spec, tiny_dataset):
    spec = tiny_spec(name)
    expected = DataShape(tiny_dataset.image_shape, tiny_dataset.num_classes, 96)
    estimated = estimate(spec, expected)
    assert estimated.exact
    assert estimated.budget == budget_of(spec, tiny_dataset)
    model = trial_model(spec, tiny_dataset)
    assert estimated.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert estimated.checkpoint_bytes == 4 * estimated.parameters
    assert estimated.training_bytes > 16 * estimated.parameters


@pytest.mark.parametrize(
    ("name", "router"),
    [("softmax_token_choice", {"capacity_factor": None}), ("sinkhorn_token_choice", {})],
)
def test_the_estimate_says_if_work_depends_on_the_data(name, router, tiny_spec, tiny_dataset):
    spec = tiny_spec(name, router=router)
    estimated = estimate(spec, DataShape(tiny_dataset.image_shape, 4, 96))
    assert not estimated.exact
    counted = budget_of(spec, tiny_dataset)
    assert estimated.budget.own.flops == pytest.approx(counted.own.flops, rel=0.2)
    exact = estimate(tiny_spec("softmax_expert_choice"), DataShape((1, 8, 8), 4, 96))
    assert estimated.training_bytes == pytest.approx(exact.training_bytes, rel=0.3)


def test_a_model_of_the_study_is_estimated_without_allocating_it(tiny_spec):
    options = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
    spec = tiny_spec(
        experts={"num_experts": 32},
        model={"options": {**options, "class_token": False, "global_pool": "avg"}},
        batch_size=1024,
        epochs=90,
    )
    estimated = estimate(spec, DataShape((3, 224, 224), 1000, 1_281_167))
    # ViT-S/16 is known to take 4.6 billion multiply-adds per image, and twice that backward.
    forward = estimated.budget.dense.flops / 1024 / 3
    assert forward == pytest.approx(2 * 4.6e9, rel=0.05)
    assert estimated.parameters > 80e6
