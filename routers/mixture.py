"""Routers that let every expert see every token, and weight the experts' outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from entmax.activations import Entmax15Function
from torch import Tensor, nn
from torch.nn import functional as F

from routers.affinity import Affinity
from routers.errors import RequestError
from routers.hyper import hyper
from routers.layer_info import RouterContext
from routers.logits import expert_softmax, highest, readable
from routers.router import Unlimited, register_router
from routers.routing import MixtureRouting, Routing, TokenChoiceRouting


class WeighedMixture(Unlimited):
    """Base class of mixtures weighted by the softmax of the logits."""

    ignores_groups = True
    weighed_top_k: int | None = hyper(
        None, "Experts with a weight above 0, per token; None for all.", ge=1
    )

    def set_hyper(self, options: Mapping[str, Any]) -> None:
        super().set_hyper(options)
        for name, k in self.hyper_values().items():
            if name.endswith("top_k") and k is not None and k > self.num_experts:
                raise RequestError(f"{name} = {k} is more than num_experts = {self.num_experts}")

    def clean_gates(self, logits: Tensor) -> Tensor:
        return expert_softmax(logits)

    def allocate(self, logits: Tensor) -> Routing:
        return self.weigh(logits)

    def weigh(self, logits: Tensor) -> Routing:
        """Return a mixture of all experts, or of each token's best experts only."""
        gates = expert_softmax(logits)
        if self.weighed_top_k is None:
            return MixtureRouting(gates)
        _, chosen = highest(logits, self.weighed_top_k)
        weights = torch.zeros_like(gates).scatter(-1, chosen, gates.gather(-1, chosen))
        return MixtureRouting(gates, weights)


@register_router(
    "softmax_mixture",
    family="mixture",
    display="Softmax Mixture",
    source="Jacobs et al. 1991, arXiv 2302.14703",
)
class SoftmaxMixture(WeighedMixture):
    """The classic mixture: all experts run on each token, weighted by the softmax gates.

    Nothing is dropped and no choice is discrete. With `weighed_top_k` the weights of all but a
    token's k best experts are 0, though all of them run. With `eval_top_k` only the k best run
    outside training, with weights renormalised to sum to 1, as after the distillation of an
    attentive gate.

    Cost: E experts on every token. Known limit: that cost, unless the experts are factorised.
    """

    eval_top_k: int | None = hyper(
        None, "Experts that run for each token outside training; None for all.", ge=1
    )

    def allocate(self, logits: Tensor) -> Routing:
        if self.training or self.eval_top_k is None:
            return self.weigh(logits)
        gates = expert_softmax(logits)
        return TokenChoiceRouting.top_k(
            gates, self.eval_top_k, None, logits=logits, renormalize=True
        )


@register_router("attentive", family="mixture", display="Attentive Gate", source="arXiv 2302.14703")
class AttentiveMixture(WeighedMixture):
    """A mixture whose gate attends to the experts' hidden activations.

    gates = softmax((W_q h_gate) · (W_k h_e) / √h): an expert is weighted by its own activations on
    the token. Dense, or restricted to `weighed_top_k` experts; every expert runs either way.

    Cost: E experts on every token, in training and after it; once distilled into a plain gate
    (`transform: distill` in a part of a preset) only the chosen ones run. Known limit: experts
    must have hidden activations, as `mlp` and `classifier` do.
    """

    affinity: str = hyper("attentive", "How tokens become logits; attentive reads the experts.")


@register_router("mumoe", family="mixture", display="μMoE", source="arXiv 2402.12550")
class MuMoE(Unlimited):
    """The gate of μMoE: normalised logits, a sparse softmax, one or two levels of expert modes.

    a = entmax-1.5 (1905.05702) or softmax of batch- or layer-normalised logits, separately for each
    level; the weights are the levels' outer product, which factorised experts (`cp`, `tr`) never
    form. The gate's output weights start at 0, so all experts start equal. A logit that the
    affinity masks with −∞ counts as 0 in the normalisation, and is −∞ after it.

    Cost: a d × ΣE product, and a sort of the logits for entmax. Known limit: with
    `normalization = batch`, a token's weights depend on the batch in training.
    """

    ignores_groups = True
    activation: Literal["entmax15", "softmax"] = hyper(
        "entmax15", "Function from logits to weights; entmax15 gives exact zeros."
    )
    normalization: Literal["batch", "layer"] = hyper(
        "batch", "Parameter-free, of the logits: over the batch, or over a token's experts."
    )
    noise_std: ClassVar[float] = 0.0  # type: ignore[misc]
    batch_norm: nn.Module

    @property
    def levels(self) -> tuple[int, ...]:
        """Sizes of the expert modes."""
        return self.site.levels or (self.num_experts,)

    def build_gate(self) -> nn.Module:
        outputs = sum(self.levels)
        gate = self.build_affinity(outputs)
        if isinstance(gate, Affinity) and (weight := gate.output()) is not None:
            nn.init.zeros_(weight)
        if self.normalization == "batch":
            self.batch_norm = nn.BatchNorm1d(outputs, affine=False)
        return gate

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        logits = super().compute_logits(tokens, context)
        masked = logits == -torch.inf
        return self._normalised(logits.masked_fill(masked, 0)).masked_fill(masked, -torch.inf)

    def _normalised(self, logits: Tensor) -> Tensor:
        if self.normalization == "batch":
            normal: Tensor = self.batch_norm(logits.flatten(0, 1))
            return normal.view_as(logits)
        return torch.cat([F.layer_norm(x, x.shape[-1:]) for x in self.modes(logits)], -1)

    def allocate(self, logits: Tensor) -> Routing:
        activate = sparse_softmax if self.activation == "entmax15" else expert_softmax
        return MixtureRouting.from_levels(tuple(map(activate, self.modes(logits))))

    def modes(self, logits: Tensor) -> tuple[Tensor, ...]:
        return logits.split(self.levels, -1)


def sparse_softmax(logits: Tensor) -> Tensor:
    """Compute entmax-1.5 over the last axis; −∞ gives 0, where the library's gives NaN."""
    # At 2 below the highest logit the weight is 0, whatever the others are.
    below = (logits - logits.detach().amax(-1, keepdim=True)).clamp(min=-4)
    if not readable(below):
        below = below.nan_to_num()  # NaN gives entmax an index that crashes a GPU's process
    weights: Tensor = Entmax15.apply(below)
    return weights


class Entmax15(torch.autograd.Function):
    """The entmax library's entmax-1.5 over the last axis, traceable by torch's compiler."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        weights: Tensor = Entmax15Function.forward(ctx, x, -1)
        return weights

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        slope = weights.sqrt()
        moved = grad * slope
        mean = moved.sum(-1, keepdim=True) / slope.sum(-1, keepdim=True)
        return moved - mean * slope
