"""One choice of experts per image, among experts of different sizes (MoCE-IR)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from routers.hyper import Range, hyper
from routers.layer_info import RouterContext
from routers.logits import expert_softmax
from routers.router import Unlimited, register_router
from routers.routing import Routing, TokenChoiceRouting


@register_router("moce_ir", family="token_choice", display="MoCE-IR", source="arXiv 2411.18466")
class MoCEIR(Unlimited):
    """All tokens of an image take the k experts with the image's highest noisy gates (MoCE-IR).

    The logits are xW of the mean token, without bias; in training each image draws its own noise.
    The weights are the chosen gates of the noisy logits, not divided by their sum. Nothing is
    dropped. The loss `complexity` moves images to experts with few parameters, which the experts
    `growing` include. The authors add an embedding of the frequencies of a damaged image's deepest
    features to the mean token, which is left out here; their code also draws noise in evaluation,
    where this router draws none.

    Cost: one d × E product per image. Known limit: experts that run on slots (such as `mlp`) have
    as many slots as the image has tokens, so each of them costs a dense MLP; `growing` experts run
    on their own images only.
    """

    affinity: ClassVar[str] = "linear"  # type: ignore[misc]
    affinity_options: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    top_k: int = hyper(1, "Experts that each image chooses.", ge=1)
    noise_std: float = hyper(
        1.0,
        "Standard deviation of Gaussian noise on the logits in training, times E.",
        ge=0,
        tune=Range(0.0, 2.0),
    )

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        """Compute one set of logits for all tokens of an image: (g, t, d) -> (g, t, E)."""
        logits: Tensor = self.gate(tokens.mean(1, keepdim=True), context)
        return logits.expand(*tokens.shape[:2], self.num_experts)

    def draw_noise(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().draw_noise(logits[:, :1], generator).expand_as(logits)

    def allocate(self, logits: Tensor) -> Routing:
        # All tokens of an image go to its experts, which have room for them: nothing is dropped.
        gates, slots = expert_softmax(logits), max(1, logits.shape[1])
        return TokenChoiceRouting.top_k(gates, self.top_k, slots, logits=logits)

    def clean_gates(self, logits: Tensor) -> Tensor:
        return expert_softmax(logits)
