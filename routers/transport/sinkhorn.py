"""The entropic transport plan, by Sinkhorn's iteration (1306.0895, as used in 2401.15969).

Axes: g groups, t tokens, E experts. Inside, tensors are (g, E, t): sums over the long axis are
contiguous.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from routers.finite import require_finite
from routers.routing.selection import without_underflow


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


@torch.no_grad()
def sinkhorn_plan(logits: Tensor, iterations: int = 20, epsilon: float = 1.0) -> Plan:
    """Compute the plan P that maximises ⟨P, L⟩ + ε·H(P) with row sums 1 and column sums t/E.

    A fixed number of iterations, each of which scales the columns, then the rows: the rows are
    exact, the columns approximate. It starts from the potentials 0, and does the same for a group
    whatever the other groups are. A pair whose logit is −∞ gets 0; where such a mask leaves no plan
    of these sums, the rows keep theirs and the columns come as near as the iterations bring them.

    Args:
        logits: (g, t, E) float; half precision is computed in float32.
        iterations: pairs of half-steps.
        epsilon: ε, above 0.

    Raises:
        NonFiniteError: a token's logits are NaN or +∞, or all of them −∞.
    """
    exact = logits if logits.dtype == torch.float64 else logits.float()
    plan, scores = _balance(exact.transpose(1, 2).contiguous() / epsilon, iterations)
    mass = logits.shape[1] / logits.shape[2]
    marginal_error = (plan.sum(-1) / mass - 1).abs().amax(-1)
    return Plan(plan.transpose(1, 2), marginal_error, scores.transpose(1, 2))


# Spread R of a group's L/ε up to which the factors of the exponential form stay in range: they
# lie within e^(±2R) (the potentials within R of their fixed point), times t and E. No entry of
# the plan underflows then: each is at least about e^(−2R) / E².
_SAFE_SPREAD = {torch.float32: 40.0, torch.float64: 340.0}


def _balance(kernel_log: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Balance each group by the fast form where it is safe: (g, E, t) of L/ε -> plan, scores."""
    lowest, highest = kernel_log.flatten(1).aminmax(dim=1)
    # Masked groups are wide, and what is not finite seems so.
    wide = ~(highest - lowest <= _SAFE_SPREAD[kernel_log.dtype])
    if not wide.any():
        plan = _scale(kernel_log - highest[:, None, None], iterations)
        return plan, plan
    require_finite([kernel_log.transpose(1, 2)])
    shifted = kernel_log - highest[:, None, None]
    plan = torch.empty_like(kernel_log)
    plan[~wide] = _scale(shifted[~wide], iterations)
    scores = plan.clone()
    logarithms = _scale_logarithms(shifted[wide], iterations)
    plan[wide] = logarithms.exp()
    scores[wide] = without_underflow(logarithms.exp(), logarithms)
    return plan, scores


def _scale(kernel_log: Tensor, iterations: int) -> Tensor:
    """Run Sinkhorn's iteration on exp(L/ε), the fast form: (g, E, t) -> (g, E, t)."""
    kernel = kernel_log.exp()
    mass = kernel.shape[2] / kernel.shape[1]
    rows = torch.ones_like(kernel[:, 0])
    for _ in range(iterations):
        columns = mass / (kernel * rows[:, None]).sum(2)
        rows = 1 / (kernel * columns[:, :, None]).sum(1)
    return kernel * columns[:, :, None] * rows[:, None]


def _scale_logarithms(kernel_log: Tensor, iterations: int) -> Tensor:
    """Run Sinkhorn's iteration on L/ε, of any size: (g, E, t) -> the plan's logarithms."""
    mass_log = math.log(kernel_log.shape[2] / kernel_log.shape[1])
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
