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

from routers.finite import require_finite
from routers.routing.selection import highest
from routers.transport.sinkhorn import Plan


@dataclass(frozen=True, eq=False)
class SparsePlan(Plan):
    """A plan with at most s non-zeros a column, and the potentials that it was read off.

    Attributes:
        dual_value: (g,), D(α). Minus it bounds ⟨T, G⟩ − (γ/2)‖T‖² of every feasible T from above.
    """

    dual_value: Tensor


@torch.no_grad()
def sparse_plan(gates: Tensor, slots: int, gamma: float = 1.0, iterations: int = 50) -> SparsePlan:
    """Compute the plan T of max ⟨T, G⟩ − (γ/2)‖T‖² with at most s non-zeros a column.

    It is read off potentials that maximise the semi-dual. Columns sum to t/E and have at most s
    non-zeros, exactly; rows sum to 1 as nearly as the solver and the duality gap let them. It does
    the same for a group whatever the other groups are. An expert's tokens are the s highest scores
    of its column, the earliest of equal ones; a pair whose gate is −∞ is masked and gets 0.

    Args:
        gates: (g, t, E) float, or −∞; half precision is computed in float32.
        slots: s; more than t means t.
        gamma: γ, above 0.
        iterations: ascent steps. At 50 the dual value is that of POT's L-BFGS solver or better.

    Raises:
        NonFiniteError: a token's gates are NaN or +∞, or all of them −∞.
    """
    require_finite([gates], what="gate")
    exact = gates if gates.dtype == torch.float64 else gates.float()
    columns = exact.transpose(1, 2).contiguous()
    slots = min(slots, columns.shape[2])
    potentials = _maximise(columns, slots, gamma, iterations)
    scores = columns + potentials
    top, tokens = highest(scores, slots)
    shares, threshold = _shares(top, gamma, _mass(columns))
    plan = torch.zeros_like(scores).scatter_(2, tokens, shares)
    # ⟨x, y⟩ − (γ/2)‖y‖² with γ·y = x − threshold wherever y > 0.
    conjugate = torch.where(shares > 0, 0.5 * shares * (top + threshold), 0).sum((1, 2))
    return SparsePlan(
        plan=plan.transpose(1, 2),
        marginal_error=(plan.sum(1) - 1).abs().amax(1),
        scores=scores.transpose(1, 2),
        dual_value=potentials.sum((1, 2)) - conjugate,
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
    top = columns.flatten(1).amax(1, keepdim=True)
    bottom = torch.where(columns > -torch.inf, columns, torch.inf).flatten(1).amin(1, keepdim=True)
    length = _FIRST * (top - bottom)
    for step in range(iterations):
        if step < 5 or step % 4 == 0:
            # Between these steps only a column's best 4·s tokens may enter its top s: a top-s of
            # them costs a part of one of all tokens, and the potentials move less and less.
            near = (columns + potentials[:, None]).topk(min(tokens, 4 * slots), sorted=False)[1]
            near_gates, near_rows = columns.gather(2, near), near.flatten(1)
        scores = near_gates + potentials.gather(1, near_rows).view_as(near)
        best, chosen = scores.topk(slots)
        shares, _ = _shares(best, gamma, mass)
        gradient = ones.scatter_add(1, near.gather(2, chosen).flatten(1), -shares.flatten(1))
        mean.lerp_(gradient, 1 - _MEMORY)
        square.lerp_(gradient.square(), 1 - _MEMORY)
        decay = _DECAY ** (step / max(1, iterations - 1))
        potentials = potentials + decay * length * mean / (square.sqrt() + 1e-8)
    return potentials[:, None]


_FIRST = 0.12
_DECAY = 1 / 500
_MEMORY = 0.3


def _shares(top: Tensor, gamma: float, mass: float) -> tuple[Tensor, Tensor]:
    """Give each column's maximiser: `mass` · projection of scores / (γ · mass) onto the simplex.

    Args:
        top: (g, E, s), the highest scores of each column, in descending order.

    Returns:
        The maximiser's entries, (g, E, s), and the threshold that was taken off their scores,
        (g, E, 1). A column without a score above −∞ has none.
    """
    ranks = torch.arange(1, top.shape[2] + 1, device=top.device, dtype=top.dtype)
    # The threshold that a support of the first j entries would have is largest for the right j.
    threshold = ((top.cumsum(2) - gamma * mass) / ranks).amax(2, keepdim=True)
    threshold = threshold.clamp(min=torch.finfo(top.dtype).min)
    return (top - threshold).clamp(min=0) / gamma, threshold


def _mass(columns: Tensor) -> float:
    """Return b = t/E, the sum of each column of the plan."""
    return columns.shape[2] / columns.shape[1]
