"""A token that no expert takes passes unchanged through the residual, and is counted."""

import pytest
import torch

from bench.model import forward_pass
from suites.balance import LayerCounts
from tests.bench.model.test_moe import ROUTED, layer_of

COVERED = {
    *("soft_moe", "softmax_mixture", "attentive", "mumoe", "smear", "moce_ir", "mixer"),
    *("base", "top_p", "dselect_k"),
}
"""Routers that leave no token out by definition."""


def scarce(name, training):
    """Return a layer with a third of the required capacity, or a threshold that few tokens pass."""
    torch.manual_seed(3)
    layer = layer_of(name, experts=4, tokens=12, capacity_factor=0.3, expansion=12, top_k=1)
    for buffer, value in layer.router.named_buffers():
        if buffer in ("threshold", "updates"):
            value.fill_(1)
    if name == "dynmoe":
        torch.nn.init.constant_(layer.router.thresholds, 0.4)
    return layer.train(training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ROUTED)
def test_an_uncovered_token_passes_through_and_is_counted(name, training):
    layer = scarce(name, training)
    x = torch.randn(2, 12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    with forward_pass(layer, generator=torch.Generator().manual_seed(2)) as routings:
        block = x + layer(x)
    routing = routings[0]
    taken = routing.dispatch_tensor().ne(0).any(-1).any(-1).view(2, 12)
    assert block[~taken].equal(x[~taken])
    assert routing.token_coverage().view(2, 12).ne(0).equal(taken)
    counts = LayerCounts(4)
    counts.add(routing)
    assert counts.coverage[0] == (~taken).sum()
    uncovered = {metric.name: metric.value for metric in counts.metrics()}["uncovered"]
    assert uncovered == (~taken).sum() / 24
    # In evaluation DynMoE takes the best expert if none passes.
    everywhere = name in COVERED or (name == "dynmoe" and not training)
    assert bool(taken.all()) == everywhere
