"""Factorised experts equal a mixture of matrices that they never form, at the stated cost."""

import re

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers.mlp import Mlp
from timm.models.mlp_mixer import MlpMixer
from torch import nn

from bench.cli import main
from bench.compute import count_flops, model_stats
from bench.compute.estimates import estimate
from bench.data import DataShape
from bench.model import (
    MoELayer,
    ReplacedLinear,
    ReplacedMLP,
    build_experts,
    forward_pass,
    moe_layers,
    moefy,
)
from bench.model.backbone import site_of
from bench.model.build import trial_model
from bench.model.moe import reweighted
from routers import MixtureRouting, RequestError, RouterContext, build_router
from suites import Observed

G, T, D, H, E = 2, 5, 6, 10, 6
MLP = ReplacedMLP(D, H, activation=nn.Tanh)
NAMES = ("cp", "tr")
VIT = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "class_token": False,
    "global_pool": "avg",
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(name, replaced=MLP, num_experts=E, **options):
    return build_experts(
        name, num_experts=num_experts, replaced=replaced, **{"rank": 7, **options}
    ).double()


def layer_of(experts, router="mumoe", **options):
    """Return an MoE layer in double precision whose gate is no longer the initial one."""
    dim, num_experts = experts.replaced.dim, experts.num_experts
    gate = build_router(
        router, dim=dim, num_experts=num_experts, site=site_of(experts), **options
    ).double()
    nn.init.normal_(gate.gate.weight)
    return MoELayer(gate, experts)


def weight_tensors(experts):
    """Return the weights of each layer: (E, i, o), with a bias (E, i + 1, o)."""
    for layer in experts.blocks:
        inputs = layer.input if layer.bias is None else torch.cat([layer.input, layer.bias], 1)
        if experts.name == "cp":
            yield torch.einsum("er,ri,ro->eio", layer.joint_mode(), inputs, layer.output)
        else:
            cores = [core.unflatten(0, (layer.ring, -1)) for core in (inputs, layer.output)]
            yield torch.einsum("eab,bri,aro->eio", layer.joint_mode(), *cores)


def by_tensor(experts, weights, x):
    """Compute the definition Σ_n a_n W_n x with W formed and the bias as the last input row."""
    for number, tensor in enumerate(weight_tensors(experts)):
        if number:
            x = experts.activation(x)
        if tensor.shape[1] == x.shape[-1] + 1:
            x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        x = torch.einsum("gtn,nio,gti->gto", weights, tensor, x)
    return x


def gradients(y, leaves):
    weighted = y * torch.linspace(1, 2, y.shape[-1])
    return torch.autograd.grad(weighted.sum(), leaves, retain_graph=True)


