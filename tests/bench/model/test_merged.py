"""Experts averaged in weight space, and the router that requests it (2306.03745)."""

import pytest
import timm
import torch
from torch.nn import functional as F

from bench.model import forward_pass, moe_layers, moefy
from routers import MixtureRouting, RequestError, RouterContext, build_router

GROUPS, TOKENS, EXPERTS, DIM = 3, 5, 4, 8


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3
    )


def smear(**options):
    torch.manual_seed(0)
    return build_router("smear", dim=DIM, num_experts=EXPERTS, **options)


def test_the_gate_is_two_layer_norms_and_a_product():
    router = smear().eval()
    with torch.no_grad():
        router.gate.vector_scale.uniform_(0.5, 1.5)
    x = torch.randn(GROUPS, TOKENS, DIM)
    mean = x.mean(1)
    centred = (mean - mean.mean(-1, keepdim=True)) / (
        mean.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    v = router.gate.vectors
    unit = (v - v.mean(-1, keepdim=True)) / (v.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    logits = centred @ (unit * router.gate.vector_scale).T
    routing = router(x)
    torch.testing.assert_close(routing.merge_weights, logits.softmax(-1))
    assert routing.combine_weights().equal(routing.gates)
    assert (routing.gates == routing.gates[:, :1]).all()


def normalised(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()


def test_dropout_omits_experts_and_renormalises_the_rest():
    router = smear(expert_dropout=0.5).train()
    x = torch.randn(400, TOKENS, DIM)
    context = RouterContext(generator=torch.Generator().manual_seed(1))
    shares = router(x, context).merge_weights
    full = router.eval()(x).merge_weights
    kept = shares > 1e-6
    some = kept.sum(-1) < EXPERTS  # all are kept if all would be dropped, or if none is
    shares, full, kept = shares[some], full[some], kept[some]
    drawn = EXPERTS * (0.5 - 0.5**EXPERTS) / (1 - 2 * 0.5**EXPERTS)
    assert kept.sum(-1).float().mean().item() == pytest.approx(drawn, abs=0.2)
    want = torch.where(kept, full, 0) + 1e-10
    torch.testing.assert_close(shares, want / want.sum(-1, keepdim=True), atol=1e-6, rtol=1e-4)


def test_each_image_runs_through_the_mean_of_the_experts():
    model = moefy(vit(), router="smear", num_experts=EXPERTS, layers="all", seed=1).eval()
    layer = next(iter(moe_layers(model).values()))
    with torch.no_grad():
        for bias in (layer.experts.bias1, layer.experts.bias2):
            bias.normal_()
    x = torch.randn(GROUPS, TOKENS, 24)
    shares = layer.router(x).merge_weights
    want = []
    for tokens, share in zip(x, shares, strict=True):
        names = ("weight1", "bias1", "weight2", "bias2")
        stacks = [getattr(layer.experts, name) for name in names]
        w1, b1, w2, b2 = (sum(share[e] * stack[e] for e in range(EXPERTS)) for stack in stacks)
        want.append(F.gelu(tokens @ w1 + b1) @ w2 + b2)
    torch.testing.assert_close(layer(x), torch.stack(want), atol=1e-5, rtol=1e-4)


def test_all_experts_and_the_gate_learn():
    model = moefy(vit(), router="smear", num_experts=EXPERTS, layers="all", seed=1).train()
    with forward_pass(model):
        model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    layer = next(iter(moe_layers(model).values()))
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_experts_without_weights_of_their_own_cannot_be_averaged(monkeypatch):
    model = moefy(vit(), router="smear", num_experts=EXPERTS, layers="all", seed=1)
    layer = next(iter(moe_layers(model).values()))
    monkeypatch.setattr(type(layer.experts), "stacked", False)
    with pytest.raises(RequestError, match="experts 'mlp' have no weights of their own to average"):
        model(torch.randn(1, 3, 32, 32))


def test_merging_factorised_experts_equals_mixing_them():
    model = moefy(vit(), router="smear", experts="cp", num_experts=EXPERTS, layers="all", seed=1)
    layer = next(iter(moe_layers(model.eval()).values()))
    x = torch.randn(2, TOKENS, 24)
    with torch.no_grad():
        for parameter in layer.router.parameters():
            parameter.normal_()
    routing = layer.router(x)
    mixture = MixtureRouting(routing.gates)
    torch.testing.assert_close(layer(x), layer.experts.apply(mixture, x))
