"""The sparsity-constrained transport plan, by its semi-dual (2209.15466).

Axes: g groups, t tokens, E experts, s slots of an expert. Inside, tensors are (g, E, t): a
column of the plan is contiguous.

With b = t/E and x_e = α + G_e, the semi-dual is the concave function of the t row potentials

    D(α) = Σ_t α_t − Σ_e max { ⟨x_e, y⟩ − (γ/2)‖y‖² : y ≥ 0, Σ y = b, at most s non-zeros }.

The maximiser y of a column is b times the projection of x_e / (γb) onto the s-sparse simplex:
what the top s of x_e have above a threshold, over γ. So D is piecewise quadratic, with kinks where
two tokens compete for a column's last slot, and 1 − the row sums is its supergradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from routers.transport.sinkhorn import Plan


@dataclass(frozen=True, eq=False)
class SparsePlan(Plan):
    """A plan with at most s non-zeros a column, and the potentials that it was read off.

    Attributes:
        scores: (g, t, E), α + G; an expert's tokens are the top s of its column.
        dual_value: (g,), D(α). Minus it bounds ⟨T, G⟩ − (γ/2)‖T‖² of every feasible T from above.
    """

    scores: Tensor
    dual_value: Tensor


@torch.no_grad()
def sparse_plan(gates: Tensor, slots: int, gamma: float = 1.0, iterations: int = 50) -> SparsePlan:
    """The plan T of max ⟨T, G⟩ − (γ/2)‖T‖² with at most s non-zeros a column.

    It is read off potentials that maximise the semi-dual. Columns sum to t/E and have at most s
    non-zeros, exactly; rows sum to 1 as nearly as the solver and the duality gap let them. It does
    the same for a group whatever the other groups are.

    Args:
        gates: (g, t, E) float; half precision is computed in float32.
        slots: s; more than t means t.
        gamma: γ, above 0.
        iterations: ascent steps. At 50 the dual value is that of POT's L-BFGS solver or better.
    """
    exact = gates if gates.dtype == torch.float64 else gates.float()
    columns = exact.transpose(1, 2).contiguous()
    slots = min(slots, columns.shape[2])
    scores = columns + _maximise(columns, slots, gamma, iterations)
    shares, tokens, threshold = _sparse_columns(scores, slots, gamma, _mass(columns))
    plan = torch.zeros_like(scores).scatter_(2, tokens, shares)
    top = scores.gather(2, tokens)
    potentials = (scores - columns)[:, 0]
    # ⟨x, y⟩ − (γ/2)‖y‖² with γ·y = x − threshold wherever y > 0.
    conjugate = 0.5 * (shares * (top + threshold)).sum((1, 2))
    return SparsePlan(
        plan=plan.transpose(1, 2),
        marginal_error=(plan.sum(1) - 1).abs().amax(1),
        scores=scores.transpose(1, 2),
        dual_value=potentials.sum(1) - conjugate,
    )


def _maximise(columns: Tensor, slots: int, gamma: float, iterations: int) -> Tensor:
    """Ascend the semi-dual from α = 0: (g, E, t) gates -> (g, 1, t) potentials.

    Each token's gradient is divided by its recent size (RMSProp with a memory of few steps: beside
    a kink the size says nothing of the distance), and the steps shrink geometrically, from a part
    of the range of the group's gates.
    """
    groups, _, tokens = columns.shape
    mass = _mass(columns)
    potentials = columns.new_zeros(groups, tokens)
    ones, mean, square = torch.ones_like(potentials), potentials.clone(), potentials.clone()
    lowest, highest = columns.flatten(1).aminmax(dim=1, keepdim=True)
    length = _FIRST * (highest - lowest)
    for step in range(iterations):
        if step < 5 or step % 4 == 0:
            # Between these steps only a column's best 4·s tokens may enter its top s: a top-s of
            # them costs a part of one of all tokens, and the potentials move less and less.
            near = (columns + potentials[:, None]).topk(min(tokens, 4 * slots), sorted=False)[1]
            near_gates, near_rows = columns.gather(2, near), near.flatten(1)
        scores = near_gates + potentials.gather(1, near_rows).view_as(near)
        shares, chosen, _ = _sparse_columns(scores, slots, gamma, mass)
        gradient = ones.scatter_add(1, near.gather(2, chosen).flatten(1), -shares.flatten(1))
        mean.lerp_(gradient, 1 - _MEMORY)
        square.lerp_(gradient.square(), 1 - _MEMORY)
        decay = _DECAY ** (step / max(1, iterations - 1))
        potentials = potentials + decay * length * mean / (square.sqrt() + 1e-8)
    return potentials[:, None]


_FIRST = 0.12
_DECAY = 1 / 500
_MEMORY = 0.3


def _sparse_columns(
    scores: Tensor, slots: int, gamma: float, mass: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Each column's maximiser: `mass` · projection of scores / (γ · mass) onto the simplex.

    Args:
        scores: (g, E, n).

    Returns:
        The top s entries of the maximiser (g, E, s), where they lie (g, E, s) long, and the
        threshold that was taken off their scores, (g, E, 1).
    """
    top, where = scores.topk(slots)
    ranks = torch.arange(1, slots + 1, device=top.device, dtype=top.dtype)
    # The threshold that a support of the first j entries would have is largest for the right j.
    threshold = ((top.cumsum(2) - gamma * mass) / ranks).amax(2, keepdim=True)
    return (top - threshold).clamp(min=0) / gamma, where, threshold


def _mass(columns: Tensor) -> float:
    """b = t/E, the sum of each column of the plan."""
    return columns.shape[2] / columns.shape[1]
