"""The attentive gate follows its definition and runs each expert once."""

import pytest
import torch

from bench.model import MoELayer, ReplacedLinear, ReplacedMLP, build_experts, forward_pass
from bench.model.backbone import site_of
from routers import RequestError, build_router


def layer_of(router="attentive", experts=3, **options):
    behind = build_experts("mlp", num_experts=experts, replaced=ReplacedMLP(6, 5, std=(0.5, 0.5)))
    gate = build_router(router, dim=6, num_experts=experts, site=site_of(behind), **options)
    return MoELayer(gate, behind).double()


def test_the_gates_are_attention_to_the_experts_activations():
    layer = layer_of(affinity_options={"width": 4})
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    with forward_pass(layer) as routings:
        y = layer(x)
    gate, experts = layer.router.gate, layer.experts
    expected = torch.zeros(2, 7, 3, dtype=torch.float64)
    wanted = torch.zeros_like(x)
    for g in range(2):
        for t in range(7):
            token = x[g, t]
            query = gate.query @ gate.body(token)
            outputs = []
            for e in range(3):
                inner = experts.activation(token @ experts.weight1[e] + experts.bias1[e, 0])
                expected[g, t, e] = query @ (gate.key @ inner) / 2  # √4
                outputs.append(inner @ experts.weight2[e] + experts.bias2[e, 0])
            weights = expected[g, t].softmax(-1)
            wanted[g, t] = sum(w * out for w, out in zip(weights, outputs, strict=True))
    torch.testing.assert_close(routings[0].logits, expected)
    torch.testing.assert_close(routings[0].gates, expected.softmax(-1))
    torch.testing.assert_close(y, wanted)


def test_experts_get_a_gradient_through_the_gate_too():
    layer = layer_of()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    with forward_pass(layer) as routings:
        layer(x)
    routings[0].gates[..., 0].sum().backward()
    assert layer.experts.weight1.grad.abs().sum() > 0
    assert layer.experts.weight2.grad is None
    assert all(p.grad.abs().sum() > 0 for p in layer.router.parameters())


def test_with_top_k_the_other_experts_have_zero_weight():
    layer = layer_of(weighed_top_k=2)
    with forward_pass(layer) as routings:
        layer(torch.randn(2, 7, 6, dtype=torch.float64))
    weights, gates = routings[0].combine_weights(), routings[0].gates
    assert ((weights > 0).sum(-1) == 2).all()
    best = gates.topk(2, dim=-1)
    torch.testing.assert_close(weights.gather(-1, best.indices), best.values)


def test_every_expert_runs_once(monkeypatch):
    layer = layer_of()
    calls = []
    activations = type(layer.experts).activations
    monkeypatch.setattr(
        type(layer.experts),
        "activations",
        lambda self, x: calls.append(x.shape) or activations(self, x),
    )
    layer(torch.randn(2, 7, 6, dtype=torch.float64))
    assert calls == [(3, 2, 7, 6)]


@pytest.mark.parametrize("router", ["softmax_token_choice", "softmax_expert_choice"])
def test_any_allocation_works_with_the_affinity(router):
    layer = layer_of(router, affinity="attentive")
    x = torch.randn(2, 8, 6, dtype=torch.float64)
    with forward_pass(layer) as routings:
        y = layer(x)
    torch.testing.assert_close(y, layer.experts.apply(routings[0], x))


def test_experts_without_activations_are_refused():
    behind = build_experts("linear", num_experts=3, replaced=ReplacedLinear(6, 4))
    with pytest.raises(RequestError, match="these experts have none"):
        build_router("attentive", dim=6, num_experts=3, site=site_of(behind))


def test_a_router_that_needs_other_logits_is_refused():
    with pytest.raises(RequestError, match=r"one logit for each of the 3 experts.*asks for 12"):
        layer_of("soft_moe", affinity="attentive", num_slots=4)


def test_a_body_without_a_hidden_layer_is_refused():
    with pytest.raises(RequestError, match="body_of = 'linear' has no hidden layer"):
        layer_of(affinity_options={"body_of": "linear"})


def test_experts_that_override_apply_keep_their_own_behaviour():
    layer = layer_of()

    class Doubled(type(layer.experts)):
        def apply(self, routing, x):
            return 2 * super().apply(routing, x)

    x = torch.randn(2, 7, 6, dtype=torch.float64)
    single = layer(x)
    layer.experts.__class__ = Doubled
    torch.testing.assert_close(layer(x), 2 * single)
