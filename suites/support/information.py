"""Entropy and mutual information of tables of masses, in bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy_bits(masses: Tensor) -> Tensor:
    """Compute H = −Σ q log2 q of each distribution q, masses over their sum: (…, n) -> (…)."""
    shares = masses / masses.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1) / math.log(2)


def mutual_information_bits(tables: Tensor) -> Tensor:
    """Compute I = H(row) + H(column) − H(row, column) of each table, (…, rows, columns) -> (…)."""
    rows, columns = entropy_bits(tables.sum(-1)), entropy_bits(tables.sum(-2))
    return rows + columns - entropy_bits(tables.flatten(-2))
