"""One expert per image: the mean of all experts' weights (SMEAR)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from routers.hyper import Range, hyper
from routers.layer_info import RouterContext
from routers.router import OwnGate, register_router
from routers.routing import MergedRouting, Routing


@register_router("smear", family="soft", display="SMEAR", source="arXiv 2306.03745")
class Smear(OwnGate):
    """All tokens of an image run through one expert, the average of all experts' weights (SMEAR).

    The shares are a softmax over the experts of the image's mean token times the experts' vectors,
    each after a LayerNorm. Everything is differentiable, nothing is dropped, and an image costs one
    expert's FLOPs, plus those of averaging. In training a share is set to 0 with probability
    `expert_dropout`, and the rest are divided by their sum.

    Cost: E · (parameters of an expert) multiplications per image. Known limits: experts need
    weights that can be averaged (mlp, linear); the dispatch and combine tensors describe what was
    averaged, but do not give the output.
    """

    expert_dropout: float = hyper(
        0.1, "Probability of leaving out an expert, per image.", ge=0, lt=1, tune=Range(0, 0.3)
    )

    def build_gate(self) -> nn.Module:
        return SmearGate(self.dim, self.num_experts)

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        """Compute one set of logits for all tokens of an image: (g, t, d) -> (g, t, E)."""
        logits: Tensor = self.gate(tokens.mean(1, keepdim=True))
        if self.training and self.expert_dropout > 0:
            drawn = torch.empty_like(logits).uniform_(generator=context.generator)
            # The logarithm of 1e-10, which the authors' code adds to every share.
            logits = logits.log_softmax(-1).masked_fill(drawn < self.expert_dropout, -23.02585)
        return logits.expand(*tokens.shape[:2], self.num_experts)

    def allocate(self, logits: Tensor) -> Routing:
        return MergedRouting(logits.softmax(-1))


class SmearGate(nn.Module):
    """The gate of SMEAR: both the mean token and the experts' vectors are normalised.

    Args:
        dim: width d.
        num_experts: E.
    """

    def __init__(self, dim: int, num_experts: int) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(dim)
        self.vectors = nn.Parameter(torch.randn(num_experts, dim) * 0.01)
        # Without a shift, which would add the same to the logits of all experts.
        self.vector_scale = nn.Parameter(torch.full((dim,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, d) to logits, (…, E)."""
        vectors = F.layer_norm(self.vectors, x.shape[-1:], self.vector_scale)
        return F.linear(self.input_norm(x), vectors)
