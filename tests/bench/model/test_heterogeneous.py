"""Heterogeneous experts and their router, against loops over tokens (2410.07348)."""

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from bench.compute import count_flops
from bench.model import build_experts, forward_pass, moe_layers, moefy
from bench.model.experts import ReplacedMLP
from routers import Batch, RequestError, RouterContext, Site, build_router

DIM, HIDDEN, GROUPS, TOKENS = 8, 12, 2, 10
KINDS = ("mlp", "mlp", "constant", "constant", "copy", "zero")
E = len(KINDS)


def experts(**options):
    torch.manual_seed(0)
    made = build_experts(
        "heterogeneous", num_experts=E, replaced=ReplacedMLP(DIM, HIDDEN), **options
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def router(**options):
    torch.manual_seed(1)
    return build_router("moe_plus_plus", dim=DIM, num_experts=E, site=Site(kinds=KINDS), **options)


def expert_output(layer, e, x):
    if e < 2:
        hidden = F.gelu(x @ layer.weight1[e] + layer.bias1[e, 0])
        return hidden @ layer.weight2[e] + layer.bias2[e, 0]
    if e < 4:
        alpha = (x @ layer.mixing[e - 2]).softmax(-1)
        return alpha[0] * x + alpha[1] * layer.values[e - 2, 0]
    return x if e == 4 else torch.zeros_like(x)


def test_the_kinds_of_experts_are_in_the_order_of_the_definition():
    made = experts()
    assert made.kinds == KINDS
    assert made.weight1.shape == (2, DIM, HIDDEN)


@pytest.mark.parametrize("capacity", [None, 6.0, 0.4])
def test_the_layer_is_the_weighted_sum_of_the_chosen_experts(capacity):
    layer, gate = experts(), router(capacity_factor=capacity, tau=0.5).eval()
    x = torch.randn(GROUPS, TOKENS, DIM)
    routing = gate(x)
    weights = routing.combine_weights()
    got, want = layer.apply(routing, x), torch.zeros_like(x)
    for g, t, e in np.ndindex(GROUPS, TOKENS, E):
        want[g, t] += weights[g, t, e] * expert_output(layer, e, x[g, t])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    assert (routing.dropped_share() > 0) == (capacity == 0.4)


def test_the_zero_expert_has_no_weight_and_the_other_gets_all_of_it():
    logits = torch.randn(GROUPS, TOKENS, E, generator=torch.Generator().manual_seed(3)) * 2
    weights = router(capacity_factor=None).eval().allocate(logits).combine_weights()
    gates = logits.softmax(-1)
    seen = 0
    for g, t in np.ndindex(GROUPS, TOKENS):
        one, other = gates[g, t].topk(2).indices.tolist()
        want = torch.zeros(E)
        if E - 1 in (one, other):
            want[one if other == E - 1 else other] = 1
            seen += 1
        else:
            want[[one, other]] = gates[g, t, [one, other]] / gates[g, t, [one, other]].sum()
        torch.testing.assert_close(weights[g, t], want)
    assert 0 < seen < GROUPS * TOKENS


def test_mixtral_gating_keeps_the_share_of_the_zero_expert():
    logits = torch.zeros(1, 1, E)
    logits[0, 0, 0], logits[0, 0, E - 1] = 2.0, 1.0
    routing = router(capacity_factor=None, mixtral_gating=True).eval().allocate(logits)
    share = torch.tensor([2.0, 1.0]).softmax(0)
    torch.testing.assert_close(routing.weights[0, 0], share)


def test_normalised_logits_have_a_standard_deviation_of_one():
    logits = torch.randn(1, 5, E) * 30
    routing = router(capacity_factor=None, logits_norm=True).eval().allocate(logits)
    want = (logits / logits.std(-1, keepdim=True)).softmax(-1)
    torch.testing.assert_close(routing.gates, want)


@pytest.mark.parametrize("logits_norm", [False, True])
def test_clean_gates_are_those_of_the_allocation(logits_norm):
    made, logits = router(logits_norm=logits_norm).train(), torch.randn(2, 7, E)
    torch.testing.assert_close(made.clean_gates(logits), made.allocate(logits).gates)


def test_cheap_experts_have_more_capacity():
    limits = router(tau=0.5, capacity_factor=1.0).limits(torch.zeros(1, 30, E))
    assert limits == (6, 6, 12, 12, 12, 12)  # 60 choices over 0.5 · 2 + 4 = 5 units


def test_the_loss_by_hand():
    gate = router(tau=0.5, loss_weight=2.0, capacity_factor=None).train()
    logits = torch.randn(GROUPS, TOKENS, E)
    routing = gate.allocate(logits)
    gates = logits.softmax(-1).flatten(0, 1).numpy()
    chosen = np.argsort(-gates, axis=1)[:, :2]
    total = 0.0
    for e in range(E):
        share = (chosen == e).any(1).mean()
        total += (1 if e < 2 else 0.5) * share * gates[:, e].mean()
    batch = Batch(logits, torch.zeros(GROUPS, dtype=torch.long))
    assert gate.own_loss(routing, batch).item() == pytest.approx(2.0 * total, rel=1e-5)


def test_the_residual_passes_on_the_full_logits():
    gate = router().eval()
    x, before = torch.randn(1, 4, DIM), torch.randn(1, 4, E)
    alone = gate(x).logits
    torch.testing.assert_close(
        gate(x, RouterContext(previous_logits=before)).logits, alone + before @ gate.residual.T
    )
    assert gate.residual.std().item() == pytest.approx(0.02, rel=0.5)


def vit(layers="all", **options):
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3
    )
    return moefy(
        net,
        router="moe_plus_plus",
        experts="heterogeneous",
        num_experts=E,
        layers=layers,
        router_options=options,
        seed=1,
    )


def test_logits_and_their_gradient_pass_through_all_layers_of_a_model():
    model = vit().eval()
    with forward_pass(model) as routings:
        model(torch.randn(2, 3, 32, 32))
    routings[-1].logits.square().sum().backward()
    first, second, third = (layer.router for layer in moe_layers(model).values())
    assert first.gate.weight.grad.abs().sum() > 0
    assert first.residual.grad is None
    assert second.residual.grad.abs().sum() > 0
    assert third.residual.grad.abs().sum() > 0


def test_tokens_of_cheap_experts_save_flops_in_the_count():
    x = torch.randn(2, 3, 32, 32)
    plain, saving = vit(tau=1.0).eval(), vit(tau=0.1).eval()
    spent = [count_flops(lambda model=model: model(x)).total for model in (plain, saving)]
    assert spent[1] < 0.8 * spent[0]


def test_too_few_experts_are_refused():
    with pytest.raises(RequestError, match="4 of 4 experts would cost nothing"):
        build_experts("heterogeneous", num_experts=4, replaced=ReplacedMLP(DIM, HIDDEN))
