"""An MLP is replaced exactly, or named and refused."""

from functools import partial

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import (
    ConvMlp,
    GatedMlp,
    GlobalResponseNormMlp,
    GluMlp,
    Mlp,
    SwiGLU,
    SwiGLUPacked,
    activations,
)
from torch import nn

from bench.model import MoELayer, moefy
from bench.model.backbone import blocks_of
from bench.model.experts import replaced_by
from routers import RequestError

WIDTH, HIDDEN = 8, 12


class Block(nn.Module):
    """A minimal model with an MLP: tokens are the pixels of an image, channels last or first."""

    def __init__(self, mlp, channels_first=False):
        super().__init__()
        self.mlp, self.channels_first = mlp, channels_first

    def forward(self, images):
        return self.mlp(images if self.channels_first else images.permute(0, 2, 3, 1))


def with_weights_of(layer, mlp):
    """Give the only expert of a layer the weights of the MLP."""
    experts = layer.experts
    for number, linear in enumerate((mlp.fc1, mlp.fc2), 1):
        getattr(experts, f"weight{number}").data = linear.weight.detach().T.unsqueeze(0).clone()
        bias = getattr(experts, f"bias{number}")
        assert (bias is None) == (linear.bias is None)
        if bias is not None:
            bias.data = linear.bias.detach().view(1, 1, -1).clone()
    return layer


def replaced(mlp):
    """Return an MoE layer of one expert in place of the MLP, with its weights."""
    size = mlp.fc1.in_features, 2, 2
    layer = moefy(Block(mlp), layers="all", num_experts=1, input_size=size).mlp
    assert isinstance(layer, MoELayer)
    return with_weights_of(layer, mlp)


def assert_replaced_exactly(mlp):
    x = torch.randn(3, 5, mlp.fc1.in_features) * 3
    torch.testing.assert_close(replaced(mlp).eval()(x), mlp.eval()(x))


ACTIVATIONS = [
    nn.GELU,
    partial(nn.GELU, approximate="tanh"),
    partial(nn.LeakyReLU, 0.3),
    partial(nn.LeakyReLU, 0.3, inplace=True),
    partial(nn.ELU, alpha=0.4),
    partial(nn.Hardtanh, -0.2, 0.7),
    partial(nn.Softplus, beta=3),
    partial(nn.Threshold, 0.1, -2.0),
    nn.SiLU,
    activations.GELUTanh,
    activations.QuickGELU,
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_an_mlps_activation_is_kept_with_its_settings(activation, bias):
    assert_replaced_exactly(Mlp(WIDTH, HIDDEN, act_layer=activation, bias=bias))


@pytest.mark.parametrize("experts", ["cp", "tr"])
def test_factorised_experts_keep_the_activation_too(experts):
    block = Block(Mlp(WIDTH, HIDDEN, act_layer=partial(nn.LeakyReLU, 0.3)))
    options = {"experts": experts, "experts_options": {"rank": 2}, "router": "softmax_mixture"}
    layer = moefy(block, layers="all", num_experts=2, input_size=(WIDTH, 2, 2), **options).mlp
    assert layer.experts.activation.negative_slope == 0.3


class Square(nn.Module):
    """An activation that is unknown to the bench."""

    def forward(self, x):
        return x**2


class Scaled(Mlp):
    """Looks like timm's MLP but does more."""

    def forward(self, x):
        return 2 * super().forward(x)


def built(change):
    mlp = Mlp(WIDTH, HIDDEN)
    change(mlp)
    return mlp


ODD = {
    "a Mlp whose norm is LayerNorm": lambda: Mlp(WIDTH, HIDDEN, norm_layer=nn.LayerNorm),
    "a Mlp whose fc1 is Conv2d": lambda: Mlp(WIDTH, HIDDEN, use_conv=True),
    "a Mlp whose act is PReLU": lambda: Mlp(WIDTH, HIDDEN, act_layer=nn.PReLU),
    "a Mlp whose act is Softmax": lambda: Mlp(WIDTH, HIDDEN, act_layer=partial(nn.Softmax, dim=1)),
    "a Mlp whose act is Square": lambda: Mlp(WIDTH, HIDDEN, act_layer=Square),
    "a Mlp with a bias in one layer": lambda: Mlp(WIDTH, HIDDEN, bias=(False, True)),
    "a Mlp from width 8 to 6": lambda: Mlp(WIDTH, HIDDEN, 6),
    "a Mlp whose fc1 is ParametrizedLinear": lambda: built(
        lambda mlp: nn.utils.parametrizations.weight_norm(mlp.fc1)
    ),
    r"a Mlp whose fc2 is Linear.* with hooks": lambda: built(
        lambda mlp: mlp.fc2.register_forward_hook(lambda module, args, output: output + 1)
    ),
    "a Mlp: ": lambda: built(lambda mlp: mlp.add_module("adapter", nn.Linear(WIDTH, WIDTH))),
    "a Scaled: ": lambda: Scaled(WIDTH, HIDDEN),
    "a GluMlp: ": lambda: GluMlp(WIDTH, HIDDEN),
    "a GluMlp: .*two linear layers": lambda: SwiGLUPacked(WIDTH, HIDDEN),
    "a SwiGLU: ": lambda: SwiGLU(WIDTH, HIDDEN),
    "a GatedMlp: ": lambda: GatedMlp(WIDTH, HIDDEN),
    "a ConvMlp: ": lambda: ConvMlp(WIDTH, HIDDEN),
    "a GlobalResponseNormMlp: ": lambda: GlobalResponseNormMlp(WIDTH, HIDDEN),
}


@pytest.mark.parametrize("message", ODD)
def test_an_unusual_mlp_is_named_and_refused(message):
    mlp = ODD[message]()
    first = isinstance(getattr(mlp, "fc1", None), nn.Conv2d)
    block = Block(mlp, first)
    with pytest.raises(RequestError, match=f"cannot replace {message}"):
        moefy(block, layers="all", input_size=(WIDTH, 2, 2))
    assert block.mlp is mlp


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(
        [Mlp, GluMlp, SwiGLU, SwiGLUPacked, GatedMlp, ConvMlp, GlobalResponseNormMlp]
    ),
    options=st.fixed_dictionaries(
        {"bias": st.sampled_from([True, False, (True, False), (False, True)])},
        optional={
            "act_layer": st.sampled_from([*ACTIVATIONS, nn.PReLU, Square, nn.ReLU]),
            "norm_layer": st.sampled_from([nn.Identity, nn.LayerNorm, nn.BatchNorm2d]),
            "use_conv": st.booleans(),
            "drop": st.sampled_from([0.0, 0.4]),
        },
    ),
)
def test_every_mlp_of_timm_is_replaced_exactly_or_refused(kind, options):
    try:
        mlp = kind(WIDTH, HIDDEN, **options).eval()
    except TypeError:  # it has no such option
        return
    convolves = any(isinstance(module, nn.Conv2d) for module in mlp.modules())
    images = torch.randn(2, WIDTH, 3, 3)
    block = Block(mlp, convolves)
    try:
        dense = block(images)
    except (RuntimeError, ValueError):  # of its options some do not go together
        return
    try:
        layer = moefy(block, layers="all", num_experts=1, input_size=(WIDTH, 3, 3)).mlp
    except RequestError:
        return
    with_weights_of(layer, mlp)
    torch.testing.assert_close(block.eval()(images), dense)


