"""A batch without images passes through MoE layers as it does through timm's blocks."""

from itertools import cycle

import pytest
import timm
import torch

from bench.config.schema import TrainConfig
from bench.model import (
    EXPERTS,
    MoELayer,
    ReplacedLinear,
    ReplacedMLP,
    ReplacedNetwork,
    build_experts,
    forward_pass,
    moefy,
)
from bench.model.backbone import site_of
from bench.model.objective import Objective
from routers import LOSSES, ROUTERS, Baseline, Batch, RequestError, build_router, list_routers

ROUTED = [name for name in list_routers() if not issubclass(ROUTERS.get(name).target, Baseline)]
REPLACED = (ReplacedMLP(12, 24), ReplacedLinear(12, 9), ReplacedNetwork((1, 6, 6), 2, (5, 4), 3))


def layers(router):
    """Yield a layer for each kind of experts that works with the router, and a batch for it."""
    groups = cycle(("image", "batch", 4))
    for experts in EXPERTS.names():
        for replaced in REPLACED:
            options = {"rank": 3} if experts in ("cp", "tr") else {}
            try:
                behind = build_experts(experts, num_experts=4, replaced=replaced, **options)
                site = site_of(behind)
                gate = build_router(router, dim=replaced.dim, num_experts=4, tokens=4, site=site)
                layer = MoELayer(gate, behind, next(groups))
                x = torch.randn(4, *(4,) * (len(replaced.token_shape) == 1), *replaced.token_shape)
                layer.eval()(x)
            except RequestError:  # a meaningless combination
                continue
            yield layer, x


@pytest.mark.parametrize("router", ROUTED)
def test_a_layer_accepts_a_batch_without_images(router):
    seen = list(layers(router))
    assert seen
    for layer, x in seen:
        output = layer(x).shape
        for mode in (True, False):
            empty = x[:0].clone().requires_grad_()
            with forward_pass(layer.train(mode)) as routings:
                y = layer(empty)
            assert y.shape == (0, *output[1:])
            y.sum().backward()
            assert not any(p.grad.any() for p in layer.parameters() if p.grad is not None)
            (routing,) = routings
            assert routing.slot_count == 0
            assert routing.expert_load().sum() == routing.demand().sum() == 0
            assert routing.token_coverage().shape == routing.first_choice().shape
            assert routing.dispatch_tensor().shape == routing.combine_tensor().shape
            assert routing.dropped_share() == 0
        assert all(b.isfinite().all() for b in layer.buffers())


@pytest.mark.parametrize("router", ["softmax_token_choice", "softmax_expert_choice", "soft_moe"])
def test_a_model_accepts_a_batch_without_images(router):
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=12, depth=2, num_classes=5
    )
    model = moefy(vit, router=router, num_experts=2, layers="all")
    logits = model(torch.zeros(0, 3, 8, 8))
    assert logits.shape == (0, 5)
    logits.sum().backward()


def test_a_loss_over_no_images_is_refused():
    with pytest.raises(RequestError, match="this one has none"):
        Batch(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.long))
    objective = Objective(TrainConfig(losses=dict.fromkeys(LOSSES.names(), 0.1)))
    empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    with pytest.raises(RequestError, match="this one has none"):
        objective(torch.nn.Linear(4, 3), *empty, step=0)
