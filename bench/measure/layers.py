"""Subjects of layer suites: bare layers and models of a trial, before any training."""

from functools import partial

import torch
from torch import Tensor, nn

from bench.compute import count_flops
from bench.config import DENSE, Options, RouterConfig, TrialSpec
from bench.data import ShapedData
from bench.model import (
    EXPERTS,
    MoELayer,
    ReplacedMLP,
    build_experts,
    forward_pass,
    moe_layers,
    moe_seed,
    seeded,
    site_of,
    trial_model,
    widen,
)
from routers import ROUTERS, Baseline, build_router


class LayerOfTrial:
    """Layers and models of a trial before training, as a suite's `LayerSubject`.

    Args:
        spec: the trial; only its seed, twin, router, experts and model matter.
        data: the shape of the model's images.
    """

    def __init__(self, spec: TrialSpec, data: ShapedData, device: torch.device) -> None:
        self._spec, self._data = spec, data
        self.device = device
        self.router_name = spec.router.name
        self.image_shape = data.image_shape
        self.num_experts = spec.experts.num_experts
        layer = layers_by_image(spec, data)[0]
        assert layer.router.tokens is not None  # groups are images
        self.tokens, replaced = layer.router.tokens, layer.experts.replaced
        self.dim = replaced.dim
        self.hidden = spec.experts.options.get("hidden") or replaced.hidden
        self.replaces_mlps = isinstance(replaced, ReplacedMLP)

    def layer(self, batch: int, tokens: int, dim: int, hidden: int, num_experts: int) -> nn.Module:
        """Build the router's MoE layer, or the baseline's MLP: (batch, tokens, dim) to the same."""
        seed, router = moe_seed(self._spec.seed, self._spec.twin), self._spec.router
        target, options = ROUTERS.get(router.name).target, self._options_without_width()
        with seeded(seed):
            if issubclass(target, Baseline):
                block = nn.ModuleDict({"mlp": self.mlp(dim, hidden)})
                if target.widen:
                    widen(
                        block,
                        layers="all",
                        experts=self._spec.experts.name,
                        num_experts=num_experts,
                        experts_options=options,
                        seed=seed,
                        shared=self._spec.experts.shared,
                    )
                return block["mlp"].to(self.device)
            groups = self._spec.model.groups
            named = {"image": tokens, "batch": batch * tokens}
            in_group = named[groups] if isinstance(groups, str) else groups
            make = partial(
                build_experts, self._spec.experts.name, replaced=ReplacedMLP(dim, hidden), **options
            )
            experts, shared = make(num_experts=num_experts), self._spec.experts.shared
            gate = build_router(
                router.name,
                dim=dim,
                num_experts=num_experts,
                tokens=in_group,
                site=site_of(experts, self._data.num_classes),
                **router.options,
            )
            also = make(num_experts=shared) if shared else None
            return MoELayer(gate, experts, groups, also).to(self.device)

    def mlp(self, dim: int, hidden: int) -> nn.Module:
        """Build a dense MLP of the same kind as one expert: (…, dim) to the same."""
        from timm.layers.mlp import Mlp

        return Mlp(dim, hidden).to(self.device)

    def dense_rows(self, layer: nn.Module, mlp: nn.Module, x: Tensor) -> int:
        """Return how many rows cost `mlp` the FLOPs of the layer's experts, or of a baseline."""
        if isinstance(layer, MoELayer):
            with torch.no_grad(), forward_pass(layer) as routings:
                layer(x)
            shared = 0 if layer.shared is None else layer.shared.num_experts
            return layer.experts.rows(routings[0]) + shared * x.shape[:-1].numel()
        ratio = count_flops(layer, x).total / count_flops(mlp, x).total
        return round(ratio * x.shape[:-1].numel())

    def model(self) -> nn.Module:
        """Build the whole model, untrained: (n, c, h, w) to (n, classes)."""
        return trial_model(self._spec, self._data).to(self.device)

    def dense_model(self) -> nn.Module:
        """Build the model without MoE layers, untrained."""
        return trial_model(self._spec, self._data, router=DENSE).to(self.device)

    def _options_without_width(self) -> Options:
        """Return the experts' options without a width that was solved for the model's layers."""
        experts = self._spec.experts
        width = EXPERTS.get(experts.name).target.width
        own = {"hidden"} | ({width} if f"experts.options.{width}" in self._spec.found else set())
        return {name: value for name, value in experts.options.items() if name not in own}


def layers_by_image(spec: TrialSpec, data: ShapedData) -> list[MoELayer]:
    """List a model's MoE layers, with each image's tokens as a group, so that any batch fits.

    Their router is replaced by one that takes any shape, since baselines have no such layer.
    """
    model = spec.model.model_copy(update={"groups": "image"})
    spec = spec.model_copy(update={"model": model})
    return list(moe_layers(trial_model(spec, data, router=RouterConfig(name="random"))).values())
