"""MLP experts whose matrices are matrix product operators with a shared central core (MPOE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.model.experts.base import Experts, register_experts
from bench.model.experts.replaced import Replaced, ReplacedMLP
from bench.model.experts.stacked import affine
from routers import RequestError, hyper

CORES, CENTRE = 5, 2


@register_experts("mpo", family="factorised", source="arXiv 2203.01104")
class MPOExperts(Experts):
    """MLPs whose two matrices are chains of five small tensors, the middle one shared (MPOE).

    A matrix (Π i_m) × (Π j_m) is a chain of cores (bond, i_m, j_m, bond). All experts share the
    biases and the central core, which holds most parameters; each has its own four other cores.
    All experts start with the same matrix, split by successive SVDs. In training, each entry of the
    central core's gradient is kept only with probability `keep`, since all experts contribute to
    it.

    Cost: the FLOPs of `mlp` plus those of forming the matrices, with about 1/E of the parameters.
    Known limit: a smaller `bond` makes the initial matrix an approximation.
    """

    bond: int | None = hyper(None, "Largest bond dimension of the chain; none keeps all.", ge=1)
    keep: float | None = hyper(
        None, "Probability of keeping an entry of the central gradient; none is 1/E.", gt=0, le=1
    )

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        super().__init__(num_experts, replaced, **hyper)
        assert isinstance(replaced, ReplacedMLP)  # as `replaces` says
        width, hidden = replaced.dim, replaced.hidden
        self.hidden_width = hidden
        self.activation = replaced.activation()
        self.drop1, self.drop2 = (nn.Dropout(p) for p in replaced.dropout)
        keep = 1 / num_experts if self.keep is None else self.keep
        first, second = (torch.empty(width, hidden), torch.empty(hidden, width))
        for matrix, std in zip((first, second), replaced.std, strict=True):
            nn.init.normal_(matrix, std=std)
        self.matrix1 = MatrixProduct(first, num_experts, self.bond, keep)
        self.matrix2 = MatrixProduct(second, num_experts, self.bond, keep)
        self.bias1, self.bias2 = (
            nn.Parameter(torch.zeros(size)) if replaced.bias else None for size in (hidden, width)
        )

    def activations(self, slot_inputs: Tensor) -> Tensor:
        rows = affine(slot_inputs, self.matrix1(), self._bias(self.bias1))
        dropped: Tensor = self.drop1(self.activation(rows))
        return dropped

    def outputs(self, activations: Tensor) -> Tensor:
        rows = affine(activations, self.matrix2(), self._bias(self.bias2))
        dropped: Tensor = self.drop2(rows)
        return dropped

    def _bias(self, shared: Tensor | None) -> Tensor | None:
        return None if shared is None else shared.expand(self.num_experts, 1, -1)


class MatrixProduct(nn.Module):
    """One matrix for each expert, as a chain of cores whose central one is shared.

    Args:
        matrix: (i, o), the initial matrix of all experts.
        num_experts: E.
        bond: the largest bond dimension; None does not truncate.
        keep: the probability of keeping an entry of the central core's gradient in training.
    """

    def __init__(self, matrix: Tensor, num_experts: int, bond: int | None, keep: float) -> None:
        super().__init__()
        self.keep = keep
        cores = decompose(matrix, bond)
        self.centre = nn.Parameter(cores[CENTRE])
        own = [core for place, core in enumerate(cores) if place != CENTRE]
        self.own = nn.ParameterList(core.repeat(num_experts, 1, 1, 1, 1) for core in own)

    def forward(self) -> Tensor:
        """Form the matrices: (E, i, o)."""
        centre: Tensor = self.centre
        if self.training and self.keep < 1:
            kept = torch.rand_like(centre) < self.keep
            centre = torch.where(kept, centre, centre.detach())
        chain = list(self.own)
        left, right = joined(chain[0], chain[1]), joined(chain[2], chain[3])
        middle = joined(left, centre.expand(len(left), *centre.shape))
        return joined(middle, right).squeeze((1, 4))


def joined(left: Tensor, right: Tensor) -> Tensor:
    """Contract the bond of two cores: (E, a, i, j, b), (E, b, k, l, c) -> (E, a, i·k, j·l, c)."""
    both = torch.einsum("eaijb,ebklc->eaikjlc", left, right)
    return both.flatten(4, 5).flatten(2, 3)


def decompose(matrix: Tensor, bond: int | None) -> list[Tensor]:
    """Split a matrix into five cores by successive SVDs, each (bond, i_m, j_m, bond).

    Args:
        matrix: (i, o).
        bond: the largest bond dimension, larger ones are truncated; None keeps the chain exact.
    """
    rows, columns = (factors(size) for size in matrix.shape)
    legs = [axis for pair in range(CORES) for axis in (pair, CORES + pair)]
    rest = matrix.reshape(*rows, *columns).permute(legs).reshape(1, -1)
    cores = []
    for i, j in list(zip(rows, columns, strict=True))[:-1]:
        u, s, v = torch.linalg.svd(rest.reshape(rest.shape[0] * i * j, -1), full_matrices=False)
        kept = len(s) if bond is None else min(bond, len(s))
        cores.append(u[:, :kept].reshape(-1, i, j, kept).contiguous())
        rest = s[:kept, None] * v[:kept]
    return [*cores, rest.reshape(-1, rows[-1], columns[-1], 1)]


def factors(size: int) -> Sequence[int]:
    """Split a width into five factors, as even as its primes allow, the largest in the centre.

    Raises:
        RequestError: the width has fewer than two prime factors, so it cannot be split.
    """
    primes, rest = [], size
    for divisor in range(2, math.isqrt(size) + 1):
        while rest % divisor == 0:
            primes.append(divisor)
            rest //= divisor
    primes += [rest] if rest > 1 else []
    if len(primes) < 2:
        raise RequestError(
            f"experts 'mpo' split a width into factors, but {size} has none: use a width such as "
            f"{size + 1}"
        )
    parts = [1] * CORES
    for prime in sorted(primes, reverse=True):
        parts[parts.index(min(parts))] *= prime
    parts.sort()
    return [parts[0], parts[2], parts[4], parts[3], parts[1]]
