"""Dropless experts as grouped products: the result of slots and bmm, without padding."""

import pytest
import torch
from torch.nn import functional as F

from bench.check.cases import Subject, normal
from bench.compute import FlopCounter
from bench.model import forward_pass
from bench.model.experts.packed import Packed, has_grouped_products, packed_dtype
from routers import ROUTERS, TokenChoiceRouting

DROPLESS = {"softmax_token_choice": {"capacity_factor": None, "top_k": 2}, "top_p": {}, "relu": {}}

pytestmark = pytest.mark.skipif(
    not hasattr(F, "grouped_mm"), reason="torch has grouped products from 2.10 on"
)


@pytest.fixture
def grouped(monkeypatch):
    """Treat the CPU as a GPU that has grouped products."""
    monkeypatch.setattr("bench.model.experts.packed.has_grouped_products", lambda device: True)


def passed(name, dtype=torch.bfloat16):
    """Return a layer's output under autocast, its gradients, its FLOPs and its routing."""
    subject = Subject(ROUTERS.get(name), DROPLESS[name])
    layer = subject.layer(dtype=torch.float32).train()
    x = subject.tokens_of().float().requires_grad_()
    with forward_pass(layer) as routings, FlopCounter() as counter:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            y = layer(x)
        (y * normal(*y.shape, seed=3, dtype=y.dtype)).sum().backward()
    grads = {key: weight.grad for key, weight in layer.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **grads}, counter, routings[0]


@pytest.mark.parametrize("name", DROPLESS)
def test_grouped_products_give_the_same_as_slots(name, request):
    whole, _, _ = passed(name, torch.float32)
    slots, _, _ = passed(name)
    request.getfixturevalue("grouped")
    rows, counter, routing = passed(name)
    assert routing.dropless
    for key, expected in whole.items():
        scale = expected.norm() + 1e-6
        assert (rows[key] - expected).norm() / scale < 2**-5, key
        assert (rows[key] - slots[key]).norm() / scale < 2**-5, key
    assert not counter.uncounted


def test_flops_count_the_choices_and_not_padded_slots(grouped):
    _, counter, routing = passed("softmax_token_choice")
    choices = routing.experts.numel()
    assert routing.slot_count > choices  # what padding would cost
    # Two 8 by 16 products per row, once forward and twice backward, and those of the gate.
    experts = 3 * 2 * 2 * choices * 8 * 16
    combining = 2 * 2 * choices * 8
    gate = 3 * 2 * 3 * 16 * 8 * 4
    assert counter.by_kind["matmul"] == pytest.approx(experts + combining + gate, rel=0.02)


def test_rows_are_packed_by_hand():
    experts = torch.tensor([[[1, 0], [0, 1], [1, 0]]])
    chosen = torch.tensor([[[True, True], [True, False], [True, False]]])
    gates = torch.full((1, 3, 2), 0.5)
    routing = TokenChoiceRouting.from_choices(gates, experts, gates, None, chosen=chosen)
    packed = Packed.of(routing)
    assert packed.token_of_row.tolist() == [0, 1, 0, 2, 3, 3]  # 3 is no token
    assert packed.row_of_choice.tolist() == [[2, 0], [1, 6], [3, 6]]  # 6 is no row
    assert packed.ends.tolist() == [2, 4]
    assert packed.expert_of_row[:4].tolist() == [0, 0, 1, 1]
    assert packed.unused.flatten().tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("name", "options", "served"),
    [
        ("softmax_token_choice", {"capacity_factor": None}, True),
        ("softmax_token_choice", {}, False),  # a capacity drops
        ("moce_ir", {}, False),
        ("mixer", {}, False),
        ("soft_moe", {}, False),
    ],
)
def test_grouped_products_are_used_only_for_dropless_routings_in_bfloat16(
    name, options, served, grouped
):
    subject = Subject(ROUTERS.get(name), options)
    layer, x = subject.layer(dtype=torch.float32), subject.tokens_of().float()
    routing = layer.router(x)
    assert packed_dtype(routing, x, 16) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert packed_dtype(routing, x, 16) == (torch.bfloat16 if served else None)
        assert packed_dtype(routing, x, 15) is None  # not aligned
        assert packed_dtype(routing, x[:0], 16) is None


def test_a_cpu_uses_slots():
    assert not has_grouped_products(torch.device("cpu"))
