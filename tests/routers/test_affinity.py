"""Affinities: their definitions by hand, their initial weights, and their finiteness."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from routers import AFFINITIES, RequestError, build_affinity

NAMES = ["linear", "mlp", "cosine", "soft"]


def tokens(groups: int = 2, count: int = 5, dim: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(groups, count, dim, generator=torch.Generator().manual_seed(seed))


def test_the_four_affinities_are_registered_with_cards():
    assert set(NAMES) <= set(AFFINITIES.names())
    for name in NAMES:
        card = AFFINITIES.get(name)
        assert card.kind == "affinity"
        assert card.summary.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_logits_have_one_entry_per_output_and_depend_only_on_their_token(name):
    affinity = build_affinity(name, 12, 6)
    x = tokens()
    logits = affinity(x)
    assert logits.shape == (2, 5, 6)
    torch.testing.assert_close(affinity(x[1:, 3:4], context=None), logits[1:, 3:4])


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    affinity = build_affinity(name, 12, 6)
    affinity(tokens()).square().sum().backward()
    for parameter in affinity.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e4, 1e15])
def test_logits_and_gradients_are_finite_for_vectors_of_any_length(name, scale):
    affinity = build_affinity(name, 12, 6)
    x = (scale * tokens()).requires_grad_()
    logits = affinity(x)
    logits.sum().backward()
    assert logits.isfinite().all()
    for gradient in [x.grad, *(parameter.grad for parameter in affinity.parameters())]:
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_vectors_of_zero_length_give_finite_logits(name):
    affinity = build_affinity(name, 12, 6)
    with torch.no_grad():
        for parameter in affinity.parameters():
            parameter.zero_()
    x = tokens().requires_grad_()
    affinity(x).sum().backward()
    assert affinity(x).isfinite().all()
    assert all(p.grad.isfinite().all() for p in [x, *affinity.parameters()])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dim", "outputs"), [(1, 1), (3, 2), (8, 1)])
def test_affinities_work_at_the_smallest_sizes(name, dim, outputs):
    assert build_affinity(name, dim, outputs)(tokens(dim=dim)).shape == (2, 5, outputs)


def test_linear_is_a_product_without_bias():
    affinity = build_affinity("linear", 12, 6)
    assert [tuple(p.shape) for p in affinity.parameters()] == [(6, 12)]
    x = tokens()
    torch.testing.assert_close(affinity(x), x @ affinity.weight.T)


def test_linear_starts_with_logits_of_unit_variance():
    affinity = build_affinity("linear", 400, 300)
    assert affinity.weight.std().item() == pytest.approx(400**-0.5, rel=0.01)
    assert affinity.weight.abs().max() < 2.3 * 400**-0.5
    assert affinity(tokens(4, 100, 400, seed=1)).std().item() == pytest.approx(1, rel=0.05)


def test_mlp_is_two_layers_with_tanh():
    affinity = build_affinity("mlp", 12, 6, hidden=7)
    x = tokens()
    expected = torch.tanh(x @ affinity.body[0].weight.T + affinity.body[0].bias) @ affinity.outer.T
    torch.testing.assert_close(affinity(x), expected)
    assert affinity.body[0].weight.shape == (7, 12)
    assert build_affinity("mlp", 12, 6).body[0].weight.shape == (3, 12)


def test_cosine_compares_directions_on_a_small_sphere():
    affinity = build_affinity("cosine", 12, 6, width=3, temperature=0.5)
    x = tokens()
    projected = F.normalize(x @ affinity.projection.T, dim=-1)
    expected = projected @ F.normalize(affinity.vectors, dim=-1).T / 0.5
    torch.testing.assert_close(affinity(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(affinity(1000 * x), expected, rtol=1e-4, atol=1e-5)


def test_cosine_has_half_as_many_dimensions_as_outputs():
    assert build_affinity("cosine", 64, 32).projection.shape == (16, 64)
    assert build_affinity("cosine", 64, 2).projection.shape == (4, 64)
    assert build_affinity("cosine", 3, 32).projection.shape == (3, 3)


def test_the_temperature_stays_above_one_hundredth():
    affinity = build_affinity("cosine", 12, 6)
    assert affinity.log_scale.item() == pytest.approx(-math.log(0.3))
    with torch.no_grad():
        affinity.log_scale.fill_(50.0)
    assert affinity(tokens()).abs().max() <= 100.001


def test_soft_compares_unit_vectors_and_scales():
    affinity = build_affinity("soft", 12, 6)
    assert affinity.scale.item() == 1.0
    with torch.no_grad():
        affinity.scale.fill_(-2.5)
    x = tokens()
    expected = -2.5 * F.normalize(x, dim=-1) @ F.normalize(affinity.vectors, dim=-1).T
    torch.testing.assert_close(affinity(x), expected, rtol=1e-4, atol=1e-5)


def test_the_scale_of_soft_starts_at_its_setting_and_is_learned():
    plain, sharp = (
        build_affinity("soft", 12, 6, **options) for options in ({}, {"initial_scale": 10})
    )
    assert plain.initial_scale == 1.0
    assert sharp.scale.item() == 10.0
    assert sharp.scale.requires_grad
    sharp.load_state_dict({**sharp.state_dict(), "vectors": plain.vectors.detach()})
    torch.testing.assert_close(sharp(tokens()), 10 * plain(tokens()))
    with pytest.raises(RequestError, match="initial_scale = 0 is not valid"):
        build_affinity("soft", 12, 6, initial_scale=0)


def test_a_wrong_name_or_hyper_parameter_names_the_nearest():
    with pytest.raises(RequestError, match="cosine"):
        build_affinity("cosin", 12, 6)
    with pytest.raises(RequestError, match="temperature"):
        build_affinity("cosine", 12, 6, temprature=1.0)
    with pytest.raises(RequestError, match="width"):
        build_affinity("cosine", 12, 6, width=1)
