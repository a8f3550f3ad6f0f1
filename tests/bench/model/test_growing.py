"""Experts of growing width and window, and their router, against token loops (2411.18466)."""

import numpy as np
import pytest
import timm
import torch
from scipy.special import softmax

from bench.compute import count_flops, model_stats
from bench.compute.estimates import estimate
from bench.data import DataShape
from bench.model import build_experts, forward_pass, moe_layers, moefy
from bench.model.build import trial_model
from bench.model.experts import ReplacedMLP
from routers import MixtureRouting, RequestError, RouterContext, TokenChoiceRouting, build_router
from suites import Observed
from tests.bench.model.test_factorised import VIT

DIM, E, GROUPS = 8, 4, 3


def experts(**options):
    torch.manual_seed(0)
    made = build_experts("growing", num_experts=E, replaced=ReplacedMLP(DIM, 16), **options)
    return made.double().eval()


def expert_output(layer, e, x, side, window):
    """Run one expert on one image, (t, d), token by token."""
    query, key, value, gate = np.split(x @ layer.inner[e].detach().numpy(), 4, -1)
    place = [(t // side // window, t % side // window) for t in range(side * side)]
    out = np.zeros_like(x)
    for t in range(side * side):
        near = [u for u in range(side * side) if place[u] == place[t]]
        share = softmax([query[t] @ key[u] / query.shape[1] ** 0.5 for u in near])
        mixed = sum(share[i] * value[u] for i, u in enumerate(near))
        out[t] = (mixed * gate[t] / (1 + np.exp(-gate[t]))) @ layer.outer[e].detach().numpy()
    return out


def routing_of(kind, tokens):
    generator = torch.Generator().manual_seed(1)
    gates = torch.randn(GROUPS, tokens, E, generator=generator, dtype=torch.float64).softmax(-1)
    if kind == "mixture":
        return MixtureRouting(gates)
    if kind == "tokens":
        return TokenChoiceRouting.top_k(gates, 2, 3)
    return TokenChoiceRouting.top_k(gates[:, :1].expand_as(gates), 1, None)


@pytest.mark.parametrize("kind", ["mixture", "tokens", "images"])
@pytest.mark.parametrize("side", [4, 5])
def test_each_expert_attends_in_windows_of_the_whole_image(kind, side):
    layer, x = experts(window=1), torch.randn(GROUPS, side * side, DIM, dtype=torch.float64)
    routing = routing_of(kind, side * side)
    weights, want = routing.combine_weights().numpy(), np.zeros(x.shape)
    for g, e in np.ndindex(GROUPS, E):
        out = expert_output(layer, e, x[g].numpy(), side, min(2**e, side))
        want[g] += weights[g, :, e, None] * out
    np.testing.assert_allclose(layer.apply(routing, x).detach().numpy(), want, atol=1e-12)


def test_widths_double_and_parameters_are_reported():
    layer = experts()
    assert layer.widths == [1, 2, 4, 8]
    own = [layer.inner[e].numel() + layer.outer[e].numel() for e in range(E)]
    assert layer.expert_sizes == tuple(own)


def moce(**options):
    torch.manual_seed(2)
    return build_router("moce_ir", dim=DIM, num_experts=E, **options)


def test_an_image_is_routed_by_its_mean_token():
    router, x = moce(top_k=2).eval(), torch.randn(GROUPS, 9, DIM)
    routing = router(x)
    gates = softmax((x.mean(1) @ router.gate.weight.T).detach().numpy(), -1)
    weights = routing.combine_weights().detach().numpy()
    for g, t in np.ndindex(GROUPS, 9):
        best = np.argsort(-gates[g])[:2]
        want = np.where(np.isin(np.arange(E), best), gates[g], 0)
        np.testing.assert_allclose(weights[g, t], want, rtol=1e-5)
    assert routing.dropped_share() == 0


def test_noise_is_drawn_once_per_image_and_affects_the_weights_too():
    router, x = moce(noise_std=2.0).train(), torch.randn(400, 4, DIM)
    routing = router(x, RouterContext(torch.Generator().manual_seed(0)))
    noise = routing.noisy_logits - routing.logits
    assert (noise == noise[:, :1]).all()
    assert noise[:, 0].std().item() == pytest.approx(2.0 / E, rel=0.1)
    best = routing.noisy_logits.softmax(-1).amax(-1)
    torch.testing.assert_close(routing.combine_weights().amax(-1), best)
    torch.testing.assert_close(routing.gates, routing.logits.softmax(-1))


def vit(options=VIT, **more):
    net = timm.create_model("vit_tiny_patch16_224", **options)
    return moefy(
        net, **{"router": "moce_ir", "experts": "growing", "num_experts": E, "seed": 1} | more
    )


def test_routers_and_losses_know_the_parameters_of_each_expert():
    model = vit()
    with forward_pass(model) as routings:
        model(torch.randn(2, 3, 16, 16))
    layer = next(iter(moe_layers(model).values()))
    assert routings[0].expert_sizes == layer.experts.expert_sizes == (360, 720, 1440, 2880)


def test_an_image_costs_only_the_flops_of_its_expert():
    model = vit().eval()
    layer = next(iter(moe_layers(model).values()))
    x, spent = torch.randn(1, 16, 24), []
    for expert in range(E):
        routing = TokenChoiceRouting.top_k(torch.eye(E)[expert].expand(1, 16, E), 1, None)
        with torch.no_grad():
            spent.append(count_flops(layer.experts.apply, routing, x).by_kind["matmul"])
    assert spent == [2 * 16 * 5 * 24 * width for width in (3, 6, 12, 24)]
    images = torch.randn(5, 3, 16, 16)
    with forward_pass(model) as routings, torch.no_grad():
        logits = model(images)
    stats = model_stats(model, Observed(images, torch.zeros(5).long(), logits, routings))
    assert stats["slots_per_choice"] == 1
    assert stats["params_active"] < stats["params_total"]


def test_the_rows_of_a_dense_mlp_have_the_same_flops():
    layer, mlp = experts(), timm.layers.Mlp(DIM, 16)
    routing, x = routing_of("tokens", 16), torch.randn(GROUPS, 16, DIM, dtype=torch.float64)
    with torch.no_grad():
        own = count_flops(layer.apply, routing, x).total
        dense = count_flops(mlp, torch.randn(layer.rows(routing), DIM)).total
    assert dense == pytest.approx(own, rel=0.3)


def test_the_cost_of_a_training_is_estimated(tiny_spec):
    spec = tiny_spec("moce_ir", experts={"name": "growing"}, losses={"complexity": 0.01})
    data = DataShape((1, 8, 8), 4, 96)
    cost = estimate(spec, data)
    assert not cost.exact
    assert cost.parameters == sum(p.numel() for p in trial_model(spec, data).parameters())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"router": "soft_moe"}, "slots that mix tokens"),
        ({"router": "smear"}, "no weights of their own to average"),
        (
            {"groups": "batch"},
            "model.groups = 'batch': experts 'growing' .* model.groups = 'image'",
        ),
        ({"groups": 8}, "model.groups = 8: experts 'growing' read whole images; use"),
        (
            {"router": "diffmoe"},
            "the router DiffMoE routes .* whole batch .* 'moce_ir', or experts.name",
        ),
        ({"options": {**VIT, "patch_drop_rate": 0.5}}, "all 16 tokens .* has 8: .*drop_rate = 0"),
    ],
)
def test_settings_that_split_or_join_images_are_refused(changed, said):
    with pytest.raises(RequestError, match=said):
        vit(**changed).train()(torch.randn(4, 3, 16, 16))


def test_padded_images_are_refused_for_their_tokens_and_not_their_groups():
    model, mask = vit(), torch.arange(16) < torch.tensor([[16], [9]])
    refused = pytest.raises(RequestError, match=r"all 16 tokens .* has 9: leave images unpadded")
    with refused, forward_pass(model, mask=mask):
        model(torch.randn(2, 3, 16, 16))


def test_a_class_token_is_named_and_refused():
    model = vit({**VIT, "class_token": True, "global_pool": "token"})
    with pytest.raises(RequestError, match=r"an image has 17: choose .*class_token: false"):
        model(torch.randn(1, 3, 16, 16))
