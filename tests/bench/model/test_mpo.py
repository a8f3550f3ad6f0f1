"""Experts as matrix product operators: a chain of cores with a shared centre (2203.01104)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from bench.model import build_experts
from bench.model.experts import ReplacedMLP
from bench.model.experts.mpo import decompose, factors
from routers import RequestError

DIM, HIDDEN, E = 12, 24, 3


def experts(**options):
    torch.manual_seed(0)
    return build_experts("mpo", num_experts=E, replaced=ReplacedMLP(DIM, HIDDEN), **options)


def entry(cores, rows, columns, i, j):
    """Compute one entry of the matrix by definition, as a product of small matrices."""
    product = np.eye(1)
    for core, row, column in zip(
        cores, np.unravel_index(i, rows), np.unravel_index(j, columns), strict=True
    ):
        product = product @ core[:, row, column, :].numpy()
    return product.item()


@pytest.mark.parametrize("shape", [(12, 24), (16, 10), (30, 4)])
def test_the_cores_represent_the_matrix(shape):
    matrix = torch.randn(shape, dtype=torch.float64)
    cores, (rows, columns) = decompose(matrix, None), map(factors, shape)
    assert [core.shape[1] for core in cores] == list(rows)
    for i, j in np.ndindex(*shape):
        assert entry(cores, rows, columns, i, j) == pytest.approx(matrix[i, j].item(), abs=1e-10)


def test_a_limited_bond_truncates_the_matrix():
    cores = decompose(torch.randn(16, 16), 3)
    assert max(core.shape[-1] for core in cores) == 3


@given(st.integers(4, 2000))
def test_factors_multiply_to_the_width(size):
    if all(size % divisor for divisor in range(2, math.isqrt(size) + 1)):
        with pytest.raises(RequestError, match=f"{size} has none"):
            factors(size)
        return
    parts = factors(size)
    assert math.prod(parts) == size
    assert len(parts) == 5
    assert max(parts) == parts[2]


def test_experts_start_as_one_mlp_and_diverge_by_learning():
    layer = experts()
    weight = layer.matrix1()
    assert weight.shape == (E, DIM, HIDDEN)
    torch.testing.assert_close(weight[0], weight[2])
    assert weight.std().item() == pytest.approx(0.02, rel=0.15)
    with torch.no_grad():
        for core in [*layer.matrix1.own, *layer.matrix2.own]:
            core.add_(torch.randn_like(core) * 0.1)
        layer.bias1.normal_()
    x = torch.randn(E, 2, 5, DIM)
    w1, w2 = layer.eval().matrix1(), layer.matrix2()
    assert not torch.allclose(w1[0], w1[1])
    want = torch.stack([F.gelu(x[e] @ w1[e] + layer.bias1) @ w2[e] + layer.bias2 for e in range(E)])
    torch.testing.assert_close(layer(x), want, atol=1e-5, rtol=1e-4)


def test_only_the_centre_and_the_biases_are_shared():
    parameters = {name: p.numel() for name, p in experts().named_parameters()}
    one = decompose(torch.randn(DIM, HIDDEN), None)
    assert parameters["matrix1.centre"] == one[2].numel()
    assert parameters["matrix1.own.0"] == E * one[0].numel()
    wide = build_experts("mpo", num_experts=32, replaced=ReplacedMLP(96, 192), bond=16)
    total = sum(parameter.numel() for parameter in wide.parameters())
    assert total < 0.25 * 32 * 2 * 96 * 192


def test_the_gradient_of_the_centre_is_masked_only_in_training():
    layer, x = experts(keep=0.3), torch.randn(E, 1, 4, DIM)
    layer.eval()(x).square().sum().backward()
    full = layer.matrix1.centre.grad.clone()
    own = layer.matrix1.own[0].grad.clone()
    layer.zero_grad()
    layer.train()(x).square().sum().backward()
    masked = layer.matrix1.centre.grad
    kept = masked != 0
    torch.testing.assert_close(masked[kept], full[kept])
    assert kept.float().mean().item() == pytest.approx(0.3, abs=0.15)
    torch.testing.assert_close(layer.matrix1.own[0].grad, own)
