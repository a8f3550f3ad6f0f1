"""Low-rank experts beside a frozen MLP, whose outputs are made orthonormal (OMoE)."""

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
"""Below this share of its length, what is left of a vector is rounding error of float32."""


@register_experts("lora", family="adapter", source="arXiv 2501.10062")
class LoRAExperts(Experts):
    """Low-rank adapters of a frozen MLP; those of one token act in orthogonal directions (OMoE).

    y = MLP(x) + Σ_j C_j · v_j over the token's choices j, the preferred one first: v₁, v₂, … is
    the result of the Gram–Schmidt process on the outputs u_j = B_j A_j x, hence of unit length and
    orthogonal to those before, with a gradient through it. What lies in the span of those before,
    to 1e-4 of its length, and a zero vector, becomes 0 and gets no gradient. With `orthogonal`
    false v is u: a plain mixture of adapters.

    The MLP is that of a trained dense parent: `parent: {router: dense, transform: adapt}`, which
    freezes all but gates, adapters and the last layer; without a parent the trial is refused. The
    paper adapts linear layers of a language model. Which order it takes, and what it does with
    zero vectors, we have not seen stated. A and B start uniform in ±1 / √inputs: a B of 0, as usual
    for adapters, has no direction.

    Cost: the MLP on every token, 4 · d · rank FLOPs a slot, and 2 · d · k² a token for the process.
    Known limits: tokens choose the experts (a token-choice router); an expert that is switched off
    still takes its direction from those after it.
    """

    rank: int = hyper(4, "Of each adapter.", ge=1)
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
                "tokens choose, as 'softmax_token_choice' with router.top_k = 2"
            )
        outputs = routing.of_choices(self(routing.dispatch(x)))
        if outputs.dtype.itemsize < 4:  # under autocast: what is dependent shows in float32 alone
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
    """Build the MLP that was replaced, with the names that timm gives to its parts, not to learn.

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
    """Make vectors orthonormal by Gram–Schmidt, the first first: (…, k, d) -> (…, k, d).

    What depends on those before it becomes 0, with no gradient.
    """
    made: list[Tensor] = []
    for vector in vectors.unbind(-2):
        rest = vector
        for before in made:  # one after the other: more exact than all at once
            rest = rest - (before * rest).sum(-1, keepdim=True) * before
        squared = rest.square().sum(-1, keepdim=True)
        least = DEPENDENT**2 * vector.detach().square().sum(-1, keepdim=True)
        apart = (squared > least) & (squared > 0)
        # Not divided by a length of 0, whose gradient is NaN even where it is not used.
        made.append(torch.where(apart, rest / torch.where(apart, squared, 1.0).sqrt(), 0.0))
    return torch.stack(made, -2)
