"""A backbone starts from the weights in a file, and its last layer can be an MoE layer."""

import pytest
import timm
import torch
from safetensors.torch import save_file

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
from routers import RequestError

OPTIONS = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
}


@pytest.fixture
def saved(tmp_path):
    """Weights of a model for three channels and 7 classes, and their file."""
    torch.manual_seed(3)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **OPTIONS)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    return model, str(tmp_path / "vit.safetensors")


def built(
    weights, router="softmax_mixture", experts="linear", layers="head", num_classes=5, **options
):
    spec = TrialSpec(
        model=ModelConfig(
            name="vit_tiny_patch16_224", options=options or OPTIONS, weights=weights, layers=layers
        ),
        router=RouterConfig(name=router),
        experts=ExpertsConfig(name=experts, num_experts=3),
        data=DataConfig(name="digits"),
        train=TrainConfig(),
        compute=ComputeConfig(),
    )
    return trial_model(spec, DataShape((3, 16, 16), num_classes, 1))


def test_the_backbone_comes_from_the_file_and_the_head_is_an_moe_layer(saved):
    model, file = saved
    ours = built(file)
    assert list(moe_layers(ours)) == ["head"]
    expected = {n: p for n, p in model.named_parameters() if not n.startswith("head")}
    backbone = {n: p for n, p in ours.named_parameters() if not n.startswith("head")}
    assert backbone.keys() == expected.keys()
    for name, parameter in expected.items():
        torch.testing.assert_close(backbone[name], parameter)
    images = torch.randn(4, 3, 16, 16)
    with forward_pass(ours.eval()) as routings:
        logits = ours(images)
    assert logits.shape == (4, 5)
    assert routings[0].gates.shape == (4, 1, 3)
    head, features = ours.head, ours.forward_head(ours.forward_features(images), pre_logits=True)
    each = torch.einsum("nd,edo->neo", features, head.experts.weight) + head.experts.bias[:, 0]
    torch.testing.assert_close(logits, torch.einsum("ne,neo->no", routings[0].gates[:, 0], each))


def test_a_baseline_starts_from_the_file_too(saved):
    model, file = saved
    torch.testing.assert_close(
        built(file, "dense").blocks[1].mlp.fc1.weight, model.blocks[1].mlp.fc1.weight
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**OPTIONS, "depth": 3}, "does not fit|lacks 12 of the"),
        ({**OPTIONS, "embed_dim": 48}, "does not fit"),
    ],
)
def test_weights_of_another_model_are_refused(saved, options, message):
    with pytest.raises(RequestError, match=message):
        built(saved[1], **options)


def test_a_missing_file_is_named():
    with pytest.raises(RequestError, match=r"model\.weights = 'nowhere\.pth': there is no such"):
        built("nowhere.pth")


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(RequestError, match="is not a checkpoint"):
        built(str(tmp_path / "text.pth"))


def test_the_parameters_of_a_head_cannot_be_matched_by_a_wide_mlp():
    with pytest.raises(RequestError, match="leave out 'dense_params'"):
        built(None, "dense_params")


def test_mlp_experts_cannot_replace_a_linear_layer():
    with pytest.raises(RequestError, match="experts 'mlp' cannot replace a linear layer; linear"):
        built(None, experts="mlp")


def test_a_last_layer_that_fits_comes_from_the_file_too(saved):
    model, file = saved
    same = built(file, "dense", num_classes=7)
    torch.testing.assert_close(same.head.weight, model.head.weight)
