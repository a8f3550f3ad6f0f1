"""Shared experts: every token goes through them, and they count in the budget."""

import pytest
import timm
import torch
from torch.nn import functional as F

from bench.compute import count_flops
from bench.config import ExpertsConfig
from bench.model import forward_pass, moe_layers, moefy


def vit(**options):
    torch.manual_seed(0)
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3
    )
    return moefy(net, num_experts=4, layers="all", seed=1, **options).eval()


@pytest.mark.parametrize("router", ["softmax_token_choice", "soft_moe", "expert_race"])
def test_outputs_of_shared_experts_are_added_to_the_routed_ones(router):
    alone, shared = vit(router=router), vit(router=router, shared=2)
    x = torch.randn(3, 16, 24)
    for without, layer in zip(*(moe_layers(net).values() for net in (alone, shared)), strict=True):
        own = layer.shared
        want = without(x)
        for j in range(2):
            hidden = F.gelu(x @ own.weight1[j] + own.bias1[j])
            want = want + hidden @ own.weight2[j] + own.bias2[j]
        torch.testing.assert_close(layer(x), want, atol=1e-5, rtol=1e-4)


def test_shared_experts_do_not_change_the_initialisation_of_the_rest():
    alone, shared = vit().state_dict(), vit(shared=1).state_dict()
    assert all(shared[name].equal(tensor) for name, tensor in alone.items())
    assert {name for name in shared if name not in alone} == {
        f"blocks.{block}.mlp.shared.{name}"
        for block in (0, 1)
        for name in ("weight1", "weight2", "bias1", "bias2")
    }


def test_shared_experts_count_in_the_flops_but_not_in_routings():
    x, flops = torch.randn(2, 3, 32, 32), []
    for net in (vit(), vit(shared=1), vit(shared=2)):
        with forward_pass(net) as routings:
            net(x)
        assert [routing.num_experts for routing in routings] == [4, 4]
        flops.append(count_flops(net, x).total)
    one, two = flops[1] - flops[0], flops[2] - flops[1]
    mlp = 2 * 2 * 16 * 4 * 24 * 96  # two layers, two images, 16 tokens, 4·d·h
    assert mlp < one < 1.2 * mlp
    assert two == pytest.approx(one, rel=0.02)


def test_a_description_without_shared_experts_is_as_before_the_setting():
    assert "shared" not in ExpertsConfig().model_dump()
    assert ExpertsConfig(shared=1).model_dump()["shared"] == 1
