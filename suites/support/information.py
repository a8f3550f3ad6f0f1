"""Entropy and mutual information in bits, of tables of counts or masses."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy_bits(masses: Tensor) -> Tensor:
    """H = −Σ q log2 q of each distribution q along the last axis: (…, n) -> (…).

    Args:
        masses: (…, n), not negative; each distribution is divided by its sum, which is positive.
    """
    shares = masses / masses.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1) / math.log(2)


def mutual_information_bits(tables: Tensor) -> Tensor:
    """I(row; column) = H(row) + H(column) − H(row, column) of each joint table.

    Args:
        tables: (…, rows, columns), not negative, each with a positive sum.
    """
    rows, columns = entropy_bits(tables.sum(-1)), entropy_bits(tables.sum(-2))
    return rows + columns - entropy_bits(tables.flatten(-2))
