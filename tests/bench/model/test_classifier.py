"""Experts that are complete classifiers: a token is an image, and distributions are mixed."""

import pytest
import timm
import torch

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
from bench.model import forward_pass, moe_layers, trial_model
from bench.model.classifier import ImageNetwork
from routers import RequestError

ATTENTIVE = {"affinity_options": {"body_of": "conv", "body_options": {"hidden": [7, 6]}}}


def build(model, router, experts):
    spec = TrialSpec(
        model=model,
        router=router,
        experts=experts,
        data=DataConfig(name="digits"),
        train=TrainConfig(),
        compute=ComputeConfig(),
    )
    return trial_model(spec, DataShape((1, 8, 8), 4, 1))


def model_of(router="softmax_mixture", groups="batch", channels=2, **options):
    return build(
        ModelConfig(
            name="image_classifier",
            options={"img_size": 8, "channels": channels, "hidden": [5, 6]},
            layers="all",
            groups=groups,
        ),
        RouterConfig(name=router, options=options),
        ExpertsConfig(name="classifier", num_experts=3),
    )


def networks_of(experts):
    """Return each expert as a separate network."""
    networks = []
    for e in range(experts.num_experts):
        place = experts.replaced
        network = ImageNetwork(place.token_shape, place.channels, place.widths, place.classes)
        with torch.no_grad():
            if network.convolution is not None:
                own = slice(e * place.channels, (e + 1) * place.channels)
                network.convolution.weight.copy_(experts.kernel[own])
                network.convolution.bias.copy_(experts.kernel_bias[own])
            layers = [*network.layers, network.last]
            for layer, weight, bias in zip(layers, experts.weights, experts.biases, strict=True):
                layer.weight.copy_(weight[e].T)
                layer.bias.copy_(bias[e, 0])
        networks.append(network)
    return networks


@pytest.mark.parametrize("channels", [0, 2])
@pytest.mark.parametrize("groups", ["image", "batch", 2])
def test_the_model_returns_the_logarithm_of_a_mixture_of_distributions(channels, groups):
    model = model_of(channels=channels, groups=groups)
    images = torch.randn(4, 1, 8, 8)
    with forward_pass(model) as routings:
        logits = model(images)
    gates = routings[0].gates.reshape(4, 3)
    each = torch.stack([net(images) for net in networks_of(model.network.experts)], 1)
    torch.testing.assert_close(logits.exp(), torch.einsum("ne,nec->nc", gates, each))
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(4))


@pytest.mark.parametrize(
    ("router", "options"),
    [
        ("softmax_mixture", {"affinity": "conv"}),
        ("attentive", ATTENTIVE),
        ("softmax_token_choice", {"top_k": 2, "capacity_factor": None}),
        ("softmax_expert_choice", {}),
        ("soft_moe", {"num_slots": 2}),
        ("random", {}),
    ],
)
def test_any_router_can_route_whole_images(router, options):
    model = model_of(router, **options)
    logits = model(torch.randn(6, 1, 8, 8))
    assert logits.shape == (6, 4)
    logits.sum().backward()
    assert model.network.experts.weights[0].grad.isfinite().all()


def test_after_training_only_the_chosen_expert_runs():
    model = model_of(affinity="conv", eval_top_k=1)
    images = torch.randn(6, 1, 8, 8)
    with forward_pass(model) as dense:
        model.train()(images)
    with forward_pass(model) as sparse:
        logits = model.eval()(images)
    assert dense[0].slot_count == 6 * 3
    assert sparse[0].slot_count == 3 * int(sparse[0].demand().max())
    chosen = sparse[0].gates[0].argmax(-1)
    each = torch.stack([net(images) for net in networks_of(model.network.experts)], 1)
    wanted = each[torch.arange(6), chosen]
    torch.testing.assert_close(logits.softmax(-1), wanted)


def test_the_dense_model_is_one_expert():
    dense = build(
        ModelConfig(name="image_classifier", options={"img_size": 8}, layers="all"),
        RouterConfig(name="dense"),
        ExpertsConfig(),
    )
    assert not moe_layers(dense)
    assert dense.network.widths == (5, 32)


def test_experts_and_parts_of_other_shapes_are_refused():
    with pytest.raises(RequestError, match="'mlp' cannot replace a network; classifier can"):
        build(
            ModelConfig(name="image_classifier", options={"img_size": 8}, layers="all"),
            RouterConfig(name="random"),
            ExpertsConfig(),
        )
    with pytest.raises(RequestError, match=r"'last2' chooses no block of"):
        build(
            ModelConfig(name="image_classifier", options={"img_size": 8}),
            RouterConfig(name="random"),
            ExpertsConfig(name="classifier"),
        )


@pytest.mark.parametrize("options", [{"hidden": []}, {"img_size": 3}, {"depth": 2}])
def test_unsupported_options_are_refused(options):
    with pytest.raises(TypeError, match="image_classifier: check"):
        timm.create_model("image_classifier", **options)


def test_the_conv_affinity_needs_images():
    with pytest.raises(RequestError, match=r"needs tokens that are images.*shape \(24,\)"):
        build(
            ModelConfig(
                name="vit_tiny_patch16_224",
                options={
                    "img_size": 8,
                    "patch_size": 4,
                    "embed_dim": 24,
                    "depth": 2,
                    "num_heads": 2,
                },
                layers="all",
            ),
            RouterConfig(name="softmax_mixture", options={"affinity": "conv"}),
            ExpertsConfig(num_experts=3),
        )
