"""Transport plans between tokens and experts, solved for all groups at once; no gradients.

Axes: g groups, t tokens, E experts, s slots of an expert. Internally tensors are (g, E, t), so that
sums over the long axis, a column of the plan, are contiguous.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from routers.logits import highest, readable, require_finite, without_underflow


@dataclass(frozen=True, eq=False)
class Plan:
    """A transport plan: the mass that each token sends to each expert.

    Attributes:
        plan: (g, t, E), without gradient.
        marginal_error: (g,), the largest relative deviation of a sum that the solver does not make
            exact: of a column from t/E for Sinkhorn's plan, of a row from 1 for the sparse plan.
        scores: (g, t, E), to choose by, −∞ for a masked pair. For Sinkhorn's plan these are its
            entries, or their logarithms where they underflow; for the sparse plan they are α + G.
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

    This is Sinkhorn's iteration (1306.0895, as used in 2401.15969), a fixed number of times. Each
    iteration scales the columns, then the rows: the rows are exact, the columns approximate. It
    starts from potentials of 0, and the plan of a group does not depend on the other groups. A pair
    whose logit is −∞ gets 0; if such a mask leaves no plan with these sums, the rows keep theirs
    and the columns come as near as the iterations bring them.

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
    low, high = kernel_log.amin((1, 2)), kernel_log.amax((1, 2))  # aminmax is slow
    if not readable(high):
        # Use the form that is safe for all: finding the wide groups would mean waiting for a GPU.
        logarithms = _scale_logarithms(kernel_log - high[:, None, None], iterations)
        return logarithms.exp(), without_underflow(logarithms.exp(), logarithms)
    # Masked groups are wide, and non-finite ones count as wide.
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
    # A term of e^-80 times the largest is lost in rounding; smaller ones underflow, which is slow.
    # Even an expert masked for all tokens has a finite potential, so that −∞ stays −∞.
    largest = x.amax(dim, keepdim=True).clamp(min=torch.finfo(x.dtype).min / 4)
    return (x - largest).clamp(min=-80).exp().sum(dim).log() + largest.squeeze(dim)


@dataclass(frozen=True, eq=False)
class SparsePlan(Plan):
    """A plan with at most s non-zeros per column."""

    dual_value: Tensor
    """(g,), D(α). Its negative bounds ⟨T, G⟩ − (γ/2)‖T‖² of every feasible T from above."""
    tokens: Tensor
    """(g, E, s) long, the tokens of each column, highest scores first."""
    top: Tensor
    """(g, E, s), their scores, −∞ for a masked pair."""


@torch.no_grad()
def sparse_plan(gates: Tensor, slots: int, gamma: float = 1.0, iterations: int = 14) -> SparsePlan:
    """Compute the plan T of max ⟨T, G⟩ − (γ/2)‖T‖² with ≤ s non-zeros per column (2209.15466).

    With b = t/E and x_e = α + G_e, the semi-dual is the concave function of the t row potentials

        D(α) = Σ_t α_t − Σ_e max { ⟨x_e, y⟩ − (γ/2)‖y‖² : y ≥ 0, Σ y = b, at most s non-zeros }.

    The maximiser y of a column is b times the projection of x_e / (γb) onto the s-sparse simplex:
    the excess of the top s of x_e over a threshold, divided by γ. So D is piecewise quadratic, with
    kinks where two tokens compete for a column's last slot, and 1 − (row sums) is a supergradient.

    The plan is read off potentials that maximise the semi-dual. Columns sum to t/E and have at most
    s non-zeros, exactly; rows sum to 1 as nearly as the solver and the duality gap allow. The plan
    of a group does not depend on the other groups. An expert's tokens are the s highest scores of
    its column, the earliest on ties; a pair whose gate is −∞ is masked and gets 0.

    Args:
        gates: (g, t, E) float, or −∞; half precision is computed in float32.
        slots: s; more than t means t.
        gamma: γ, above 0.
        iterations: steps of the solver. With 14, and γ of 1 or more, the mean of D / t is within
            1e-4 of its maximum, for softmax gates; γ = 0.1 takes 30.

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
        tokens=tokens,
        top=top,
    )


_FIRST_WIDTH, _LAST_WIDTH = 0.1, 0.0042
"""The first width ε of the smoothing, and its last width times the number of iterations."""
_STEP, _MOMENTUM, _DAMPING = 1.45, 0.235, 5e-4
"""Factor and momentum of the potentials' steps, and what is added to the curvature."""
_DOWN, _UP, _SIDEWAYS, _BELOW = 2.5, 1.8, 5.0, 0.5
"""In units of ε: the longest steps of a potential and of a threshold, and how far a threshold may
lie below the level at which a column with fewer than s entries ends."""