@pytest.mark.parametrize("router", ["mumoe", "softmax_mixture"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_the_mixture_of_materialised_experts(name, levels, layers, bias, router):
    replaced = ReplacedMLP(D, H, activation=nn.Tanh, bias=bias)
    layer = layer_of(make(name, replaced, levels=levels, layers=layers), router)
    x = torch.randn(G, T, D, dtype=torch.float64, requires_grad=True)
    with forward_pass(layer) as routings:
        y = layer(x)
    (routing,) = routings
    expected = by_tensor(layer.experts, routing.combine_weights(), x)
    torch.testing.assert_close(y, expected)
    leaves = [x, *layer.experts.parameters(), layer.router.gate.weight]
    assert len(leaves) == 2 + layers * (levels + 2 + bias)
    torch.testing.assert_close(gradients(y, leaves), gradients(expected, leaves))


@pytest.mark.parametrize("name", NAMES)
def test_one_layer_can_replace_a_linear_layer_of_any_widths(name):
    layer = layer_of(make(name, ReplacedLinear(D, 3)))
    x = torch.randn(G, T, D, dtype=torch.float64)
    with forward_pass(layer) as routings:
        y = layer(x)
    assert y.shape == (G, T, 3)
    assert next(weight_tensors(layer.experts)).shape == (E, D + 1, 3)
    torch.testing.assert_close(y, by_tensor(layer.experts, routings[0].weights, x))


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_switching_off_or_reweighting_an_expert_changes_the_sum_accordingly(name, levels):
    layer = layer_of(make(name, levels=levels)).eval()
    x = torch.randn(G, T, D, dtype=torch.float64)
    factors = torch.tensor([1.0, 0.0, 1.0, -2.0, 1.0, 0.5], dtype=torch.float64)
    with reweighted([layer], {0: factors}), forward_pass(layer) as routings:
        y = layer(x)
    expected = by_tensor(layer.experts, routings[0].weights * factors, x)
    torch.testing.assert_close(y, expected)
    assert not torch.allclose(y, layer(x))


@pytest.mark.parametrize("name", NAMES)
def test_weights_without_levels_apply_to_all_experts(name):
    experts = make(name, levels=2)
    weights = torch.randn(G, T, E, dtype=torch.float64)
    x = torch.randn(G, T, D, dtype=torch.float64)
    y = experts.apply(MixtureRouting(weights.softmax(-1), weights), x)
    torch.testing.assert_close(y, by_tensor(experts, weights, x))


@pytest.mark.parametrize("name", NAMES)
def test_a_single_expert_equals_a_linear_layer(name):
    experts = make(name, ReplacedLinear(D, 3), num_experts=1)
    (tensor,) = weight_tensors(experts)
    linear = nn.Linear(D, 3).double()
    with torch.no_grad():
        linear.weight.copy_(tensor[0, :-1].T)
        linear.bias.copy_(tensor[0, -1])
    x = torch.randn(G, T, D, dtype=torch.float64)
    routing = MixtureRouting(torch.ones(G, T, 1, dtype=torch.float64))
    torch.testing.assert_close(experts.apply(routing, x), linear(x))


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_match_finite_differences(name, levels):
    experts = make(name, rank=2, levels=levels)
    gates = torch.rand(1, 3, E, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 3, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, x: experts.apply(MixtureRouting(a), x), (gates, x))


def test_the_experts_are_initialised_as_by_the_authors():
    replaced = ReplacedMLP(400, 900)
    one, two = (
        build_experts("cp", num_experts=64, replaced=replaced, rank=100, levels=levels)
        for levels in (1, 2)
    )
    (expert,), first = one.blocks[0].modes, two.blocks[1].modes
    assert expert.mean().item() == pytest.approx(1, abs=0.05)
    assert expert.std().item() == pytest.approx(1, abs=0.05)
    assert [mode.shape for mode in first] == [(8, 100), (8, 100)]
    assert first[1].mean().item() == pytest.approx(1, abs=0.02)
    assert first[1].std().item() == pytest.approx(0.1, abs=0.02)
    assert first[0].std().item() == pytest.approx(1, abs=0.15)
    for block, inputs in zip(one.blocks, (400, 900), strict=True):
        rows = torch.cat([block.input, block.bias], 1)
        assert rows.shape == (100, inputs + 1)
        assert rows.abs().max().item() == pytest.approx(inputs**-0.5, rel=0.01)
        assert rows[:, -1].abs().max().item() == pytest.approx(inputs**-0.5, rel=0.1)
        assert rows.std().item() == pytest.approx((3 * inputs) ** -0.5, rel=0.02)
        assert block.output.abs().max().item() == pytest.approx(0.1, rel=0.01)


def test_slices_of_a_ring_start_as_diagonal_matrices():
    ring = build_experts(
        "tr", num_experts=64, replaced=ReplacedMLP(40, 90), rank=5, levels=2, ring_rank=3
    )
    first, second = ring.blocks[0].modes
    eye = torch.eye(3)
    assert second.diagonal(dim1=1, dim2=2).std().item() == pytest.approx(0.1, abs=0.05)
    for slices in (first, second):
        assert (slices * (1 - eye)).abs().max() == 0
    assert first.diagonal(dim1=1, dim2=2).std() > 0.5
    assert ring.blocks[0].output.abs().max().item() == pytest.approx(15**-0.5, rel=0.05)


def test_with_zero_gates_the_layer_starts_as_the_mean_of_the_experts():
    experts = make("cp", levels=2)
    gate = build_router("mumoe", dim=D, num_experts=E, site=site_of(experts)).double()
    x = torch.randn(G, T, D, dtype=torch.float64)
    mean = torch.full((G, T, E), 1 / E, dtype=torch.float64)
    y = MoELayer(gate, experts)(x)
    torch.testing.assert_close(y, by_tensor(experts, mean, x))


@pytest.mark.parametrize(
    ("name", "options", "rank"),
    [
        # MLP of 2·384·1536 + 1536 + 384 = 1181568 parameters; a gate of 8·384.
        ("cp", {}, 305),  # (1181568 − 3072) / (2·8 + 2·(384 + 1536) + 2) = 305.47
        ("cp", {"levels": 2}, 306),  # (1181568 − 6·384) / (2·6 + 3842) = 305.98
        ("tr", {}, 77),  # (1181568 − 3072 − 2·16·8) / (4·3842) = 76.67
        ("tr", {"ring_rank": 2}, 153),  # (1181568 − 3072 − 2·4·8) / (2·3842) = 153.36
        ("cp", {"layers": 1}, 1517),  # (1181568 − 3072) / (8 + 2·384 + 1) = 1516.7
    ],
)
def test_ranks_solved_by_hand(name, options, rank):
    experts = build_experts(name, num_experts=8, replaced=ReplacedMLP(384, 1536), **options)
    assert experts.stats()["expert_rank"] == rank


@given(
    name=st.sampled_from(NAMES),
    dim=st.integers(4, 40),
    hidden=st.integers(1, 90),
    num_experts=st.sampled_from([1, 2, 4, 12]),
    levels=st.sampled_from([1, 2]),
    bias=st.booleans(),
    linear=st.booleans(),
)
def test_no_other_rank_has_a_nearer_number_of_parameters(
    name, dim, hidden, num_experts, levels, bias, linear
):
    if num_experts < 4:
        levels = 1
    replaced = (ReplacedLinear if linear else ReplacedMLP)(dim, hidden, bias=bias)

    def parameters(rank):
        experts = build(rank=rank)
        gate = dim * sum(experts.level_sizes or (num_experts,))
        return gate + sum(parameter.numel() for parameter in experts.parameters())

    def build(**options):
        with torch.device("meta"):
            return build_experts(
                name, num_experts=num_experts, replaced=replaced, levels=levels, **options
            )

    try:
        stats = build().stats()
    except RequestError:
        # Then rank 1 is further away than no rank at all would be.
        without = parameters(1) - (parameters(2) - parameters(1))
        assert parameters(1) - replaced.parameters >= replaced.parameters - without
        return
    rank = int(stats["expert_rank"])
    error = parameters(rank) / replaced.parameters - 1
    assert stats["parameter_error"] == pytest.approx(error)
    others = [parameters(other) for other in (rank - 1, rank + 1) if other]
    assert all(abs(error) <= abs(other / replaced.parameters - 1) + 1e-12 for other in others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_experts": 400},
            "num_experts = 400 of 'cp' does not fit into the 37,152 parameters of an MLP: a linear "
            "gate alone has 38,400; num_experts = 380 or fewer does, or levels = 2 does, or set a "
            "`rank`",
        ),
        ({"num_experts": 401}, "num_experts = 380 or fewer does, or set a `rank`"),
        ({"levels": 2, "num_experts": 7}, "num_experts = 7 cannot be split into two levels; 8 can"),
        ({"layers": 2, "replaced": ReplacedLinear(8, 3)}, "a linear layer has none"),
    ],
)
def test_impossible_sizes_are_refused_with_the_nearest_possible_one(options, message):
    with pytest.raises(RequestError, match=message):
        build_experts("cp", **{"num_experts": 4, "replaced": ReplacedMLP(96, 192), **options})