REPLACED = """
beit_base_patch16_224 cait_xxs24_224 coat_tiny convit_tiny davit_tiny edgenext_xx_small gcvit_xxtiny
csatv2 hiera_tiny_224 hieradet_small mixer_s32_224 mobilevit_xxs mvitv2_tiny nest_tiny sequencer2d_s
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tnt_s_patch16_224
twins_svt_small vit_tiny_patch16_224 samvit_base_patch16 volo_d1_224 xcit_nano_12_p8_224
"""
"""One model of each timm family in which every block's MLP can be replaced."""

REFUSED = """
caformer_s18 convnextv2_tiny efficientformer_l1 efficientformerv2_s0 eva02_tiny_patch14_224
fasternet_t0 fastvit_t8 focalnet_tiny_srf gemma4_vit_167m gmlp_s16_224 inception_next_atto
levit_128s lowformer_b0 maxvit_rmlp_pico_rw_256 nextvit_small pvt_v2_b0 tiny_vit_5m_224
visformer_tiny vit_relpos_small_patch16_224
"""
"""One model of each family in which some cannot."""


def mlps_of(name):
    """Yield each kind of MLP in a model, with random weights; the rest of the model has none."""
    with torch.device("meta"):
        model = timm.create_model(name)
    kinds = {repr(mlp): mlp for mlp in blocks_of(model).values()}
    assert kinds
    for mlp in kinds.values():
        mlp.to_empty(device="cpu")
        for parameter in mlp.parameters():
            nn.init.normal_(parameter, std=0.1)
        yield mlp


@pytest.mark.parametrize("name", REPLACED.split())
@pytest.mark.slow
def test_the_mlps_of_a_family_are_replaced_exactly(name):
    for mlp in mlps_of(name):
        assert_replaced_exactly(mlp)


@pytest.mark.parametrize("name", REFUSED.split())
def test_the_mlps_of_a_family_are_named_and_refused_or_replaced_exactly(name):
    refused = []
    for mlp in mlps_of(name):
        try:
            replaced_by(mlp)
        except RequestError as error:
            refused.append(str(error))
        else:
            assert_replaced_exactly(mlp)
    assert refused
    assert all("cannot replace a " in message for message in refused)


def test_convnext_v2_is_refused_as_a_whole():
    model = timm.create_model("convnextv2_tiny", depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
    before = list(model.state_dict())
    with pytest.raises(RequestError, match="a GlobalResponseNormMlp"):
        moefy(model, layers="all", input_size=(3, 64, 64))
    assert list(model.state_dict()) == before
