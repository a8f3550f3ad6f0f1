"""The attentive gate: what an expert makes of a token decides whether it is asked."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from routers.affinity.base import Affinity, build_affinity, lecun_normal, register_affinity
from routers.affinity.deep import Deep
from routers.errors import RequestError
from routers.hyper import hyper
from routers.layer_info import RouterContext


@register_affinity("attentive", family="affinity", source="arXiv 2302.14703")
class Attentive(Affinity):
    """Attention of the gate's hidden vector to the experts' hidden activations.

    logit of expert e = (W_q h_gate) · (W_k h_e) / √h, without biases, where h_gate is what the
    body makes of the token and h_e are the activations of expert e's last hidden layer on it.

    Cost: every expert's hidden layers run on every token, also those that the allocation does not
    choose; distillation into the plain gate of the same body saves that afterwards.
    Known limit: experts without hidden activations (factorised, linear) have no such gate.
    """

    per_expert = True

    body_of: str = hyper("mlp", "The affinity whose body is the gate's: mlp or conv.")
    body_options: dict[str, Any] = hyper({}, "Hyper-parameters of that affinity.")
    width: int | None = hyper(None, "h of queries and keys; none gives that of the experts.", ge=1)

    def build(self) -> None:
        inner = build_affinity(self.body_of, self.dim, 1, self.site, **self.body_options)
        if not isinstance(inner, Deep):
            raise RequestError(
                f"affinity 'attentive': body_of = {self.body_of!r} has no hidden layer; "
                "use mlp or conv"
            )
        if self.site.expert_hidden is None:
            raise RequestError(
                "affinity 'attentive' reads the experts' hidden activations, and these experts "
                "have none: use experts.name = mlp or classifier"
            )
        width = self.width or self.site.expert_hidden
        self.body = inner.body
        self.query = lecun_normal(width, inner.width)
        self.key = lecun_normal(width, self.site.expert_hidden)

    def forward(self, tokens: Tensor, context: RouterContext | None = None) -> Tensor:
        if context is None or context.expert_hidden is None:
            raise RequestError("affinity 'attentive' runs in an MoE layer only")
        # The key's matrix goes to the query's side, where it meets each token once, not E times.
        query = F.linear(self.body(tokens), self.query) @ self.key
        hidden = context.expert_hidden().to(query.dtype)
        return torch.einsum("gth,egth->gte", query, hidden) / math.sqrt(len(self.key))