def test_the_suggested_number_of_experts_is_the_largest_possible():
    replaced = ReplacedMLP(96, 192)
    assert build_experts("cp", num_experts=380, replaced=replaced).stats()["expert_rank"] == 1
    with pytest.raises(RequestError):
        build_experts("cp", num_experts=381, replaced=replaced)
    assert build_experts("cp", num_experts=400, replaced=replaced, levels=2).modes == (20, 20)


@pytest.mark.parametrize("name", NAMES)
def test_a_router_with_a_hard_choice_is_refused_with_an_alternative(name):
    layer = layer_of(make(name), "softmax_token_choice")
    with pytest.raises(RequestError, match="router of the mixture family, such as 'mumoe' or"):
        layer(torch.randn(G, T, D, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_all_parameters_are_active_and_the_dense_counterpart_runs_every_token(name):
    layer = layer_of(make(name))
    routing = layer.route(torch.randn(G, T, D, dtype=torch.float64), RouterContext())
    assert layer.experts.active_share(routing) == 1
    # With a given rank, the counterpart's FLOPs differ in proportion to its parameters.
    error = layer.experts.stats()["parameter_error"]
    assert layer.experts.rows(routing) == round(G * T * (1 + error))
    solved = build_experts(name, num_experts=4, replaced=ReplacedMLP(24, 48))
    assert solved.rows(routing) == G * T


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("levels", [1, 2])
def test_models_learn_and_can_be_restored_from_their_state(name, levels):
    def model():
        torch.manual_seed(1)
        vit = timm.create_model("vit_tiny_patch16_224", **VIT, num_classes=5)
        return moefy(vit, router="mumoe", experts=name, num_experts=8, **options)

    options = {"experts_options": {"levels": levels}, "layers": "all", "seed": 2}
    first, images = model(), torch.randn(3, 3, 16, 16)
    before = first(images)
    before.square().mean().backward()
    assert all(parameter.grad is not None for parameter in first.parameters())
    torch.optim.SGD(first.parameters(), 0.1).step()
    second = model()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.eval()(images), first.eval()(images))
    assert first(images).shape == (3, 5)
    assert {layer.router.levels for layer in moe_layers(first).values()} == {
        (8,) if levels == 1 else (2, 4)
    }


@pytest.mark.parametrize("name", NAMES)
def test_an_mlp_mixer_and_a_head_can_have_factorised_experts(name):
    images = torch.randn(3, 3, 16, 16)
    mixer = MlpMixer(img_size=16, patch_size=4, embed_dim=64, num_blocks=2, num_classes=40)
    moefy(mixer, router="mumoe", experts=name, num_experts=4, layers="every_mlp")
    moefy(mixer, router="softmax_mixture", experts=name, num_experts=4, layers="head")
    y = mixer(images)
    assert y.shape == (3, 40)
    y.sum().backward()
    layers = list(moe_layers(mixer).values())
    # In each block the MLP over the tokens of a channel, then that over the channels of a token.
    assert [len(layer.experts.blocks) for layer in layers] == [2, 2, 2, 2, 1]
    assert [layer.experts.replaced.dim for layer in layers] == [16, 64, 16, 64, 64]
    assert all(p.grad.isfinite().all() for layer in layers for p in layer.experts.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_finite_and_close(name):
    vit = timm.create_model("vit_tiny_patch16_224", **VIT, num_classes=5)
    model = moefy(vit, router="mumoe", experts=name, num_experts=4)
    images = torch.randn(3, 3, 16, 16)
    expected = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(images)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(y.float(), expected, atol=0.1, rtol=0.1)
    assert model.bfloat16()(images.bfloat16()).isfinite().all()


@pytest.mark.parametrize("dropout", [(0.4, 0.0), (0.0, 0.4)])
def test_the_dropout_of_the_mlp_is_kept(dropout):
    experts = make("cp", ReplacedMLP(D, H, dropout=dropout))
    routing = MixtureRouting(torch.full((G, T, E), 1 / E, dtype=torch.float64))
    x = torch.randn(G, T, D, dtype=torch.float64)
    assert not experts.apply(routing, x).equal(experts.apply(routing, x))
    assert experts.eval().apply(routing, x).equal(experts.apply(routing, x))


@pytest.mark.parametrize("activation", ["entmax15", "softmax"])
@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_counted_and_the_experts_have_the_stated_flops(
    name, normalization, activation
):
    experts = build_experts(name, num_experts=8, replaced=ReplacedMLP(32, 64))
    options = {"normalization": normalization, "activation": activation}
    gate = build_router("mumoe", dim=32, num_experts=8, site=site_of(experts), **options)
    layer = MoELayer(gate, experts)
    x = torch.randn(4, 16, 32, requires_grad=True)
    report = count_flops(layer, x, backward=True)
    assert report.uncounted == {}
    dense = count_flops(Mlp(32, 64), x, backward=True)
    # Equally many parameters, each in one multiply-add per token; a ring also multiplies its cores.
    more = 0 if name == "cp" else 3 * 2 * 2 * 64 * 4**2 * experts.solved_rank
    products = dense.by_kind["matmul"] * (1 + experts.stats()["parameter_error"]) + more
    assert report.by_kind["matmul"] == pytest.approx(products, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_and_model_stats_state_rank_and_error(name, tiny_spec, tiny_dataset):
    spec = tiny_spec("mumoe", experts={"name": name})
    takes = estimate(spec, DataShape(tiny_dataset.image_shape, 4, 96))
    model = trial_model(spec, tiny_dataset).eval()
    (layer,) = moe_layers(model).values()
    expert_stats = layer.experts.stats()
    assert expert_stats.keys() == {"expert_rank", "parameter_error"}
    assert takes.exact
    assert takes.expert_stats == expert_stats
    images = torch.randn(2, 1, 8, 8)
    with forward_pass(model) as routings:
        logits = model(images)
    stats = model_stats(model, Observed(images, torch.zeros(2).long(), logits, routings))
    assert expert_stats.items() <= stats.items()
    assert stats["params_active"] == stats["params_total"]


@pytest.mark.slow
def test_a_plan_prints_rank_and_error(capsys, tmp_path):
    asked = ["--preset", "smoke", "--routers", "mumoe", "--set", "experts.name=cp"]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["plan", "accuracy", *asked, "--home", str(tmp_path), "--jobs", "0"])
    printed = re.findall(
        r"mumoe.*: expert_rank (\d+), parameter_error (\S+)", capsys.readouterr().out
    )
    assert ("20", "-0.005725") in printed


@pytest.mark.parametrize("name", NAMES)
def test_experts_of_both_levels_learn_to_differ(name):
    """From even gates, both gates and both modes get gradients that differ between experts."""
    torch.manual_seed(0)
    experts = build_experts(name, num_experts=16, replaced=ReplacedMLP(24, 48), rank=6, levels=2)
    layer = MoELayer(build_router("mumoe", dim=24, num_experts=16, site=site_of(experts)), experts)
    x = torch.randn(4, 7, 24)
    (layer(x) * torch.randn(4, 7, 24)).sum().backward()
    gradient = layer.router.gate.weight.grad
    for level in gradient.split(4):
        assert (level - level.mean(0)).abs().max() > 1e-6
    for mode in experts.blocks[0].modes:
        assert (mode - mode.mean(0)).abs().max() > 0.01
