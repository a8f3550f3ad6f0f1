"""Transport plans between tokens and experts, solved for all groups at once; no gradients.

Axes: g groups, t tokens, E experts, s slots of an expert. Inside, tensors are (g, E, t): sums over
the long axis, a column of the plan, are contiguous.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from routers.logits import highest, readable, require_finite, without_underflow


@dataclass(frozen=True, eq=False)
class Plan:
    """A transport plan: the mass of each token that goes to each expert.

    Attributes:
        plan: (g, t, E), without gradient.
        marginal_error: (g,), the largest relative deviation of a sum that the solver does not
            make exact: of a column from t/E for Sinkhorn's plan, of a row from 1 for the sparse.
        scores: (g, t, E), to choose by, −∞ for a masked pair. Of Sinkhorn's plan these are its
            entries, or their logarithms where they underflow; of the sparse plan they are α + G.
    """

    plan: Tensor
    marginal_error: Tensor
    scores: Tensor


def _columns(values: Tensor) -> Tensor:
    """Return (g, t, E) as (g, E, t), in float32 or better."""
    exact = values if values.dtype == torch.float64 else values.float()
    return exact.transpose(1, 2).contiguous()


def _mass(columns: Tensor) -> float:
    """Return t/E, the sum of each column of a plan (g, E, t)."""
    return columns.shape[2] / columns.shape[1]


@torch.no_grad()
def sinkhorn_plan(logits: Tensor, iterations: int = 20, epsilon: float = 1.0) -> Plan:
    """Compute the plan P that maximises ⟨P, L⟩ + ε·H(P) with row sums 1 and column sums t/E.

    It is that of Sinkhorn's iteration (1306.0895, as used in 2401.15969). A fixed number of
    iterations, each of which scales the columns, then the rows: the rows are exact, the columns
    approximate. It starts from the potentials 0, and does the same for a group whatever the other
    groups are. A pair whose logit is −∞ gets 0; where such a mask leaves no plan of these sums, the
    rows keep theirs and the columns come as near as the iterations bring them.

    Args:
        logits: (g, t, E) float; half precision is computed in float32.

    Raises:
        NonFiniteError: a token's logits are NaN or +∞, or all of them −∞.
    """
    plan, scores = _balance(_columns(logits) / epsilon, iterations)
    marginal_error = (plan.sum(-1) / _mass(plan) - 1).abs().amax(-1)
    return Plan(plan.transpose(1, 2), marginal_error, scores.transpose(1, 2))


# Spread R of a group's L/ε up to which the factors of the exponential form stay in range: they
# lie within e^(±2R) (the potentials within R of their fixed point), times t and E. No entry of
# the plan underflows then: each is at least about e^(−2R) / E².
_SAFE_SPREAD = {torch.float32: 40.0, torch.float64: 340.0}


def _balance(kernel_log: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Balance each group by the fast form where it is safe: (g, E, t) of L/ε -> plan, scores."""
    low, high = kernel_log.flatten(1).aminmax(dim=1)
    if not readable(high):
        # The form that is safe for all: which groups are wide would have to be waited for.
        logarithms = _scale_logarithms(kernel_log - high[:, None, None], iterations)
        return logarithms.exp(), without_underflow(logarithms.exp(), logarithms)
    # Masked groups are wide, and what is not finite seems so.
    wide = ~(high - low <= _SAFE_SPREAD[kernel_log.dtype])
    if not wide.any():
        plan = _scale(kernel_log - high[:, None, None], iterations)
        return plan, plan
    require_finite([kernel_log.transpose(1, 2)])
    shifted = kernel_log - high[:, None, None]
    plan = torch.empty_like(kernel_log)
    plan[~wide] = _scale(shifted[~wide], iterations)
    scores = plan.clone()
    logarithms = _scale_logarithms(shifted[wide], iterations)
    plan[wide] = logarithms.exp()
    scores[wide] = without_underflow(logarithms.exp(), logarithms)
    return plan, scores