def _maximise(columns: Tensor, slots: int, gamma: float, iterations: int) -> Tensor:
    """Maximise the semi-dual by smoothing: (g, E, t) gates -> (g, 1, t) potentials.

    Weights z = σ((x − τ) / ε) with Σ z = s stand for the top s of a column, whose maximiser is then
    y = z · (x − λ)₊ / γ with Σ y = b. As ε shrinks geometrically, an iteration takes one Newton
    step for τ and λ of each column, then, with the resulting row sums to first order, a diagonal
    one with momentum for the potentials. These start at minus the tokens' mean gates. All values
    are in units of the range of the group's gates.
    """
    bottom = torch.nan_to_num(columns, neginf=torch.inf).amin((1, 2), keepdim=True)
    span = (columns.amax((1, 2), keepdim=True) - bottom).clamp_(min=1e-20)
    gates = (columns - bottom).div_(span)
    row = gamma / span  # a row's sum, times γ
    column, share = row * _mass(columns), row * (_mass(columns) / slots)
    unmasked = gates.relu()
    potentials = unmasked.mean(1, keepdim=True).neg_()
    threshold = unmasked.mean(2, keepdim=True) + potentials.mean(2, keepdim=True)
    scores = gates + potentials
    for _ in range(2):
        _, _, _, step = _weights(scores, threshold, _FIRST_WIDTH, slots)
        threshold = threshold.add(step, alpha=_FIRST_WIDTH)
    level, velocity = threshold - share, torch.zeros_like(potentials)
    shrinkage = min(1.0, _LAST_WIDTH / iterations / _FIRST_WIDTH)
    for iteration in range(iterations):
        width = _FIRST_WIDTH * shrinkage ** (iteration / max(1, iterations - 1))
        threshold = torch.maximum(threshold, level - _BELOW * width)
        edge = torch.maximum(threshold, level)
        weights, slope, slopes, step = _weights(scores, edge, width, slots)
        threshold = threshold.add(step, alpha=width)
        moved = torch.maximum(threshold, level).sub_(edge).div_(width)
        total = weights.sum(2, keepdim=True).sub_(moved * slopes).clamp_(min=0.5)
        weights.addcmul_(slope, moved, value=-1)
        above = (scores - level).relu_()
        entries = weights * above
        raised = (entries.sum(2, keepdim=True) - column).div_(total)
        level = level + raised
        sums = entries.addcmul_(weights, raised, value=-1).sum(1, keepdim=True)
        jumps = above.mul_(slope).sum(1, keepdim=True).add_(share, alpha=_DAMPING)
        curvature = weights.sum(1, keepdim=True).add_(jumps, alpha=1 / width)
        ascent = (row - sums).div_(curvature).clamp_(-_DOWN * width, _UP * width)
        velocity = velocity.mul_(_MOMENTUM).add_(ascent, alpha=_STEP)
        potentials = potentials + velocity
        scores = gates + potentials
    return potentials * span


def _weights(
    scores: Tensor, edge: Tensor, width: float, slots: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return z and z(1 − z), (g, E, t), the sum of the latter and the step of τ / ε, (g, E, 1)."""
    # Unlike torch's sigmoid, this does not depend on a group's place in the batch. It is clamped
    # because exponentials that overflow or underflow are slow.
    exponent = (edge - scores).mul_(1 / width).clamp_(-40, 40)
    weights = exponent.exp_().add_(1).reciprocal_()
    slope = torch.addcmul(weights, weights, weights, value=-1)
    slopes = slope.sum(2, keepdim=True).add_(1e-3)
    step = (weights.sum(2, keepdim=True) - slots).div_(slopes).clamp_(-_SIDEWAYS, _SIDEWAYS)
    return weights, slope, slopes, step


def _shares(top: Tensor, gamma: float, mass: float) -> tuple[Tensor, Tensor]:
    """Return each column's maximiser: `mass` · projection of scores / (γ · mass) onto the simplex.

    From the highest scores of each column in descending order, (g, E, s), it returns the entries
    and the threshold subtracted, (g, E, 1). A column without a score above −∞ has no entries.
    """
    ranks = torch.arange(1, top.shape[2] + 1, device=top.device, dtype=top.dtype)
    # The threshold that a support of the first j entries would have is largest for the right j.
    threshold = ((top.cumsum(2) - gamma * mass) / ranks).amax(2, keepdim=True)
    threshold = threshold.clamp(min=torch.finfo(top.dtype).min)
    return (top - threshold).clamp(min=0) / gamma, threshold
