"""Low-rank experts added to a frozen MLP, with outputs made orthonormal (OMoE)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from bench.model.experts.base import Experts, register_experts
from bench.model.experts.replaced import Replaced, ReplacedMLP
from bench.model.experts.stacked import uniform
from routers import RequestError, Routing, TokenChoiceRouting, hyper

DEPENDENT = 1e-4
"""If less than this share of a vector's length remains, the remainder is float32 rounding error."""


@register_experts("lora", family="adapter", source="arXiv 2501.10062")
class LoRAExperts(Experts):
    """Low-rank adapters of a frozen MLP; those of one token act in orthogonal directions (OMoE).

    y = MLP(x) + Σ_j C_j · v_j over the token's choices j, the preferred one first: v₁, v₂, … are
    the result of Gram–Schmidt on the outputs u_j = B_j A_j x, hence of unit length and orthogonal
    to the earlier ones, with gradients through the process. A vector that is zero, or lies in the
    span of the earlier ones to within 1e-4 of its length, becomes 0 and gets no gradient. With
    `orthogonal` false, v is u: a plain mixture of adapters.

    The MLP is that of a trained dense parent: `parent: {router: dense, transform: adapt}`, which
    freezes all but gates, adapters and the last layer; without a parent the trial is an error. The
    paper adapts linear layers of a language model. We have not seen it state its order of experts
    or its treatment of zero vectors. A and B start uniform in ±1 / √inputs, since a B of 0, usual
    for adapters, has no direction.

    Cost: the MLP on every token, 4 · d · rank FLOPs per slot, and 2 · d · k² per token for
    Gram–Schmidt. Known limits: needs a token-choice router; an expert that is switched off still
    removes its direction from the later ones.
    """

    rank: int = hyper(4, "Rank of each adapter.", ge=1)
    orthogonal: bool = hyper(True, "Make the outputs of a token's experts orthonormal.")

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        super().__init__(num_experts, replaced, **hyper)
        assert isinstance(replaced, ReplacedMLP)  # as `replaces` says
        self.down = uniform((num_experts, replaced.dim, self.rank), replaced.dim)
        self.up = uniform((num_experts, self.rank, replaced.dim), self.rank)
        self.adapted: nn.Module = frozen_mlp(replaced)

    def apply(self, routing: Routing, x: Tensor) -> Tensor:  # type: ignore[override]
        """Add to the MLP's output the weighted directions of each token's experts: (g, t, d)."""
        if not isinstance(routing, TokenChoiceRouting):
            raise RequestError(
                f"experts {self.name!r} order a token's experts by its choice: use a router whose "
                "tokens choose, such as 'softmax_token_choice' with router.top_k = 2"
            )
        outputs = routing.of_choices(self(routing.dispatch(x)))
        if outputs.dtype.itemsize < 4:  # under autocast; dependence is only visible in float32
            outputs = outputs.float()
        directions = orthonormal(outputs) if self.orthogonal else outputs
        if not torch.is_grad_enabled():
            routing.diagnostics.update(expert_outputs=outputs, expert_directions=directions)
        weights = routing.weights.to(directions.dtype)
        y: Tensor = self.adapted(x) + torch.einsum("gtk,gtkd->gtd", weights, directions)
        return y

    def forward(self, slot_inputs: Tensor) -> Tensor:
        rows = slot_inputs.flatten(1, 2)
        return torch.bmm(torch.bmm(rows, self.down), self.up).unflatten(1, slot_inputs.shape[1:3])

    def rows(self, routing: Routing) -> int:
        tokens, hidden = routing.gates.shape[:2].numel(), self.replaced.hidden
        return tokens + round(routing.slot_count * self.rank / hidden)

    def active_share(self, routing: Routing) -> float:
        adapters = self.down.numel() + self.up.numel()
        frozen = sum(p.numel() for p in self.adapted.parameters())
        return (frozen + super().active_share(routing) * adapters) / (frozen + adapters)


def frozen_mlp(replaced: ReplacedMLP) -> nn.Module:
    """Build the replaced MLP, frozen, with timm's names of its parts.

    Its weights are random until they are loaded.
    """
    first = nn.Linear(replaced.dim, replaced.hidden, bias=replaced.bias)
    second = nn.Linear(replaced.hidden, replaced.dim, bias=replaced.bias)
    for linear, std in zip((first, second), replaced.std, strict=True):
        nn.init.normal_(linear.weight, std=std)
    parts = {"fc1": first, "act": replaced.activation(), "drop1": nn.Dropout(replaced.dropout[0])}
    parts |= {"fc2": second, "drop2": nn.Dropout(replaced.dropout[1])}
    return nn.Sequential(OrderedDict(parts)).requires_grad_(False)


def orthonormal(vectors: Tensor) -> Tensor:
    """Make vectors orthonormal by Gram–Schmidt, in order: (…, k, d) -> (…, k, d).

    A vector that depends linearly on earlier ones becomes 0 and gets no gradient.
    """
    made: list[Tensor] = []
    for vector in vectors.unbind(-2):
        rest = vector
        for before in made:  # one at a time, which is more accurate than all at once
            rest = rest - (before * rest).sum(-1, keepdim=True) * before
        squared = rest.square().sum(-1, keepdim=True)
        least = DEPENDENT**2 * vector.detach().square().sum(-1, keepdim=True)
        apart = (squared > least) & (squared > 0)
        # Avoids dividing by a length of 0, whose gradient is NaN even if unused.
        made.append(torch.where(apart, rest / torch.where(apart, squared, 1.0).sqrt(), 0.0))
    return torch.stack(made, -2)