def _scale(kernel_log: Tensor, iterations: int) -> Tensor:
    """Iterate on exp(L/ε), the fast form: (g, E, t) -> (g, E, t)."""
    kernel = kernel_log.exp()
    mass = _mass(kernel)
    rows = torch.ones_like(kernel[:, 0])
    for _ in range(iterations):
        columns = mass / (kernel * rows[:, None]).sum(2)
        rows = 1 / (kernel * columns[:, :, None]).sum(1)
    return kernel * columns[:, :, None] * rows[:, None]


def _scale_logarithms(kernel_log: Tensor, iterations: int) -> Tensor:
    """Iterate on L/ε, of any size: (g, E, t) -> the plan's logarithms."""
    mass_log = math.log(_mass(kernel_log))
    rows = torch.zeros_like(kernel_log[:, 0])
    for _ in range(iterations):
        columns = mass_log - _log_sum_exp(kernel_log + rows[:, None], 2)
        rows = -_log_sum_exp(kernel_log + columns[:, :, None], 1)
    return kernel_log + columns[:, :, None] + rows[:, None]


def _log_sum_exp(x: Tensor, dim: int) -> Tensor:
    # A term e^-80 of the largest is lost in rounding; smaller ones, which underflow, are slow.
    # An expert that is masked for all tokens has a finite potential too, so that −∞ stays −∞.
    largest = x.amax(dim, keepdim=True).clamp(min=torch.finfo(x.dtype).min / 4)
    return (x - largest).clamp(min=-80).exp().sum(dim).log() + largest.squeeze(dim)


@dataclass(frozen=True, eq=False)
class SparsePlan(Plan):
    """A plan with at most s non-zeros a column."""

    dual_value: Tensor
    """(g,), D(α). Minus it bounds ⟨T, G⟩ − (γ/2)‖T‖² of every feasible T from above."""


@torch.no_grad()
def sparse_plan(gates: Tensor, slots: int, gamma: float = 1.0, iterations: int = 50) -> SparsePlan:
    """Compute the plan T of max ⟨T, G⟩ − (γ/2)‖T‖² with at most s non-zeros a column (2209.15466).

    With b = t/E and x_e = α + G_e, the semi-dual is the concave function of the t row potentials

        D(α) = Σ_t α_t − Σ_e max { ⟨x_e, y⟩ − (γ/2)‖y‖² : y ≥ 0, Σ y = b, at most s non-zeros }.

    The maximiser y of a column is b times the projection of x_e / (γb) onto the s-sparse simplex:
    what the top s of x_e have above a threshold, over γ. So D is piecewise quadratic, with kinks
    where two tokens compete for a column's last slot, and 1 − the row sums is its supergradient.

    The plan is read off potentials that maximise the semi-dual. Columns sum to t/E and have at most
    s non-zeros, exactly; rows sum to 1 as nearly as the solver and the duality gap let them. It
    does the same for a group whatever the other groups are. An expert's tokens are the s highest
    scores of its column, the earliest of equal ones; a pair whose gate is −∞ is masked and gets 0.

    Args:
        gates: (g, t, E) float, or −∞; half precision is computed in float32.
        slots: s; more than t means t.
        gamma: γ, above 0.
        iterations: ascent steps. At 50 the dual value is that of POT's L-BFGS solver or better.

    Raises:
        NonFiniteError: a token's gates are NaN or +∞, or all of them −∞.
    """
    require_finite([gates], what="gate")
    columns = _columns(gates)
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


_FIRST, _DECAY, _MEMORY = 0.12, 1 / 500, 0.3
"""Of the ascent: its first step over the range of the gates, the last step over it, and the memory
of a token's gradient."""


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


def _shares(top: Tensor, gamma: float, mass: float) -> tuple[Tensor, Tensor]:
    """Give each column's maximiser: `mass` · projection of scores / (γ · mass) onto the simplex.

    Returns, for the highest scores of each column in descending order, (g, E, s), its entries and
    the threshold that was taken off, (g, E, 1). A column without a score above −∞ has none.
    """
    ranks = torch.arange(1, top.shape[2] + 1, device=top.device, dtype=top.dtype)
    # The threshold that a support of the first j entries would have is largest for the right j.
    threshold = ((top.cumsum(2) - gamma * mass) / ranks).amax(2, keepdim=True)
    threshold = threshold.clamp(min=torch.finfo(top.dtype).min)
    return (top - threshold).clamp(min=0) / gamma, threshold
