"""The MoE layer follows its definition, and the rest of a timm model is unchanged."""

import copy
from functools import partial

import pytest
import timm
import torch
from timm.layers import Mlp
from timm.models.mlp_mixer import MlpMixer

from bench.config.schema import (
    ComputeConfig,
    DataConfig,
    ExpertsConfig,
    ModelConfig,
    RouterConfig,
    TrainConfig,
    TrialSpec,
)
from bench.data import DataShape
from bench.model import (
    MoELayer,
    ReplacedMLP,
    build_experts,
    forward_pass,
    moe_layers,
    moefy,
    trial_model,
)
from bench.model.backbone import blocks_of, chosen_layers, site_of
from bench.model.objective import Objective
from routers import ROUTERS, Baseline, Batch, RequestError, build_router, list_routers

ROUTED = [name for name in list_routers() if not issubclass(ROUTERS.get(name).target, Baseline)]
TINY = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 2,
    "class_token": False,
    "global_pool": "avg",
}
MODEL = ModelConfig(options=TINY, layers="last2")


def layer_of(router, dim=6, experts=3, tokens=8, **options):
    """Return an MoE layer, ignoring options that the router does not have."""
    behind = build_experts("mlp", num_experts=experts, replaced=ReplacedMLP(dim, 5, std=(0.5, 0.5)))
    known = ROUTERS.get(router).hyper_model.model_fields
    gate = build_router(
        router,
        dim=dim,
        num_experts=experts,
        tokens=tokens,
        site=site_of(behind),
        **{name: value for name, value in options.items() if name in known},
    )
    return MoELayer(gate, behind).double()


def dense_loop(layer, x, routing):
    """Compute Σ_e,s C · expert_e(Σ_t D · x), one expert, slot and token at a time."""
    d, c = routing.dispatch_tensor(), routing.combine_tensor()
    experts, shape = layer.experts, x.shape
    x = x.reshape(*d.shape[:2], -1)  # routers that span the batch have one group
    y = torch.zeros_like(x)
    for g in range(x.shape[0]):
        for e in range(experts.num_experts):
            for s in range(routing.num_slots):
                slot = (d[g, :, e, s].unsqueeze(1) * x[g]).sum(0)
                hidden = experts.activation(slot @ experts.weight1[e] + experts.bias1[e, 0])
                out = hidden @ experts.weight2[e] + experts.bias2[e, 0]
                y = y + c[g, :, e, s].unsqueeze(1) * out * _only(g, x)
    return y.reshape(shape)


def _only(group, x):
    return (torch.arange(x.shape[0]) == group).to(x.dtype).view(-1, 1, 1)


@pytest.mark.parametrize("router", [name for name in ROUTED if name != "smear"])
def test_a_layer_equals_a_loop_over_tokens_and_experts(router):
    layer = layer_of(router, capacity_factor=1.3, groups=1).eval()
    x = torch.randn(2, 8, 6, dtype=torch.float64, requires_grad=True)
    with forward_pass(layer) as routings:
        y = layer(x)
    parameters = [x, *(p for p in layer.parameters() if p.requires_grad)]
    oracle = dense_loop(layer, x, routings[0])
    torch.testing.assert_close(y, oracle)
    upstream = torch.randn_like(y)
    fast = torch.autograd.grad(y, parameters, upstream, retain_graph=True, allow_unused=True)
    slow = torch.autograd.grad(oracle, parameters, upstream, allow_unused=True)
    for got, want in zip(fast, slow, strict=True):
        torch.testing.assert_close(got, want)


def test_one_expert_without_a_capacity_equals_the_mlp():
    mlp = Mlp(6, 5)
    layer = layer_of("softmax_token_choice", experts=1).float()
    with torch.no_grad():
        for weight, linear in (("weight1", mlp.fc1), ("weight2", mlp.fc2)):
            getattr(layer.experts, weight).copy_(linear.weight.T.unsqueeze(0))
        layer.experts.bias1.copy_(mlp.fc1.bias)
        layer.experts.bias2.copy_(mlp.fc2.bias)
    x = torch.randn(2, 8, 6)
    torch.testing.assert_close(layer(x), mlp(x))


