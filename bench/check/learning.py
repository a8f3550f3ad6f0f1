"""Checks of value and gradient: does the layer compute the definition, and can it learn?

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.check import oracle
from bench.check.compare import require, require_equal, require_finite
from bench.check.outcome import Failed, NotApplicable
from bench.check.subject import Subject, run
from bench.model import MoELayer
from bench.model.experts.mlp import MLPExperts


def definition(subject: Subject) -> str:
    """The layer gives what a plain loop over tokens and experts gives, and the same gradients."""
    subject = subject.resized(groups=2, tokens=9)
    layer = subject.layer().train()
    x = subject.tokens_of().requires_grad_()
    y, routing = run(layer, x)
    d, c = routing.dispatch_tensor(), routing.combine_tensor()
    expected = oracle.moe_output(d, c, x, plain_experts(layer))
    require_equal(y, expected, "y", "gtd", "the loop")
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)
    inputs = {"the input": x, **_trained(layer)}
    fast, slow = (
        torch.autograd.grad(
            (out * weight).sum(), list(inputs.values()), retain_graph=True, materialize_grads=True
        )
        for out in (y, expected)
    )
    for name, got, wanted in zip(inputs, fast, slow, strict=True):
        require_equal(got, wanted, f"gradient of {name}", "ijkl", "the loop")
    return ""


def plain_experts(layer: MoELayer) -> list[oracle.Expert]:
    """The layer's MLPs, each as a function of one vector."""
    experts = layer.experts
    assert isinstance(experts, MLPExperts)  # as `Subject.layer` builds them
    own = dict(experts.named_parameters())
    weights = (own["weight1"], own["bias1"][:, 0], own["weight2"], own["bias2"][:, 0])
    return [oracle.mlp(*parts, experts.activation) for parts in zip(*weights, strict=True)]


def gradient(subject: Subject) -> str:
    """Every parameter that should learn gets a gradient from the output, the gate's too."""
    layer = subject.layer().train()
    parameters = {name: p for name, p in layer.router.named_parameters() if p.requires_grad}
    if not parameters:
        raise NotApplicable("the router has no parameter that learns")
    total = torch.zeros((), dtype=torch.float64)
    for seed in range(3):
        y, _ = run(layer, subject.tokens_of(seed=seed), seed=seed)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
        total = total + (y * weight).sum()
    total.backward()
    for name, parameter in parameters.items():
        grad = parameter.grad
        if grad is None:
            raise Failed(f"parameter {name} gets no gradient from the output")
        require_finite(grad, f"the gradient of {name}")
        largest = float(grad.abs().max())
        # What cancels leaves rounding errors of about 1e-16.
        require(largest > 1e-12, f"the gradient of {name} is 0 (at most {largest:.1g} in size)")
    names = ", ".join(parameters)
    return f"gradient reaches {names}"


def _trained(layer: MoELayer) -> dict[str, Tensor]:
    return {name: p for name, p in layer.named_parameters() if p.requires_grad}
