"""The model of a trial, built from its description."""

from __future__ import annotations

from torch import nn

from bench.config import ExpertsConfig, ModelConfig, RouterConfig, TrialSpec
from bench.data import Purpose, ShapedData, random_bits
from bench.model.backbone import dense_model, moefy, widen
from bench.model.layers import tokens_of
from routers import ROUTERS, Baseline


def moe_seed(seed: int, aa_replicate: int = 0) -> int:
    """Return the seed of the weights of a trial's MoE layers, apart from the seed of all others.

    So the rest of the model has the same initial weights whatever the router, also in an A/A pair.
    """
    # A hash, since torch's CPU generator uses the lowest 32 bits of a seed alone.
    return int(random_bits(Purpose.MOE_WEIGHTS, seed, aa_replicate)[0])


def build_model(
    model: ModelConfig,
    router: RouterConfig,
    experts: ExpertsConfig,
    *,
    in_chans: int,
    num_classes: int,
    seed: int,
    aa_replicate: int = 0,
    input_size: tuple[int, int] | None = None,
) -> nn.Module:
    """Build a timm model with MoE layers, or a dense one where the router is a baseline.

    Args:
        model: the timm model, and which of its blocks become MoE layers.
        router: a registered router or baseline, with its hyper-parameters.
        experts: what the slots run.
        in_chans: channels of an image.
        num_classes: outputs.
        seed: of the weights; those of the MoE layers come from a stream of their own.
        aa_replicate: see `TrialSpec`.
        input_size: height and width of an image; the model's own where None.

    Returns:
        float32 weights on torch's default device.

    Raises:
        RequestError: a name or an option that does not exist.
    """
    net = dense_model(
        model.name,
        in_chans=in_chans,
        num_classes=num_classes,
        seed=seed,
        options=dict(model.options),
        weights=model.weights,
    )
    target = ROUTERS.get(router.name).target
    image = (in_chans, *input_size) if input_size else None
    if issubclass(target, Baseline):
        tokens_of(net, [], image)
        if target.widen:
            widen(
                net,
                layers=model.layers,
                experts=experts.name,
                num_experts=experts.num_experts,
                experts_options=dict(experts.options),
                seed=moe_seed(seed, aa_replicate),
            )
        return net
    return moefy(
        net,
        router=router.name,
        experts=experts.name,
        num_experts=experts.num_experts,
        layers=model.layers,
        groups=model.groups,
        router_options=dict(router.options),
        experts_options=dict(experts.options),
        input_size=image,
        seed=moe_seed(seed, aa_replicate),
    )


def trial_model(
    spec: TrialSpec, data: ShapedData, *, router: RouterConfig | None = None
) -> nn.Module:
    """Build a trial's model with its initial weights, on torch's default device.

    Args:
        spec: the trial.
        data: the shape of its data.
        router: a router in place of the trial's own.
    """
    channels, *size = data.image_shape
    return build_model(
        spec.model,
        router or spec.router,
        spec.experts,
        in_chans=channels,
        num_classes=data.num_classes,
        seed=spec.seed,
        aa_replicate=spec.twin,
        input_size=(size[0], size[1]),
    )