@pytest.mark.parametrize(
    ("groups", "shape"), [("image", (4, 8)), ("batch", (1, 32)), (16, (2, 16))]
)
def test_tokens_are_grouped_by_image_batch_or_size(groups, shape):
    layer = layer_of("softmax_token_choice")
    layer.groups = groups
    with forward_pass(layer) as routings:
        layer(torch.randn(4, 8, 6, dtype=torch.float64))
    assert routings[0].gates.shape == (*shape, 3)


def test_a_group_size_that_does_not_divide_is_refused():
    layer = layer_of("softmax_token_choice")
    layer.groups = 5
    with pytest.raises(RequestError, match=r"groups = 5 does not divide .*, 32;"):
        layer(torch.randn(4, 8, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("layers", "depth", "chosen"),
    [
        ("every2", 12, [1, 3, 5, 7, 9, 11]),
        ("last2", 12, [9, 11]),
        ("last2", 4, [1, 3]),
        ("all", 3, [0, 1, 2]),
        ([-1, 0], 4, [0, 3]),
    ],
)
def test_layers_are_selected_by_name_or_keyword(layers, depth, chosen):
    assert chosen_layers(layers, depth) == chosen


def test_layers_that_do_not_exist_are_refused():
    with pytest.raises(RequestError, match="'last3'"):
        chosen_layers("last3", 12)
    with pytest.raises(RequestError, match="block 12"):
        chosen_layers([12], 12)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("vit_tiny_patch16_224", TINY, 16),
        (
            "deit_tiny_distilled_patch16_224",
            {"img_size": 32, "embed_dim": 24, "depth": 4, "num_heads": 2},
            32,
        ),
        ("mixer", {"img_size": 16, "patch_size": 4, "embed_dim": 24, "num_blocks": 4}, 16),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 56, "embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2)},
            56,
        ),
    ],
)
@pytest.mark.parametrize("router", ["softmax_token_choice", "soft_moe"])
def test_moefy_replaces_the_chosen_mlps_and_keeps_everything_else(name, options, size, router):
    torch.manual_seed(0)
    create = MlpMixer if name == "mixer" else partial(timm.create_model, name)
    dense = create(num_classes=5, **options)
    model = moefy(copy.deepcopy(dense), router=router, num_experts=2, layers=[1, 3], seed=1)
    replaced = [list(blocks_of(dense))[index] for index in (1, 3)]
    assert list(moe_layers(model)) == replaced
    kept = {k: v for k, v in dense.state_dict().items() if not k.startswith(tuple(replaced))}
    for key, value in kept.items():
        assert model.state_dict()[key].equal(value)
    images = torch.randn(2, 3, size, size)
    with forward_pass(model) as routings:
        logits = model(images)
    assert len(routings) == 2
    logits.sum().backward()
    for layer in moe_layers(model).values():
        assert all(p.grad is not None for p in layer.parameters())


def test_routings_are_recorded_only_within_a_pass_and_reach_the_next_layer():
    model = moefy(timm.create_model("vit_tiny_patch16_224", **TINY), num_experts=2, layers="all")
    seen = []
    for layer in moe_layers(model).values():
        layer.router.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    images = torch.randn(2, 3, 16, 16)
    labels = torch.tensor([0, 1])
    with forward_pass(model, labels=labels, step=7) as routings:
        model(images)
    assert [context.step for context in seen] == [7] * 4
    assert all(context.labels is labels for context in seen)
    assert seen[0].previous_logits is None
    for context, routing in zip(seen[1:], routings, strict=False):
        assert context.previous_logits is routing.logits
    model(images)
    assert len(routings) == 4
    assert seen[-1].step is None


@pytest.mark.parametrize("router", ["softmax_token_choice", "soft_moe"])
@pytest.mark.parametrize("before", [True, False])
def test_a_model_in_half_precision_keeps_its_routers_in_float32(router, before):
    vit = timm.create_model("vit_tiny_patch16_224", **TINY)
    if before:
        model = moefy(vit.bfloat16(), router=router, num_experts=2)
    else:
        model = moefy(vit, router=router, num_experts=2).bfloat16()
    with forward_pass(model) as routings:
        logits = model(torch.randn(2, 3, 16, 16, dtype=torch.bfloat16))
    assert logits.dtype == torch.bfloat16
    assert routings[0].gates.dtype == torch.float32
    layer = next(iter(moe_layers(model).values()))
    assert {p.dtype for p in layer.router.parameters()} == {torch.float32}
    assert {p.dtype for p in layer.experts.parameters()} == {torch.bfloat16}


def test_the_dropout_of_the_mlp_is_kept():
    vit = timm.create_model("vit_tiny_patch16_224", **TINY, proj_drop_rate=0.3)
    layer = next(iter(moe_layers(moefy(vit, num_experts=2)).values()))
    assert (layer.experts.drop1.p, layer.experts.drop2.p) == (0.3, 0.3)
    x = torch.randn(2, 16, 24)
    assert not layer(x).equal(layer(x))
    assert layer.eval()(x).equal(layer(x))


def test_a_gated_mlp_is_refused():
    model = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=2)
    with pytest.raises(RequestError, match="two linear layers"):
        moefy(model, layers=[0])


def build(router, seed=0, model=MODEL, **experts):
    spec = TrialSpec(
        router=RouterConfig(name=router),
        experts=ExpertsConfig(**{"num_experts": 4, **experts}),
        model=model,
        data=DataConfig(name="digits"),
        train=TrainConfig(),
        compute=ComputeConfig(),
        seed=seed,
    )
    return trial_model(spec, DataShape((1, 16, 16), 5, 1))


def test_models_with_one_seed_share_all_weights_except_those_of_moe_layers():
    dense, soft, choice = (build(r).state_dict() for r in ("dense", "soft_moe", "hash"))
    assert all(soft[key].equal(choice[key]) for key in soft.keys() & choice.keys())
    assert any("experts" in key for key in soft.keys() & choice.keys())
    shared = dense.keys() & soft.keys()
    assert all(dense[key].equal(soft[key]) for key in shared)
    assert len(shared) > 30
    other = build("soft_moe", seed=1).state_dict()
    assert not other["blocks.0.mlp.fc1.weight"].equal(soft["blocks.0.mlp.fc1.weight"])
    assert not other["blocks.1.mlp.experts.weight1"].equal(soft["blocks.1.mlp.experts.weight1"])


def test_building_a_model_does_not_touch_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build("softmax_token_choice")
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("options", [{}, {"hidden": 7}])
def test_dense_params_has_as_many_parameters_as_the_moe(options):
    def size(model):
        return sum(p.numel() for p in model.parameters())

    moe = size(build("softmax_token_choice", options=options))
    widened = size(build("dense_params", options=options))
    # One hidden unit in each of two layers is the finest step possible.
    assert abs(moe - widened) <= 2 * (2 * 24 + 1)


def test_experts_are_initialised_like_the_mlp_that_they_replace():
    mixer = MlpMixer(img_size=16, patch_size=4, embed_dim=64, num_blocks=2)
    spread = mixer.blocks[1].mlp_channels.fc1.weight.std().item()
    moefy(mixer, layers=[1], num_experts=4)
    experts = mixer.blocks[1].mlp_channels.experts
    assert experts.weight1.std().item() == pytest.approx(spread, rel=0.02)
    assert experts.bias1.abs().max() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "vit_tinny"}, "no model 'vit_tinny'"),
        ({"options": {"colour": 3}}, "colour"),
        ({"layers": (9,)}, "block 9"),
        ({"options": {**TINY, "img_size": 32}}, "does not take images of 1 x 16 x 16"),
    ],
)
def test_a_wrong_model_is_refused_with_the_reason(change, message):
    config = ModelConfig(**{"options": TINY, **change})
    with pytest.raises(RequestError, match=message):
        build("hash", model=config)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_expert_race_predicts_the_models_classes_in_each_layer(checkpointed):
    model = moefy(
        timm.create_model("vit_tiny_patch16_224", num_classes=7, **TINY),
        router="expert_race",
        router_options={"per_layer_weight": 0.5},
        layers="every2",
        seed=0,
    ).train()
    model.set_grad_checkpointing(checkpointed)
    images, labels = torch.randn(3, 3, 16, 16), torch.tensor([6, 0, 2])
    losses = Objective(TrainConfig())(model, images, labels, step=0)
    layers = moe_layers(model).values()
    assert [layer.router.head.out_features for layer in layers] == [7, 7]
    own = [
        layer.router.own_loss(routing, Batch(images, labels))
        for layer, routing in zip(layers, losses.routings, strict=True)
    ]
    torch.testing.assert_close(losses.total - losses.task, sum(own))
    losses.total.backward()
    assert all(layer.router.head.weight.grad.any() for layer in layers)
